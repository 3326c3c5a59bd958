"""Reports are one file without network access, with figures as files and n for each accuracy."""

import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest

from bat_jax.attacks.versions import STANDARD
from bat_jax.errors import UserError
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, GROUPS, Measure, percent
from bat_jax.evaluation.runs import read
from bat_jax.methods import WEIGHT_BINS
from bat_jax.report import charts, compare, comparison, groups, report, single
from bat_jax.report.__main__ import main
from bat_jax.report.command import finish
from bat_jax.report.drawing import Figure
from bat_jax.report.style import DARK, LIGHT, Chart, render
from bat_jax.runtime.parser import Parser
from tests.report.browser import CHROMIUM, browsing

BAT_FIGURES = {
    "accuracy_by_epoch",
    "loss_by_epoch",
    "weights_by_epoch",
    "trade_off",
    "typicality",
    "proxies",
    "triplets",
    "most_weighted_down",
    "most_memorized",
}


@pytest.fixture(scope="module")
def page(runs):
    return report(runs[0])


def test_the_page_shows_every_accuracy_with_its_n_and_interval(page):
    text = page.read_text()
    results = json.loads((page.parent / "results.json").read_bytes())
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', text)
    found = 0
    for state in ("best", "last"):
        for group in ("", "typical", "atypical"):
            test = results[state]["test"]
            for name, value in (test[group] if group else test).items():
                if name in ("typical", "atypical"):
                    continue
                low, high = value["interval"]
                cells = f"<td>{value['n']}</td><td>{percent(value['accuracy'])}</td>"
                cells += f"<td>{percent(low)} to {percent(high)}</td>"
                assert any(state in row and row.endswith(cells) for row in rows), (state, name)
                found += 1
    assert found == 12


def test_every_figure_is_on_the_page_with_words_and_as_files(page):
    text = page.read_text()
    assert set(re.findall(r'<figure class="card" id="(\w+)">', text)) == BAT_FIGURES
    assert {path.stem for path in (page.parent / "figures").glob("*.png")} == BAT_FIGURES
    assert {path.stem for path in (page.parent / "figures").glob("*.svg")} == BAT_FIGURES
    alts = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', text)
    assert len(alts) == len(BAT_FIGURES)
    assert all(len(html.unescape(alt)) > 20 for alt in alts)


def test_the_page_fetches_nothing(page):
    places = re.findall(r'(?:src|srcset|href)="([^"]{0,5})', page.read_text())
    assert places
    assert set(places) == {"data:"}


def test_the_histogram_of_weights_sums_to_one_and_falls_below_after_the_start(runs):
    run = read(runs[0])
    shares = np.asarray([run.series("train", name)[1] for name in WEIGHT_BINS])
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    epochs = np.asarray(run.series("train", WEIGHT_BINS[-1])[0])
    # Weights apply from epoch 1 on; until then each is 1 and lies in the last bin.
    np.testing.assert_allclose(shares[-1][epochs <= 1], 1, rtol=1e-6)
    assert shares[-1][epochs > 1].max() < 1


def test_a_figure_is_the_same_file_each_time_and_follows_the_theme():
    def draw(figure):
        axes = figure.subplots()
        for number in range(len(LIGHT.colors)):
            axes.plot([0, 1], [2, number])

    chart = Chart("line", "Line", "A line.", "", draw)
    files = render(chart)
    assert render(chart) == files
    for theme, other, svg in ((LIGHT, DARK, files.light), (DARK, LIGHT, files.dark)):
        assert all(color in svg.lower() for color in theme.palette())
        assert not any(color in svg.lower() for color in other.palette())
    assert files.png[:4] == b"\x89PNG"


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_its_checkpoints_is_reported_without_pictures(runs, tmp_path, caplog):
    shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    text = report(tmp_path / "run").read_text()
    assert "no pictures" in caplog.text
    assert "checkpoints" in caplog.text
    assert 'id="trade_off"' in text
    assert 'id="triplets"' not in text


@pytest.mark.usefixtures("undrawn")
def test_the_report_of_a_run_without_attacks_says_so(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    results = json.loads((folder / "results.json").read_bytes())
    for state in ("best", "last"):
        test = results[state]["test"]
        clean = {group: {"clean": test[group]["clean"]} for group in ("typical", "atypical")}
        results[state]["test"] = {"clean": test["clean"], **clean}
    (folder / "results.json").write_text(json.dumps(results))
    text = report(folder).read_text()
    assert "No attack was run" in text
    assert 'id="trade_off"' not in text


@pytest.mark.usefixtures("undrawn")
def test_runs_are_compared_side_by_side_and_image_by_image(runs, tmp_path):
    text = compare(runs, tmp_path / "both").read_text()
    assert (tmp_path / "both" / "figures" / "trade_off.png").exists()
    bat, pgd_at = (read(folder).examples["best_pgd2"] for folder in runs)
    row = re.search(r'<th scope="row">pgd_at, best, PGD-2</th>(.*?)</tr>', text)
    cells = re.findall(r"<td>(.*?)</td>", row[1])
    assert cells[:3] == ["449", str((bat & ~pgd_at).sum()), str((~bat & pgd_at).sum())]
    # Only the differences of their configs are shown.
    settings = text[text.index("<h2>Settings</h2>") :]
    assert re.findall(r'<th scope="row">(.*?)</th>', settings) == ["objective.name"]


def test_fields_that_an_older_version_lacks_have_their_defaults(runs, tmp_path):
    content = json.loads((runs[1] / "config.json").read_bytes())
    del content["config"]["train"]["ema"], content["config"]["data"]["cutmix"]
    folder = tmp_path / "older"
    shutil.copytree(runs[1], folder, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    (folder / "config.json").write_text(json.dumps(content))
    (section,) = comparison._settings([read(runs[0]), read(folder)], ["one", "two"])
    assert [row[0] for row in section.tables[0].rows] == ["objective.name"]


def test_a_sampled_accuracy_is_named_and_not_compared_image_by_image(runs):
    run = read(runs[0])
    results = json.loads(json.dumps(run.results))
    examples = dict(run.examples)
    for state in ("best", "last"):
        results[state]["test"]["autoattack"] = results[state]["test"]["pgd2"]
        examples[f"{state}_autoattack"] = examples[f"{state}_pgd2"]
    exact = dataclasses.replace(run, results=results, examples=examples)
    sample = {"attacks": ["square"], "images": 9, "drawn": 5, "broken": 0, "interval": [0.1, 0.2]}
    results = {**results, "best": {**results["best"], "sample": sample}}
    sampled = dataclasses.replace(exact, results=results)

    def measures(*found):
        (section,) = comparison._pairs(found, ["one", "two"], AUTOATTACK)
        return [row[0] for row in section.tables[0].rows]

    assert measures(exact, exact) == ["two, best, clean", "two, best, AutoAttack"]
    assert measures(exact, sampled) == measures(sampled, exact) == ["two, best, clean"]
    table = comparison._results([exact, sampled], ["one", "two"], AUTOATTACK)
    named = [row[0] for row in table.rows if any("(sampled)" in cell for cell in row)]
    assert named == ["two, best"]
    for found, title in (
        ([sampled], "AutoAttack (some sampled)"),
        ([_changed(sampled, without=("last",))], "AutoAttack (sampled)"),
        ([exact], "AutoAttack"),
    ):
        chart = charts.trade_off(found, ["one"])
        figure = Figure(layout="constrained")
        chart.draw(figure)
        assert figure.axes[0].get_ylabel() == f"accuracy under {title} (%)"
        assert chart.caption.endswith(f"evaluated with {title}.")
        assert (", AutoAttack (sampled) " in chart.alt) == ("sampled" in title)
    with_groups = _changed(sampled, ("best",))
    assert "one, AutoAttack (sampled): typical" in charts.typicality([with_groups], ["one"]).alt


def test_the_page_says_which_images_were_left_out_and_tested_on(runs):
    run = read(runs[0])
    assert single.facts(run)["Data"] == "digits, 256 training images, 32 held out for validation"
    data = {**run.config["data"], "exclude": "ids.txt", "tested": 500}
    held_out = dataclasses.replace(run, config={**run.config, "data": data})
    assert single.facts(held_out)["Data"] == (
        "digits, 256 training images without those of ids.txt, 32 held out for validation, tested"
        " on 449 held-out training images"
    )
    assert single.results_table(run).caption.startswith("Accuracy on the test images;")
    caption = single.results_table(held_out).caption
    assert caption.startswith("Accuracy on the held-out training images;")
    table = comparison._results([run, held_out], ["one", "two"], CLEAN)
    assert "on the test or held-out training images;" in table.caption
    chart = charts.trade_off([held_out], ["one"])
    assert "over the held-out training images" in chart.caption


def _changed(run, attacked=(), *, without=(), **examples):
    """Returns a run with AutoAttack on some checkpoints, without others, and other verdicts."""
    results = json.loads(json.dumps(run.results))
    found = {**run.examples, **examples}
    for state in attacked:
        found[f"{state}_autoattack"] = found[f"{state}_pgd2"]
        test = results[state]["test"]
        for part in (test, test["typical"], test["atypical"]):
            part["autoattack"] = part["pgd2"]
    kept = {name: value for name, value in results.items() if name not in without}
    return dataclasses.replace(run, results=kept, examples=found)


def test_autoattack_on_the_first_checkpoint_alone_is_what_runs_are_compared_under(runs):
    one, two = (_changed(read(folder), ("best",)) for folder in runs)
    assert charts.common_attack([one, two]) == AUTOATTACK
    page = comparison._page([one, two], ["one", "two"])
    results, pairs = page.sections[:2]
    assert not results.text
    assert "AutoAttack, typical" in results.tables[0].header
    column = results.tables[0].header.index("AutoAttack")
    cells = {row[0]: row[column] for row in results.tables[0].rows}
    assert cells["two, last"] == "not measured" != cells["two, best"]
    assert [row[0] for row in pairs.tables[0].rows] == ["two, best, clean", "two, best, AutoAttack"]
    trade_off, typicality = results.charts
    assert "one, best: clean" in trade_off.alt
    assert "one, last" not in trade_off.alt
    assert "two, AutoAttack: typical" in typicality.alt


def test_the_autoattack_of_one_run_is_shown_beside_the_common_attack(runs):
    one, two = _changed(read(runs[0]), ("last",)), read(runs[1])
    assert charts.common_attack([one, two]) == Measure.pgd(2)
    results = comparison._page([one, two], ["one", "two"]).sections[0]
    assert "Not every run was evaluated with AutoAttack" in results.text[0]
    assert {"PGD-2", "AutoAttack"} <= set(results.tables[0].header)


def test_runs_without_common_images_or_attacks_are_not_compared_image_by_image(runs):
    one, two = map(read, runs)
    apart = _changed(two, ids=two.examples["ids"] + 10_000)
    sections = comparison._pairs([one, apart], ["one", "two"], Measure.pgd(2))
    assert [section.text for section in sections] == [("two and one have no common test images.",)]
    assert not sections[0].tables
    (both,) = comparison._pairs([one, apart, two], ["one", "two", "three"], Measure.pgd(2))
    assert both.text[-1] == "two and one have no common test images."
    assert {row[0].split(",")[0] for row in both.tables[0].rows} == {"three"}
    later = _changed(two, ("last",), without=("best",))
    (both,) = comparison._pairs([_changed(one, ("best",)), later], ["one", "two"], AUTOATTACK)
    assert [row[0] for row in both.tables[0].rows] == ["two, last, clean"]


def test_typicality_names_numbers_of_images_and_checkpoints_that_differ(runs):
    one, two = map(read, runs)

    def drawn(*found):
        chart = charts.typicality(found, ["one", "two"])
        figure = Figure(layout="constrained")
        chart.draw(figure)
        return chart, [text.get_text() for text in figure.legends[0].get_texts()]

    chart, same = drawn(one, two)
    typical, atypical = (one.evaluations["best"].groups[group][CLEAN].n for group in GROUPS)
    assert same == [f"typical (n = {typical})", f"atypical (n = {atypical})"]
    assert chart.caption.startswith("Checkpoint: best. ")
    fewer = _changed(two, without=("best",))
    for value in fewer.results["last"]["test"]["typical"].values():
        value["n"] = 9
    chart, differ = drawn(one, fewer)
    assert differ == [f"typical (n = 9 to {typical})", f"atypical (n = {atypical})"]
    assert "one, best, clean: typical" in chart.alt
    assert "two, last, clean: typical" in chart.alt
    assert "Checkpoint" not in chart.caption


def _of_file(run):
    """Returns a run as if its best weights were those of a file, whose training is unknown."""
    config = {**run.config, "objective": {"name": "standard"}}
    about = {**run.about, "data": {**run.about["data"], "weights": "abc"}}
    results = {"seconds": 0.0, "weights": run.results["best"]}
    examples = {
        name.replace("best_", "weights_"): value
        for name, value in run.examples.items()
        if not name.startswith("last_")
    }
    return dataclasses.replace(
        run, config=config, about=about, results=results, records=(), examples=examples
    )


def test_the_weights_of_a_file_are_compared_without_a_training(runs):
    run, weights = read(runs[0]), _of_file(read(runs[1]))
    page = comparison._page([run, weights], ["one", "two"])
    assert page.facts["two"].startswith("the weights of a file (content abc) on digits, Linf 0.1")
    assert [section.title for section in page.sections] == ["Results", "Image by image"]
    rows = page.sections[1].tables[0].rows
    assert [row[0] for row in rows] == [
        f"two, weights against best, {n}" for n in ("clean", "PGD-2")
    ]
    tests = run.examples["best_clean"], weights.examples["weights_clean"]
    assert rows[0][2] == str((tests[0] & ~tests[1]).sum())
    # What differs between trained runs beside it is shown, without the weights' placeholder.
    (settings,) = comparison._settings([run, weights, read(runs[1])], ["one", "two", "three"])
    (row,) = settings.tables[0].rows
    assert row == ("objective.name", "bat", "", "pgd_at")


def test_markers_are_explained_where_both_checkpoints_are_plotted(runs):
    run = read(runs[0])

    def caption(one):
        return charts.trade_off([one], ["one"]).caption

    assert "Filled markers: the best checkpoint; open markers: the last." in caption(run)
    assert "markers" not in caption(_changed(run, without=("last",)))
    assert "markers" not in caption(_of_file(run))
    both = charts.trade_off([run, _of_file(run)], ["one", "two"])
    assert "the best checkpoint or the weights of a file; open markers: the last" in both.caption
    figure = Figure()
    charts.trade_off([_of_file(run)], ["one"]).draw(figure)
    assert figure.axes[0].containers[0].lines[0].get_markerfacecolor() != "none"


def test_a_training_attack_is_named_only_if_it_took_place(runs):
    run = read(runs[0])
    assert single.facts(run)["Attack"] == "Linf, epsilon 0.1; in training 2 steps of 0.05"
    evaluation = dataclasses.replace(run, records=())
    standard = dataclasses.replace(
        run, config={**run.config, "objective": {**run.config["objective"], "name": "standard"}}
    )
    for one in (evaluation, standard):
        assert single.facts(one)["Attack"] == "Linf, epsilon 0.1"


def _by(run, *attacks):
    """Returns a run with some attacks of AutoAttack on its best checkpoint."""
    attacked = _changed(run, ("best",))
    attacked.results["best"]["broken_by"] = dict.fromkeys(attacks, 1)
    return attacked


def test_fewer_attacks_than_the_standard_ones_are_named_wherever_autoattack_is(runs):
    run = read(runs[0])
    whole, one = _by(run, *STANDARD), _by(run, "apgd-ce")
    assert "does not establish" not in single.robustness_note(whole)
    assert single.robustness_note(one) == (
        "Robust accuracy is accuracy under these attacks of AutoAttack alone, per image the worst"
        " case: apgd-ce. Without the other standard ones, apgd-t, fab-t, square, it does not"
        " establish robustness."
    )
    assert "best, AutoAttack (apgd-ce)" in [row[0] for row in single.results_table(one).rows]

    def words(*found):
        return comparison._cautions(found, ["one", "two"], AUTOATTACK)

    assert words(whole, whole) == []
    (text,) = words(whole, one)
    assert "different attacks: one: apgd-ce, apgd-t, fab-t, square; two: apgd-ce." in text
    assert words(one, one) == [
        "AutoAttack did not run all its standard attacks (one: apgd-ce; two: apgd-ce), so it does"
        " not establish robustness."
    ]
    chart = charts.trade_off([whole, one], ["one", "two"])
    assert chart.caption.endswith("evaluated with AutoAttack (of different attacks).")


def test_other_groups_of_images_are_not_compared_without_a_word(runs):
    one, two = map(read, runs)

    def words(changed):
        return comparison._cautions([one, changed], ["one", "two"], AUTOATTACK)

    assert words(two) == []
    settings = {**two.config["memorization"], "threshold": 0.5}
    higher = dataclasses.replace(two, config={**two.config, "memorization": settings})
    data = {**two.about["data"], "estimates": "other"}
    for changed in (higher, dataclasses.replace(two, about={**two.about, "data": data})):
        assert words(changed)[0].startswith("These runs split typical and atypical images differ")
    table = comparison._results([one, two], ["one", "two"], Measure.pgd(2))
    number = table.header.index("clean, typical")
    n = one.evaluations["best"].groups["typical"][CLEAN].n
    assert table.rows[0][number].endswith(f", n = {n}")


def test_intervals_of_samples_are_explained_wherever_they_are_shown(runs):
    run = _by(read(runs[0]), *STANDARD)
    best = run.results["best"]
    best["by"] = {"class": {"0": best["test"], "1": best["test"]}}
    best["by"]["class"] = {
        name: {key: value for key, value in found.items() if key not in GROUPS}
        for name, found in best["by"]["class"].items()
    }
    sample = {"attacks": ["square"], "images": 9, "drawn": 5, "broken": 0, "interval": [0.1, 0.2]}
    sampled = dataclasses.replace(run, results={**run.results, "best": {**best, "sample": sample}})

    def captions(one):
        (section,) = groups.sections(one)
        return [
            single.results_table(one).caption,
            comparison._results([one, one], ["one", "two"], AUTOATTACK).caption,
            charts.trade_off([one], ["one"]).caption,
            charts.typicality([one], ["one"]).caption,
            section.tables[0].caption,
            section.charts[0].caption,
        ]

    words = "Wilson intervals. Those of sampled accuracies also cover the images not attacked by"
    assert not any("sampled" in caption for caption in captions(run))
    for caption in captions(sampled):
        assert words in caption.replace(" over the test images", "")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "x: stopped; run the same command again"),
        (MemoryError(), 1, "x: out of memory (MemoryError); end other programs"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), 1, "(RESOURCE_EXHAUSTED: Out of mem"),
    ],
)
def test_a_page_that_is_stopped_or_lacks_memory_ends_in_one_line(error, status, words, capsys):
    def fail():
        raise error

    assert finish(Parser("python -m x"), fail, "page") == status
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert words in line


def test_an_error_of_the_program_itself_is_raised():
    with pytest.raises(ZeroDivisionError):
        finish(Parser("python -m x"), lambda: 1 // 0, "page")


@pytest.mark.usefixtures("undrawn")
def test_the_command_names_the_page_and_refuses_unfinished_runs(runs, tmp_path, capsys):
    assert main([*map(str, runs), f"--output={tmp_path / 'both'}"]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'both' / 'report.html'}\n"
    assert main([str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    shutil.copy(runs[0] / "config.json", tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 2
    assert "expected a finished run" in capsys.readouterr().err
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="has no seconds; expected one"):
        report(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_only_different_finished_trainings_are_compared(runs, tmp_path):
    with pytest.raises(UserError, match="is named twice"):
        compare([runs[0], runs[0].parent / "." / "bat"], tmp_path / "both")
    with pytest.raises(UserError, match="is a run itself; expected another folder"):
        compare(runs[:2], runs[0])
    ensemble = tmp_path / "ensemble"
    ensemble.mkdir()
    config = json.loads((runs[0] / "config.json").read_text())
    config["config"]["job"] = "memorization"
    (ensemble / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is a run of the job memorization; expected training or"):
        compare([runs[0], ensemble], tmp_path / "both")
    ignore = shutil.ignore_patterns("checkpoints", "figures")
    for parent in ("a", "b"):
        shutil.copytree(runs[0], tmp_path / parent / "one" / "run", ignore=ignore)
    text = compare([tmp_path / p / "one" / "run" for p in "ab"], tmp_path / "both").read_text()
    assert "Comparison: a/one/run, b/one/run" in text


@pytest.mark.usefixtures("undrawn")
def test_a_page_that_cannot_be_written_is_one_line_that_names_the_flag(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(runs[1]), f"--output={tmp_path / 'file'}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith("Not a directory; name another folder with --output")
    assert main([str(runs[1]), "--output="]) == 2
    assert capsys.readouterr().err == "bat_jax.report: --output is empty; expected a folder\n"


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_a_read_only_run_goes_elsewhere(runs, tmp_path):
    ignore = shutil.ignore_patterns("checkpoints", "figures")
    shutil.copytree(runs[1], tmp_path / "run", ignore=ignore)
    (tmp_path / "run" / "report.html").unlink(missing_ok=True)
    assert report(tmp_path / "run", tmp_path / "page") == tmp_path / "page" / "report.html"
    assert (tmp_path / "page" / "figures" / "trade_off.png").exists()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_unknown_method_is_shown_by_its_name(runs, tmp_path):
    folder = tmp_path / "run"
    ignore = shutil.ignore_patterns("checkpoints", "figures")
    shutil.copytree(runs[1], folder, ignore=ignore)
    about = json.loads((folder / "config.json").read_bytes())
    about["config"]["objective"]["name"] = "my_lab.mail:Mail"
    (folder / "config.json").write_text(json.dumps(about))
    assert "my_lab.mail:Mail" in report(folder).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1200])
def test_a_browser_shows_it_without_an_error_or_a_request(page, tmp_path, width, dark):
    with browsing(tmp_path / "profile") as browser:
        browser.open(page, width=width, dark=dark)
        urls = [event["request"]["url"] for event in browser.of_kind("Network.requestWillBeSent")]
        assert page.resolve().as_uri() in urls
        assert {url.partition(":")[0] for url in urls} == {"file", "data"}
        for kind in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            assert browser.of_kind(kind) == []
        images = "[...document.images].filter(image => image.naturalWidth > 0).length"
        assert browser.evaluate(images) == len(BAT_FIGURES)
        # The page is as wide as the screen: only tables may scroll sideways.
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        source = browser.evaluate("document.querySelector('#trade_off img').currentSrc")
        light = browser.evaluate("document.querySelector('#trade_off img').src")
        assert (source == light) != dark
