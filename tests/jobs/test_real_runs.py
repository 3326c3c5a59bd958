"""Runs long enough to show that training works; minutes."""

import json
from pathlib import Path

import pytest

from bat_jax.jobs import train_and_evaluate
from configs import digits_bat, tiny_imagenet_bat

TINY_IMAGENET = Path(__file__).parents[3] / "shared/data/tiny-imagenet-200-subset.zip"


@pytest.mark.slow
def test_bat_is_at_least_25_points_more_robust_than_a_standard_model(tmp_path):
    accuracies = {}
    for objective in ("standard", "bat"):
        config = digits_bat.get_config()
        config.objective.name = objective
        config.evaluation.select_by = "clean" if objective == "standard" else "pgd"
        results = train_and_evaluate(config, tmp_path / objective)
        accuracies[objective] = results["best"]["test"]["pgd20"]["accuracy"]
    assert accuracies["bat"] >= accuracies["standard"] + 0.25


@pytest.mark.slow
@pytest.mark.skipif(not TINY_IMAGENET.exists(), reason="the Tiny ImageNet subset is not here")
def test_the_loss_falls_on_tiny_imagenet(tmp_path):
    config = tiny_imagenet_bat.get_config()
    config.data.path = str(TINY_IMAGENET)
    config.data.validation = 64
    config.data.subset = 320
    config.model.width = 8
    config.attack.num_steps = 2
    config.train.batch_size = 32
    config.train.steps = 120
    config.train.log_every = 10
    config.evaluation.num_steps = 2
    config.evaluation.subset = 64
    config.evaluation.batch_size = 64
    config.evaluation.losses = ("cross_entropy",)
    config.evaluation.attacks = ()
    config.checkpoint.every_epochs = 100
    config.parallel.devices = 1
    train_and_evaluate(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if r["split"] == "train"]
    assert len(losses) == 12
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.2
