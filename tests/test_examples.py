"""The examples run and show what they claim."""

import csv
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import outside_models
import pytest

import bat_jax
from bat_jax import parallel
from bat_jax.data.device import epoch_order
from bat_jax.errors import UserError
from bat_jax.methods import Batch, Setup
from bat_jax.training.building import build
from bat_jax.training.flops import lowered_step
from tests.command import launch

OUTSIDE = Path(__file__).parents[1] / "examples" / "outside"
SHORT = {
    "train.epochs": 2,
    "attack.num_steps": 2,
    "evaluation.num_steps": 2,
    "parallel.devices": 1,
}
MODULES = (
    "csv_tracker",
    "fine_tune",
    "fit",
    "label_weighted",
    "mail",
    "mail_page",
    "mixer",
    "nnx_cnn",
    "page",
    "shapes",
    "vit",
)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A copy of the examples from outside, as the current folder."""
    folder = shutil.copytree(OUTSIDE, tmp_path / "outside")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in MODULES:
        sys.modules.pop(name, None)


def short():
    import page

    config = page.get_config()
    config.update_from_flattened_dict(SHORT)
    return config


def test_outside_models_are_attacked_by_the_same_call(capsys):
    # Outside models and Adam promote as JAX does by default.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rows = outside_models.main(num_images=24, num_steps=40, attacks=("apgd-ce",))
    for row in rows:
        assert row.images == 24
        assert row.clean > 16
        assert row.clean >= row.after["apgd-ce"]
    plain, robust = rows
    assert robust.after["apgd-ce"] > plain.after["apgd-ce"]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.usefixtures("undrawn")
def test_a_method_a_model_and_data_from_outside_make_a_run(outside):
    fields = [f"--config.{name}={value}" for name, value in SHORT.items()]
    command = ("--config=page.py", "--workdir=run", *fields)
    # The command promotes as JAX does by default.
    with jax.numpy_rank_promotion("allow"):
        ended = launch(*command, "--config.objective.label_weighted.factor=3")
    assert ended.returncode == 0, ended.stderr
    about = json.loads((outside / "run" / "config.json").read_text())
    assert about["config"]["objective"]["label_weighted"] == {"classes": [0], "factor": 3.0}
    results = json.loads((outside / "run" / "results.json").read_text())
    assert results["best"]["test"]["clean"]["n"] == 200
    page = (outside / "run" / "report.html").read_text()
    assert "label-weighted PGD adversarial training" in page
    assert "images with the lowest weights" not in page  # No weight is below 1.
    again = launch(*command, "--config.objective.label_weighted.factor=2")
    assert again.returncode == 2
    assert "objective.label_weighted.factor: 3.0, 2.0" in again.stderr


def test_mail_from_outside_trains(outside):
    import mail_page

    config = mail_page.get_config()
    config.update_from_flattened_dict(
        {**SHORT, "objective.mail.start_epoch": 0.05, "programs.unroll": False}
    )
    experiment = build(config)
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    order = epoch_order(0, 0, examples=len(experiment.train), batch_size=64)
    weights = []
    with jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            state, metrics = experiment.train_step(state, data, order, root)
            weights.append(float(metrics["weight"]))
    # Ten steps an epoch.
    assert weights[0] == 1.0
    assert 0.0 < weights[1] < 3.0
    assert weights[1] != 1.0


def test_mail_weights_images_by_their_margin(outside):
    import mail

    logits = np.log([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])
    labels = np.array([0, 0, 1])
    margins = np.array([-0.5, 0.5, 0.25])
    found = mail.margin(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, margins, rtol=1e-5)

    method = mail.Mail({"slope": 10.0, "bias": -0.5, "start_epoch": 2.0}, Setup(num_steps=1))
    batch = Batch(
        labels=jnp.asarray(labels),
        logits=jnp.float32(logits),
        features=jnp.zeros((3, 1)),
        clean_logits=None,
        robust_steps=jnp.zeros(3, jnp.int32),
        memorization=jnp.zeros(3),
        epoch=jnp.float32(2),
    )
    weights = 3 / (1 + np.exp(-10 * (margins - 0.5)))
    np.testing.assert_allclose(method.applied(batch), weights, rtol=1e-5)
    assert np.all(method.applied(batch._replace(epoch=jnp.float32(1.9))) == 1.0)
    one = parallel.make_mesh(1)
    loss = parallel.over_devices(
        lambda batch: method.loss(batch)[0],
        one,
        in_specs=(parallel.REPLICATED,),
        out_specs=parallel.REPLICATED,
    )
    entropies = -logits[np.arange(3), labels]
    np.testing.assert_allclose(loss(batch), np.mean(weights * entropies), rtol=1e-5)


@pytest.mark.parametrize("name", ["vit", "nnx_cnn"])
def test_models_from_outside_have_a_training_step(outside, name):
    config = short()
    config.update_from_flattened_dict(
        {"model.name": f"{name}:create", "programs.unroll": False, "train.accumulation": 2}
    )
    with jax.numpy_rank_promotion("allow"):
        assert lowered_step(build(config)).as_text()


@pytest.mark.slow  # It trains twice.
def test_fine_tuning_raises_the_robust_accuracy(outside, capsys):
    import fine_tune

    with jax.numpy_rank_promotion("allow"):
        found = fine_tune.main(epochs=4, fine_tuning=4)
    before, after = found["before"]["pgd20"], found["after"]["pgd20"]
    assert after["n"] == before["n"] == 449
    assert after["interval"][0] > before["interval"][1]
    assert "after: pgd20" in capsys.readouterr().out


def test_fit_takes_a_model_arrays_and_callbacks(outside):
    import csv_tracker
    import mixer
    import shapes

    dataset, tracker = shapes.load(), csv_tracker.CsvTracker("tracked")
    with jax.numpy_rank_promotion("allow"):
        fitted = bat_jax.fit(short(), model=mixer.Mixer(4), dataset=dataset, callbacks=[tracker])
        images = jnp.float32(dataset.test.images) / 255
        logits = fitted.model.apply(fitted.best, images)
    accuracy = np.mean(np.argmax(np.asarray(logits), axis=1) == dataset.test.labels)
    assert fitted.results["best"]["test"]["clean"]["accuracy"] == accuracy
    assert not list(outside.glob("run*"))
    tracked = outside / "tracked"
    assert json.loads((tracked / "results.json").read_text()) == fitted.results
    assert json.loads((tracked / "config.json").read_text())["train"]["epochs"] == 2
    with (tracked / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "validation"}
    scored = [(row["step"], row["name"]) for row in rows if row["split"] == "validation"]
    assert scored == [(step, name) for step in ("10", "20") for name in ("clean", "pgd2")]
    # A run that resumes from step 10 writes the later records again.
    tracker.on_start({}, 10)
    tracker.on_end(None)
    kept = (tracked / "records.csv").read_text().splitlines()[1:]
    assert kept
    assert all(int(row.split(",")[0]) <= 10 for row in kept)


def test_fit_resumes_in_its_folder_and_records_its_model(outside):
    import mixer
    import shapes

    dataset = shapes.load()
    with jax.numpy_rank_promotion("allow"):
        first = bat_jax.fit(short(), model=mixer.Mixer(4), dataset=dataset, workdir="run")
        again = bat_jax.fit(short(), model=mixer.Mixer(4), dataset=dataset, workdir="run")
    assert again.results == first.results
    jax.tree.map(np.testing.assert_array_equal, again.best, first.best)
    about = json.loads((outside / "run" / "config.json").read_text())
    # As the page names them: the command finds them again.
    assert about["config"]["model"]["name"] == "mixer:create"
    assert about["config"]["data"]["name"] == "shapes:load"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model.name": "mixer:Nothing"}, "mixer has no Nothing"),
        ({"model.name": "shapes:load"}, "calling it fails"),
        ({"data.name": "mixer:Mixer"}, "expected a bat_jax.data.Dataset"),
        ({"data.name": "nowhere:load"}, "importing nowhere fails"),
        ({"objective.name": "mixer:Mixer"}, "expected a class derived from bat_jax.methods.Method"),
    ],
)
def test_unusable_objects_from_outside_are_named(outside, fields, words):
    config = short()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=words):
        bat_jax.fit(config)
