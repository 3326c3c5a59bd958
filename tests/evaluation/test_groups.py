import dataclasses
import json

import numpy as np
import pytest

from bat_jax import data
from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.evaluation import groups
from bat_jax.evaluation.records import CLEAN, Evaluation, Measure, summarize_groups
from bat_jax.evaluation.runs import RESULTS, Run
from bat_jax.report.drawing import Figure
from bat_jax.report.groups import sections
from bat_jax.runtime.schema import Place, ShapeError
from bat_jax.runtime.storage import as_path
from bat_jax.training.building import build


@pytest.fixture(scope="module")
def letters():
    """Returns a set of classes a to d; a and d are of superclass x, b is of y, c of none."""
    labels = np.array([3, 0, 1, 2, 0])
    images = np.zeros((5, 2, 2, 1), np.uint8)
    found = data.from_arrays(images, labels, images, labels, class_names="abcd")
    superclasses = data.Superclasses(("x", "y", "z"), (0, 1, -1, 0))
    return dataclasses.replace(found, superclasses=superclasses)


def test_rows_by_class_and_superclass(letters):
    by_class = groups.rows_by(letters, letters.test, "class")
    by_superclass = groups.rows_by(letters, letters.test, "superclass")
    assert {k: v.tolist() for k, v in by_class.items()} == {
        "a": [1, 4],
        "b": [2],
        "c": [3],
        "d": [0],
    }
    assert {k: v.tolist() for k, v in by_superclass.items()} == {"x": [0, 1, 4], "y": [2]}
    part = letters.test.take(np.array([4, 2]))
    assert list(groups.rows_by(letters, part, "class")) == ["a", "b"]


def test_a_set_without_superclasses_is_refused():
    config = default()
    config.data.name, config.evaluation.by = "digits", ("class", "superclass")
    config.model.name, config.data.crop_padding = "small_cnn", 0
    config.parallel.devices = 1
    with pytest.raises(UserError, match=r"evaluation\.by is .*; expected class alone: digits as"):
        build(config)


def test_a_report_shows_each_group_with_its_n(letters):
    verdicts = {"clean": np.array([1, 1, 0, 1, 0], bool), "pgd20": np.array([0, 1, 0, 0, 0], bool)}
    everything = summarize_groups(verdicts, {"all": np.arange(5)})["all"]
    by = {
        kind: summarize_groups(verdicts, groups.rows_by(letters, letters.test, kind))
        for kind in groups.KINDS
    }
    results = {"seconds": 1, "best": {"test": everything, "by": by}}
    RESULTS.check(results, Place("results.json"))
    found = Evaluation.from_json(results["best"])
    assert found.by["superclass"]["x"][CLEAN][:2] == (2 / 3, 3)
    assert found.by["class"]["a"][Measure.pgd(20)].accuracy == 0.5

    run = Run(as_path("."), {}, {}, results, (), {})
    of_classes, of_superclasses = sections(run)
    assert of_classes.title == "Accuracy by class"
    (table,) = of_superclasses.tables
    assert table.header == ("superclass", "n", "clean", "PGD-20")
    assert [row[:2] for row in table.rows] == [("x", "3"), ("y", "1")]
    assert table.rows[0][2].startswith("66.7 (")
    (chart,) = of_superclasses.charts
    assert "x: clean 66.7 %, PGD-20 33.3 %; y: clean 0.0 %, PGD-20 0.0 %" in chart.alt

    # A sampled AutoAttack is named as such in the table, the legend and the words.
    sample = {"attacks": ["square"], "images": 5, "drawn": 3, "broken": 0, "interval": [0.1, 0.2]}
    text = json.dumps({**results, "best": {**results["best"], "sample": sample}})
    sampled = Run(as_path("."), {}, {}, json.loads(text.replace("pgd20", "autoattack")), (), {})
    (table,), (chart,) = sections(sampled)[1].tables, sections(sampled)[1].charts
    assert table.header[-1] == "AutoAttack (sampled)"
    assert "x: clean 66.7 %, AutoAttack (sampled) 33.3 %;" in chart.alt
    figure = Figure(layout="constrained")
    chart.draw(figure)
    named = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert named == ["clean", "AutoAttack (sampled)"]

    results["best"]["by"]["colour"] = {}
    with pytest.raises(ShapeError, match=r"best\.by has 'colour'"):
        RESULTS.check(results, Place("results.json"))
