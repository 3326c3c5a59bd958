"""Images that stay on the host train to the same bits as those on the devices."""

import jax
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax.data import device
from bat_jax.data.device import DeviceSplit
from bat_jax.data.feeding import Streamed
from bat_jax.errors import UserError
from bat_jax.training.building import build
from bat_jax.training.flops import lowered_step
from tests.training.conftest import built

FIELDS = {
    "data.flip": True,
    "data.crop_padding": 1,
    "data.cutmix": True,
    "train.accumulation": 2,
    "parallel.devices": 2,
}


def stepped(experiment, steps):
    """Returns the state and the metrics after the first steps."""
    state, root = experiment.initial_state(), experiment.root()
    order = jax.jit(experiment.order)(root, np.int32(0))
    batches = experiment.feed().batches(order, 0)
    for data, _ in zip(batches, range(steps), strict=False):
        state, metrics = experiment.train_step(state, data, order, root)
    return jax.device_get((state, metrics))


def test_images_from_the_host_train_to_the_same_bits(tiny_config):
    found = [
        stepped(built(tiny_config("pgd_at", **FIELDS, **{"data.placement": placement})), 3)
        for placement in ("device", "host")
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_extra_images_from_the_host_train_to_the_same_bits(tiny_config, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "extra.npz", image=pixels, label=np.arange(40) % 10)
    fields = {**FIELDS, "data.extra": str(tmp_path / "extra.npz")}
    found = []
    for placement in ("device", "host"):
        experiment = built(tiny_config("pgd_at", **fields, **{"data.placement": placement}))
        assert experiment.is_streamed == (placement == "host")
        order = np.asarray(experiment.order(experiment.root(), 0))
        # 44 of 64.
        assert ((order >= len(experiment.train)).sum(axis=1) == 44).all()
        found.append(stepped(experiment, 2))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_batches_are_those_of_the_order_from_any_step_on(tiny_config):
    experiment = built(tiny_config("pgd_at", **FIELDS, **{"data.placement": "host"}))
    images = experiment.train.images
    order = np.random.default_rng(0).permutation(len(images))[:192].reshape(6, 32).astype(np.int32)
    for first in (0, 4):
        found = list(experiment.feed().batches(order, first))
        assert len(found) == 6 - first
        for data, rows in zip(found, order[first:], strict=True):
            np.testing.assert_array_equal(data.batch, images[rows])
            assert {shard.data.shape[0] for shard in data.batch.addressable_shards} == {16}


def test_images_may_be_mapped_from_a_file(tiny_config, tmp_path):
    experiment = built(tiny_config("pgd_at", **FIELDS, **{"data.placement": "host"}))
    np.save(tmp_path / "images.npy", experiment.train.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    feed = Streamed(mapped, experiment.train_data(), experiment.mesh)
    order = np.arange(8, dtype=np.int32).reshape(2, 4)
    for data, rows in zip(feed.batches(order, 0), order, strict=True):
        np.testing.assert_array_equal(data.batch, mapped[rows])


def test_evaluation_from_the_host_gives_the_same_verdicts(tiny_config):
    found, places = [], []
    for placement in ("device", "host"):
        experiment = built(tiny_config("pgd_at", **FIELDS, **{"data.placement": placement}))
        # A batch of 64, then 36.
        data = experiment.placed(experiment.train.take(np.arange(100)))
        places.append(type(data))
        counted = []
        evaluator = experiment.evaluator(("cross_entropy",))
        found.append(evaluator(experiment.initial_state().variables, data, counted.append))
        assert counted == [64, 36]
    assert places == [DeviceSplit, Streamed]
    assert 0 < found[0]["clean"].sum() < 100
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_an_epoch_may_end_early(tiny_config):
    experiment = built(tiny_config("pgd_at", **FIELDS, **{"data.placement": "host"}))
    batches = experiment.feed().batches(np.zeros((6, 4), np.int32), 0)
    next(batches)
    batches.close()


def test_images_stay_on_the_host_if_they_do_not_fit(tiny_config, monkeypatch):
    assert not build(tiny_config()).is_streamed
    monkeypatch.setattr(device, "free_bytes", lambda _: 10_000)
    experiment = build(tiny_config())
    assert experiment.is_streamed
    assert "ui8" in lowered_step(experiment).as_text()
    assert isinstance(experiment.placed(experiment.validation), Streamed)
    assert not build(tiny_config(**{"data.placement": "device"})).is_streamed
    # Statistics of an average need all images, which then do not fit.
    averaged = build(tiny_config(**{"train.swa_start_epoch": 1}))
    with pytest.raises(UserError, match="256 images need"):
        averaged.feed()
    # An evaluation reads each image once.
    assert isinstance(averaged.placed(averaged.train), Streamed)
    assert isinstance(averaged.placed(averaged.validation), DeviceSplit)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.swa_start_epoch": 1}, "placement is host and config.train.swa_start_epoch is 1; "),
        ({"job": "memorization", "data.validation": 0}, "placement is host; expected its default"),
        ({"data.placement": "disk"}, "placement is 'disk'; expected one of device, host"),
    ],
)
def test_what_cannot_stay_on_the_host_is_named(tiny_config, fields, words):
    with pytest.raises(UserError, match=words):
        configs.check(tiny_config("pgd_at", **{"data.placement": "host", **fields}))
