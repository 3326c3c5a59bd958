"""Findings make every run once, resume after a kill, and write one page."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from bat_jax.attacks.sampling import Sample
from bat_jax.errors import UserError
from bat_jax.evaluation.runs import read
from bat_jax.evaluation.statistics import holm
from bat_jax.evaluation.tracking import SETS
from bat_jax.findings.cost import describe_findings
from bat_jax.findings.summary import summarize
from bat_jax.jobs import findings
from bat_jax.report import findings as findings_page
from bat_jax.report import report
from bat_jax.runtime.files import write_json, write_npz
from tests.conftest import sketched
from tests.report.browser import CHROMIUM, browsing

ROOT = Path(__file__).parents[2]
PILOT = ROOT / "docs" / "results" / "fashion_mnist.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, findings_config):
    folder = tmp_path_factory.mktemp("findings") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # The arms share most of their programs, and so do other tests.
        patch.setattr(jax, "clear_caches", lambda: None)
        return folder, findings(findings_config(), folder), findings_config()


def test_every_run_is_made_and_counted(finished):
    folder, summary, _ = finished
    names = {path.name for path in (folder / "runs").iterdir()}
    assert names == {
        "bat-seed0",
        "pgd_at-seed0",
        "pgd_at-without-100%-atypical-seed0",
        "pgd_at-without-100%-random-seed0",
    }
    assert json.loads((folder / "results.json").read_bytes()) == summary
    assert summary["accuracies"]["bat"]["best"]["all"]["clean"]["images"] == 449
    removed = summary["removal"][0]["removed"]
    ids = (folder / "excluded" / "pgd_at-without-100%-atypical-seed0.txt").read_text().split()
    assert len(ids) == removed > 0
    # The rules need intervals over several seeds; one epoch does not fit the data.
    assert {claim["verdict"] for claim in summary["claims"][1:]} == {"undecided"}
    assert summary["claims"][0]["verdict"] == "refuted"


def test_differences_are_those_of_the_runs(finished):
    folder, summary, _ = finished
    bat, pgd_at = (read(folder / "runs" / f"{name}-seed0") for name in ("bat", "pgd_at"))
    row = next(r for r in summary["methods"] if (r["against"], r["state"]) == ("pgd_at", "last"))
    ours, theirs = (run.examples["last_pgd2"] for run in (bat, pgd_at))
    assert row["pgd2"]["mean"] == pytest.approx(ours.mean() - theirs.mean())
    assert row["pgd2"]["mcnemar"][0]["only_first"] == (ours & ~theirs).sum()


def test_the_p_values_of_all_arms_of_bat_are_adjusted_together(finished, findings_config):
    folder, summary, _ = finished
    # Twice the same seed, so that differences have small p values.
    arms = {name: [read(folder / "runs" / f"{name}-seed0")] * 2 for name in summary["accuracies"]}
    fields = {"findings.methods": ("pgd_at", "bat", "again"), "findings.seeds": (0, 1)}
    config = findings_config(**fields)
    config.findings.arms = ConfigDict({"again": {"objective": {"name": "bat"}}})
    sizes = {name: 1 for name in arms if "without" in name}
    rows = summarize(config, {**arms, "again": arms["bat"]}, sizes)["methods"]
    best = [row for row in rows if row["state"] == "best"]
    tests = [row[measure] for row in best for measure in ("clean", "pgd2")]
    assert len(tests) == 6
    expected = holm([test["p_value"] for test in tests])
    assert [test["p_holm"] for test in tests] == expected
    assert min(expected) < 1


@pytest.fixture
def sampled(finished, findings_config, tmp_path):
    """Returns a summary of the same runs, as if AutoAttack had drawn 10 of 40 images in each."""
    folder, summary, _ = finished
    sample = {"attacks": ["square"], "images": 40, "drawn": 10, "broken": 1}
    arms = {}
    for name in summary["accuracies"]:
        run = tmp_path / name
        shutil.copytree(folder / "runs" / f"{name}-seed0", run)
        results = json.loads((run / "results.json").read_bytes())
        best = results["best"]
        for group in (best["test"], best["test"]["typical"], best["test"]["atypical"]):
            group["autoattack"] = group["pgd2"]
        best["sample"] = {**sample, "interval": [0.5, 0.52]}
        best["broken_by"] = {"apgd-ce": 5, "square": 1}
        write_json(run / "results.json", results)
        with np.load(run / "examples.npz") as file:
            examples = {**file, "best_autoattack": file["best_pgd2"]}
        write_npz(run / "examples.npz", examples)
        arms[name] = [read(run)]
    config = findings_config(
        **{
            "evaluation.attacks": ("apgd-ce", "square"),
            "evaluation.attacked": ("best",),
            "evaluation.tolerance": 0.02,
        }
    )
    return summarize(config, arms, {name: 1 for name in arms if "without" in name})


def test_sampled_verdicts_are_not_tested_image_by_image(sampled):
    rows = {row["state"]: row for row in sampled["methods"]}
    assert "mcnemar" not in rows["best"]["autoattack"]
    assert len(rows["best"]["clean"]["mcnemar"]) == len(rows["last"]["pgd2"]["mcnemar"]) == 1
    expected = {"attacks": ["square"], "images": 160, "drawn": 40, "broken": 4}
    assert sampled["sampled"] == {**expected, "widest": pytest.approx(0.02)}


def test_the_page_says_that_verdicts_are_sampled(sampled):
    (text,) = findings_page.sampled(sampled)
    assert "square were run on 40 of the 160 images" in text
    assert "and broke 4." in text
    assert "at most 2.0 points wide" in text
    verdicts = findings_page._verdicts({**sampled, "claims": []})
    assert verdicts.text[-1].startswith("AutoAttack ran apgd-ce, square alone: without its")
    rows = findings_page.pair_table(sampled, "methods").rows
    sampled_row = "pgd_at, best, AutoAttack (apgd-ce, square; sampled)"
    assert [row[3] for row in rows if row[0] == sampled_row] == ["not tested"]


def test_a_tolerance_lowers_the_predicted_cost(findings_config, monkeypatch):
    monkeypatch.setattr("bat_jax.findings.cost._rate", lambda experiment: 1e9)
    fields = {
        "evaluation.attacks": ("apgd-ce", "square"),
        "evaluation.attacked": ("best",),
        "findings.expected_robust": 0.5,
    }

    def expected(tolerance):
        config = findings_config(**fields, **{"evaluation.tolerance": tolerance})
        found = re.search(r"robust accuracy of 50 %: ([\d.]+) TFLOP", describe_findings(config))
        return float(found[1])

    # Half of 449 images withstand it: 100 steps and the start, each a forward and a backward pass,
    # and 5,000 queries and the start, on all or on as many as an interval of 10 points takes.
    population = Sample.of(("square",), np.arange(224), 0.95)
    drawn = population.needed(0.1 * 449)
    ratio = (224.5 * 202 + drawn * 5001) / (224.5 * 5203)
    assert expected(0.1) / expected(None) == pytest.approx(ratio, rel=2e-3)


def test_a_dry_run_states_the_cost_and_what_the_seeds_detect(findings_config, monkeypatch):
    # Without a timing, which compiles a step.
    monkeypatch.setattr("bat_jax.findings.cost._rate", lambda experiment: 1e9)
    config = findings_config(**{"findings.seeds": (0, 1, 2), "findings.pilot": str(PILOT)})
    text = describe_findings(config)
    assert re.search(r"in all: [\d.e-]+ PFLOP, \d+ minutes here", text)
    assert re.search(r"\(b\) 100 % .*, PGD-2, n = \d+: \d\.\d points \(spread .*pilot, 8 deg", text)
    assert "(c) bat minus pgd_at, last, clean, n = 449: " in text


def test_accuracy_is_tracked_by_typicality(finished):
    folder, summary, _ = finished
    run = read(folder / "runs" / "pgd_at-seed0")
    for name in SETS:
        epochs, accuracies = run.series(name, "clean")
        assert epochs == [1.0]
        assert summary["curves"]["pgd_at"][name]["clean"][0]["mean"] == accuracies[-1]
    assert read(folder / "runs" / "bat-seed0").series("test_typical", "clean") == ([], [])


def test_finished_findings_are_not_made_again(finished):
    folder, summary, config = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert findings(config, folder) == summary
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    # The lock is opened, nothing is written.
    assert {path for path in after if after[path] != before.get(path)} <= {folder / ".lock"}


@pytest.mark.parametrize(
    ("field", "value"), [("findings.seeds", (0, 1)), ("memorization.members", 7)]
)
def test_another_config_is_refused(finished, findings_config, field, value):
    folder, _, _ = finished
    with pytest.raises(UserError, match=field):
        findings(findings_config(**{field: value}), folder)


def _robust(**sections):
    return {"findings": {"robust_ensemble": sections}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation": {"subset": 449}}, "is 449, which tests on all of the 449 test images with"),
        ({"findings": {"robust_estimates": "FILE"}}, "estimates from clean images with 10 blocks"),
        (_robust(memorization={"influence": "none"}), "robust_ensemble has memorization.influence"),
        (_robust(memorization={"test_images": 9}), "which tests on all of the 9 test images with"),
        (
            _robust(data={"subset": 2000}),
            "config.data.subset 2000; expected together at most the 1348",
        ),
        ({"memorization": {"threshold": 0.95}}, "0 of the 1316 training images of this config and"),
        (
            {
                "memorization": {"estimates": None},
                "findings": {"ensemble": {"memorization": {"influence": "none"}}},
            },
            "findings.ensemble has memorization.influence none; expected class or full",
        ),
    ],
)
def test_what_harmful_images_lack_is_refused_before_anything_trains(
    findings_config, estimates, tmp_path, monkeypatch, changes, words
):
    def train(*_, **__):
        raise AssertionError

    for job in ("memorize", "train_and_evaluate"):
        monkeypatch.setattr(f"bat_jax.jobs.trial.{job}", train)
    config = findings_config(**{"findings.harmful": (0.5,), "evaluation.subset": 100})
    with config.unlocked():
        config.update(changes)
    if config.findings.robust_estimates:
        config.findings.robust_estimates = estimates
    with pytest.raises(UserError) as caught:
        findings(config, tmp_path / "run")
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def page(finished):
    with pytest.MonkeyPatch.context() as patch:
        if CHROMIUM is None:
            patch.setattr("bat_jax.report.page.render", sketched)
        return report(finished[0])


def test_the_page_states_every_claim_with_its_numbers_and_the_failed_regime(finished, page):
    import html

    text = html.unescape(page.read_text()).replace("\N{NO-BREAK SPACE}", " ")
    for claim in finished[1]["claims"]:
        assert claim["statement"] in text
        assert claim["numbers"] in text
        assert claim["rule"] in text
    assert "The regime check failed" in text
    assert "these numbers do not establish robustness" in text
    for chart in ("pgd_at_train_by_epoch", "trade_off_best", "removal_robust", "triplets"):
        assert f'id="{chart}"' in text
        assert (page.parent / "figures" / f"{chart}.png").exists()
    assert set(re.findall(r'(?:src|srcset|href)="([^"]{0,5})', text)) == {"data:"}


def test_findings_without_variants_have_no_ablation():
    summary = json.loads(PILOT.read_text())
    assert findings_page._variants(summary)
    assert findings_page._variants({**summary, "variants": []}) == []


def test_removals_are_those_arms_that_leave_images_out_by_their_exact_part():
    summary = json.loads(PILOT.read_text())
    accuracies = {**summary["accuracies"], "pgd_at_awp": summary["accuracies"]["pgd_at"]}
    removal = [{**row, "part": 0.125} for row in summary["removal"]]
    section = findings_page._removal({**summary, "accuracies": accuracies, "removal": removal})
    assert all("pgd_at: " in chart.alt for chart in section.charts)
    assert all("pgd_at-without-" in chart.alt for chart in section.charts)
    assert not any("pgd_at_awp" in chart.alt for chart in section.charts)
    assert all(row[0].startswith("12.5 % removed") for row in section.tables[0].rows)


def test_the_page_says_that_held_out_training_images_were_tested():
    summary = {**json.loads(PILOT.read_text()), "tested": 1000}
    charts = findings_page._curves(summary).charts
    tables = findings_page._curves(summary).tables + findings_page._removal(summary).tables
    tables += (findings_page.accuracy_table(summary, ["bat"]),)
    assert all("held-out training images" in one.header[0] for one in tables)
    assert any("held-out training images by epoch" in chart.title for chart in charts)
    texts = findings_page._verdicts(summary).text + tuple(one.caption for one in tables)
    assert any("clean held-out training images" in text for text in texts)
    assert not any("test images" in text for text in texts)


def test_the_page_counts_the_seeds_of_its_numbers(monkeypatch):
    # Two of five seeds are still to be made.
    summary = json.loads(PILOT.read_text())
    monkeypatch.setattr(findings_page.runs, "read", lambda folder: None)
    monkeypatch.setattr(findings_page, "facts", lambda run: {"Training": "60 epochs, seed 0, 3 s"})
    monkeypatch.setattr(findings_page, "_memorized", lambda *_: [])
    settings = {"seeds": [0, 1, 2, 3, 4], "methods": ["bat"]}
    config = {"data": {"name": "gray"}, "findings": settings, "objective": {}}
    page = findings_page._page(Path("run"), config, summary)
    assert page.facts["Training"].startswith("60 epochs; 42 runs, 3 seed(s) each, ")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_a_browser_shows_the_findings_without_an_error_or_a_request(page, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.open(page, width=380)
        urls = [event["request"]["url"] for event in browser.of_kind("Network.requestWillBeSent")]
        assert {url.partition(":")[0] for url in urls} == {"file", "data"}
        for kind in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            assert browser.of_kind(kind) == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= 380


@pytest.mark.slow
def test_added_seeds_are_the_only_ones_to_run(tmp_path, findings_config):
    fields = {"findings.looks": (3, 4), "train.epochs": 1}
    findings(findings_config(**fields), tmp_path)
    report(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/results.json")}
    more = {**fields, "findings.seeds": (0, 1)}
    summary = findings(findings_config(**more), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 2 * len(before)
    assert summary["accuracies"]["bat"]["best"]["all"]["clean"]["n"] == 2
    assert summary["claims"][-1]["settled"].endswith("open until 4 seeds")
    assert json.loads((tmp_path / "results-1-seeds.json").read_text())["claims"]
    assert not (tmp_path / "report.html").exists()
    assert "open until 4 seeds" in report(tmp_path).read_text()
    assert findings(findings_config(**more), tmp_path) == summary


@pytest.mark.slow
def test_after_five_kills_it_ends_with_the_same_numbers_and_repeats_no_run(tmp_path, estimates):
    flags = (
        f"--config.memorization.estimates={estimates}",
        "--config.train.epochs=3",
        "--config.model.width=4",
        "--config.attack.num_steps=1",
        "--config.evaluation.num_steps=1",
        "--config.evaluation.track.images=8",
        "--config.checkpoint.every_epochs=1",
        "--config.findings.seeds=(0,)",
        "--config.findings.methods=('pgd_at', 'bat')",
        "--config.findings.tracked=('pgd_at',)",
        "--config.parallel.devices=1",
    )

    def start(folder):
        command = [sys.executable, str(ROOT / "launch.py"), f"--workdir={folder}", *flags]
        command.append(f"--config={ROOT}/configs/digits_findings.py")
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def results(folder):
        return {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/results.json")}

    folder, kept = tmp_path / "killed", {}
    for number in range(1, 6):
        process = start(folder)
        # Killed when the next run has begun, by SIGKILL and SIGTERM in turn.
        while process.poll() is None and len(list(folder.glob("runs/*/metrics.jsonl"))) < number:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        process.communicate()
        assert process.returncode != 0
        for path, written in kept.items():
            assert path.stat().st_mtime_ns == written
        kept = results(folder)
    process = start(folder)
    _, output = process.communicate()
    assert process.returncode == 0, output
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written
    whole = start(tmp_path / "whole")
    whole.communicate()
    ours, theirs = (
        json.loads((place / "results.json").read_bytes()) for place in (folder, tmp_path / "whole")
    )
    assert len(list(folder.glob("runs/*/results.json"))) == 8
    for name, accuracies in theirs["accuracies"].items():
        for state in ("best", "last"):
            np.testing.assert_equal(ours["accuracies"][name][state], accuracies[state])
    assert ours["claims"] == theirs["claims"]
    assert (folder / "report.html").exists()
