"""A page names the options of the recipe that its run used."""

from bat_jax.config import default
from bat_jax.report.recipe import recipe


def test_a_run_without_options_or_of_an_older_version_has_no_recipe():
    assert recipe(default().to_dict()) == ""
    assert recipe({"data": {}, "train": {"ema": 0.0}}) == ""


def test_the_attack_of_a_method_without_one_is_no_option():
    config = default()
    config.update_from_flattened_dict({"objective.name": "standard", "attack.warmup_epochs": 5.0})
    assert recipe(config.to_dict()) == ""


def test_every_option_is_named():
    config = default()
    config.update_from_flattened_dict(
        {
            "train.schedule.warmup_epochs": 2.0,
            "attack.warmup_epochs": 5.0,
            "train.label_smoothing": 0.1,
            "data.cutmix": True,
            "data.extra": "ddpm.npz",
            "train.optimizer.nesterov": True,
            "train.ema": 0.995,
            "train.ema_warmup": True,
            "train.swa_start_epoch": 0,
            "train.optimizer.name": "adamw",
            "model.activation": "silu",
        }
    )
    assert recipe(config.to_dict()) == (
        "learning rate warmed up over 2 epochs, epsilon warmed up over 5 epochs, labels smoothed by"
        " 0.1, CutMix, Nesterov momentum, moving average of decay 0.995, with a rising decay,"
        " AdamW, SiLU, equal average of epochs from 0, 70% extra images"
    )
