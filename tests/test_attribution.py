"""The example that attributes digits with dattri; it needs PyTorch and dattri."""

import importlib
import re

import numpy as np
import pytest

from bat_jax import data
from bat_jax.memorization import Estimates, save
from bat_jax.memorization.store import Scores, Store

pytest.importorskip("torch", reason="no PyTorch here: pip install torch dattri")
pytest.importorskip("dattri", reason="no dattri here: pip install torch dattri")
# Their own warnings, some while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")

MODELS, TRAIN, TEST = 12, 60, 20


@pytest.fixture
def attribution():
    return importlib.import_module("attribution")


@pytest.fixture
def run(tmp_path):
    """A run of twelve members with made-up margins, on some of the real digits."""
    draws = np.random.default_rng(0)
    masks = draws.permuted(np.tile(np.arange(TRAIN) < 42, (MODELS, 1)), axis=1)
    digits = data.load("digits")
    train, test = digits.train.take(np.arange(TRAIN)[::-1]), digits.test.take(np.arange(TEST))
    estimates = Estimates(
        source="a test",
        memorization=np.zeros(TRAIN),
        train_labels=train.labels,
        test_labels=test.labels,
        train_ids=train.ids,
        test_ids=test.ids,
        influence=(),
        in_count=masks.sum(0),
        out_count=(~masks).sum(0),
        estimator="margin",
    )
    save(tmp_path / "memorization.npz", estimates)
    store = Store(tmp_path / "members", train=TRAIN, test=TEST, statistic="margin", writes=True)
    margins = draws.normal(1, 2, (MODELS, TEST))
    store.append(Scores(np.arange(MODELS), masks, np.where(masks, 1.0, -1.0), margins))
    return tmp_path


def test_attributions_of_dattri_are_scored(attribution, run, capsys):
    assert attribution.main([str(run)], models=2, epochs=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "TRAK, 1 model(s)",
        "TRAK, 2 model(s)",
    ]
    assert all(
        re.search(r": -?0\.\d{3} \(.* to .*\), ceiling .*, 12 members", line) for line in lines[1:]
    )


def test_training_on_an_image_raises_its_own_margin_most(attribution):
    digits = data.load("digits")
    images = attribution.tensors(digits.train, digits.train.ids[:30])
    made = [attribution.trained(images, seed=0, epochs=30)]
    scores = attribution.trak(made, images, images)
    assert np.mean(scores.argmax(axis=0) == np.arange(30)) > 0.9


def test_a_run_that_does_not_exist_is_one_line(attribution, tmp_path, capsys):
    assert attribution.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("attribution.py: ")
