"""Pictures and charts of memorization: within epsilon, of the run's own estimates, and small."""

import json
import shutil

import numpy as np
import pytest

from bat_jax import memorization
from bat_jax.evaluation.runs import read
from bat_jax.report import contrast, pictures, proxies
from bat_jax.report import memorization as memorization_page
from bat_jax.report.drawing import Figure
from bat_jax.training.saved import read_run
from tests.training.conftest import built, tiny


def test_pictures_stay_within_epsilon_where_training_does_not():
    fields = {"attack.num_steps": 1, "attack.start_radius": 2.0, "attack.project": False}
    experiment = built(tiny("pgd_at", **fields))
    images = experiment.test_images().take(np.arange(4))
    found = pictures._attack(experiment)(experiment.initial_state().evaluated, images)
    moved = np.abs(found.adversarial - np.float32(found.split.images) / 255)
    assert 0 < moved.max() <= experiment.config.attack.epsilon + 1e-6


@pytest.fixture
def other_estimates(runs, tmp_path):
    """The folder of a run whose file of estimates was exchanged."""
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    content = json.loads((folder / "config.json").read_bytes())
    content["data"]["estimates"] = "another digest"
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_other_estimates_than_the_run_had_are_left_out(runs, other_estimates, caplog):
    assert proxies.section(read(runs[0])) is not None
    experiment = pictures._with_same_estimates(read_run(runs[0]), runs[0])
    assert experiment.estimates is not None
    assert not caplog.messages
    assert proxies.section(read(other_estimates)) is None
    assert "holds other estimates than" in caplog.text
    caplog.clear()
    experiment = pictures._with_same_estimates(read_run(other_estimates), other_estimates)
    assert experiment.estimates is None
    assert pictures.most_memorized(experiment) == []
    assert "no pictures by memorization" in caplog.text


def test_points_of_images_are_drawn_as_a_picture(runs):
    estimates = memorization.load(read(runs[0]).config["memorization"]["estimates"])
    halves = (estimates.memorization, estimates.memorization)
    results = {"split_half": {"rank_correlation": 1.0}}
    for chart in (
        contrast._scatter(estimates, estimates),
        memorization_page._split_half(halves, results),
    ):
        figure = Figure()
        chart.draw(figure)
        points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [line.get_rasterized() for line in points] == [True]


def test_memorization_is_defined_by_the_score_of_the_members():
    assert "more often models classify it correctly if" in memorization_page._definition("correct")
    assert "more probable its label is" in memorization_page._definition("probability")
