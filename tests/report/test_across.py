"""One page on the findings of several data sets follows from their numbers."""

import copy
import json
from pathlib import Path

import pytest

from bat_jax.errors import UserError
from bat_jax.report.across import _cell, main, markdown, write
from bat_jax.report.finished import Finished
from bat_jax.report.page import Table

PILOT = Path(__file__).parents[2] / "docs" / "results" / "fashion_mnist.json"


def changed(results):
    """Returns sampled results of another data set: no regime, (a) and half of (b) reversed."""
    other = copy.deepcopy(results)
    other["sampled"] = {
        "attacks": ["fab-t", "square"],
        "images": 90,
        "drawn": 9,
        "broken": 0,
        "widest": 0.01,
    }
    other["regime"]["holds"] = False
    other["at_chance"] = []
    other["removal"] = other["removal"][:2]
    rows = [other["gains"]["pgd_at"]["atypical"]["clean"], other["removal"][0]["typical"]["pgd20"]]
    for row in rows:
        row["values"] = [-0.03, -0.031, -0.029]
        row.update(mean=-0.03, interval=[-0.0325, -0.0275])
    return other


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("across")
    results = json.loads(PILOT.read_text())
    finished = [Finished("Gray", results), Finished("Colour 100", changed(results))]
    return write(finished, folder)


def test_the_table_has_every_verdict_and_what_undecided_ones_detect(page):
    text = page.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| (a) "))
    assert row.endswith("| supported | refuted |")
    rows = [line for line in text.splitlines() if line.startswith("| (b) ")]
    assert rows[0].endswith("| undecided (would detect 3.7 points) | refuted |")
    assert rows[2].endswith("| supported | not tested |")
    assert "**Gray** (3 seeds, 1,000 test images): the regime holds; (a) supported;" in text
    assert "**Colour 100** (3 seeds, 1,000 test images): the regime does not hold" in text


def test_the_page_says_what_did_not_reproduce(page):
    text = page.read_text().partition("## What did not reproduce")[2]
    assert "- Gray: the best state of mart-seed1 has less than twice chance accuracy" in text
    assert "Colour 100, the regime, which asks for 95 % on training images" in text
    assert "robust accuracy. Refuted on Colour 100." in text
    assert "(best checkpoint). Refuted on Gray and Colour 100." in text
    assert "- Undecided verdicts: 4." in text


def test_the_tables_of_differences_mark_those_with_a_sign(page):
    text = page.read_text()
    row = (
        "| 100 % atypical minus random | 213 | best | +1.2 (-2.0 to +4.3) | **+2.8 (+1.0 to +4.7)**"
    )
    assert row in text
    assert "| bat minus trades | -1.6 (-3.8 to +0.6) | **-4.0 (-7.3 to -0.8)** | -0.9" in text


def test_removals_at_chance_are_left_out_of_the_figures():
    results = json.loads(PILOT.read_text())
    whole = Finished("Gray", results).differences("b")
    failed = {**results, "at_chance": ["pgd_at-without-100%-random-seed1"]}
    left = Finished("Gray", failed).differences("b")
    assert {name for name in whole if name not in left} == {
        name for name in whole if name.startswith("100 % atypical")
    }
    assert left
    assert Finished("Gray", results).differences("a")
    assert not Finished("Gray", {**results, "at_chance": ["pgd_at-seed0"]}).differences("a")


def test_numbers_in_names_of_arms_are_not_read_as_differences():
    results = json.loads(PILOT.read_text())
    one = Finished("Gray", results)
    claim = one.claims["c, last"]._replace(
        verdict="undecided",
        detectable="trades_awp0.005 clean 2.3, trades_awp0.005 PGD-20 3.1 points",
    )
    one.claims["c, last"] = claim
    assert _cell(one, "c, last") == "undecided (would detect 2.3 to 3.1 points)"


def test_estimates_from_samples_are_named(page):
    text = page.read_text()
    assert text.count("| best, AutoAttack |") == text.count("| best, AutoAttack (sampled) |") == 1
    assert "are not shown. AutoAttack is sampled on Colour 100." in text
    assert "fab-t and square were run on 9 of the 90 images" in text


def test_each_finding_has_a_figure_and_each_data_set_its_long_tables(page):
    text = page.read_text()
    for claim in "abc":
        assert f"(figures/findings_{claim}.svg)" in text
        assert (page.parent / "figures" / f"findings_{claim}.svg").stat().st_size > 1000
    assert "(figures/findings_colour_100_best.svg)" in text
    for stem, note in (("gray", ""), ("colour_100", " (sampled)")):
        assert f"(findings_{stem}.md)" in text
        long = (page.parent / f"findings_{stem}.md").read_text()
        assert f"| (c) bat minus trades, best, AutoAttack{note} | 1,000 | -4.0 (" in long
        assert f"| trades, best, AutoAttack{note} |" in long
        assert f"| clean | PGD-20 | AutoAttack{note} |" in long
    front = (page.parent / "figures" / "findings_colour_100_best.svg").read_text()
    assert "accuracy under AutoAttack (sampled) (%)" in front


def test_cells_keep_their_bars():
    table = Table("Caption.", ("a", "b"), (("x|y", "z"),))
    assert markdown(table) == "Caption.\n\n| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_names_that_share_a_file_are_refused(tmp_path):
    results = json.loads(PILOT.read_text())
    with pytest.raises(UserError, match="names Set 1, set-1; expected"):
        write([Finished("Set 1", results), Finished("set-1", results)], tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["results.json"],
        ["=results.json"],
        ["Gray=missing.json"],
        [f"Gray={PILOT}", "--output="],
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_names_held_out_training_images(tmp_path):
    results = {**json.loads(PILOT.read_text()), "tested": 1000}
    text = write([Finished("Gray", results)], tmp_path).read_text()
    assert "1,000 held-out training images" in text
    assert "typical held-out training images without some" in text
    assert "test images" not in text
