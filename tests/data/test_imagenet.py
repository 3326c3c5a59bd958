"""ImageNet's layout, as a small stand-in of synthetic JPEGs of many sizes, starts at both sizes."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bat_jax import overrides, pages
from bat_jax.data import load
from bat_jax.data.feeding import Streamed
from bat_jax.jobs.train import prepared, run
from bat_jax.runtime.storage import as_path
from bat_jax.training.experiment import Experiment
from tests.data import archives

WNIDS = ("n01440764", "n01443537", "n01484850")


def photograph(seed):
    """Returns the bytes of a JPEG of its own size; some are gray or CMYK, as in ImageNet."""
    draws = np.random.default_rng(seed)
    height, width = draws.integers(70, 130, 2)
    image = Image.fromarray(draws.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    mode = {0: "L", 1: "CMYK"}.get(seed % 8, "RGB")
    content = io.BytesIO()
    image.resize((int(width), int(height))).convert(mode).save(content, "JPEG")
    return content.getvalue()


def write(folder, layout):
    """Writes a set in the layout of the published archives; val is `flat` or in `folders`."""
    seed, lines = 0, []
    for label, wnid in enumerate(WNIDS):
        (folder / "train" / wnid).mkdir(parents=True)
        for number in range(6):
            file = folder / "train" / wnid / f"{wnid}_{number}.JPEG"
            file.write_bytes(photograph(seed := seed + 1))
        for _ in range(2):
            name = f"ILSVRC2012_val_{len(lines) + 1:08}.JPEG"
            place = folder / "val" if layout == "flat" else folder / "val" / wnid
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(photograph(seed := seed + 1))
            lines.append(f"{name} {label}")
    if layout == "flat":
        (folder / "val.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("layout", ["flat", "folders"])
def test_both_layouts_are_the_same_set(tmp_path, layout):
    dataset = load(f"folder:{write(tmp_path, layout)}", side=16)
    assert dataset.class_names == WNIDS
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.images.std() > 10


def test_the_reduction_of_tfds_is_read(tmp_path, monkeypatch):
    pixels, labels = archives.random_split(5, 1000, (64, 64, 3), seed=0)
    rows = {"train": (0, 1, 2), "validation": (3, 4)}

    def examples(rows):
        for row in rows:
            yield row, {"image": archives.encoded(pixels[row]), "label": int(labels[row])}

    # TFDS's own description of the set, with other images.
    name = "imagenet_resized/64x64"
    builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
    splits = {part: examples(rows[part]) for part in rows}
    monkeypatch.setattr(builder, "_split_generators", lambda manager: splits)
    builder.download_and_prepare()
    dataset = load(f"tfds:{name}", path=tmp_path)
    assert (dataset.image_shape, dataset.num_classes) == ((64, 64, 3), 1000)
    assert WNIDS[0] in dataset.class_names
    assert sorted(dataset.train.labels) == sorted(labels[:3])
    assert sorted(dataset.test.labels) == sorted(labels[3:])


class Started(NamedTuple):
    """A run of two steps."""

    side: int
    folder: Path
    workdir: Path
    experiment: Experiment
    results: dict[str, Any]


@pytest.fixture(scope="module", params=[("bat", 64), ("pgd_at", 224)], ids=["64", "224"])
def started(request, tmp_path_factory):
    """Two steps of a page's ResNet-50, narrow, with images on the host, and its evaluation."""
    method, side = request.param
    folder = write(tmp_path_factory.mktemp("imagenet"), "flat")
    workdir = tmp_path_factory.mktemp("started") / "run"
    config = overrides.load(pages.find(f"imagenet_{method}"))
    config.data.name, config.data.side = f"folder:{folder}", side
    # As many validation as test images, so that one program evaluates both.
    config.data.validation, config.data.placement = 6, "host"
    config.model.width = 4
    if side == 64:
        config.model.stem = "tiny_imagenet"
    config.attack.num_steps = config.evaluation.num_steps = 1
    config.train.steps, config.train.batch_size = 2, 4
    config.evaluation.batch_size, config.evaluation.attacks = 4, ()
    config.evaluation.losses = ("cross_entropy",)
    config.parallel.devices = 1
    # The programs run for a moment, and take minutes to optimize.
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.numpy_rank_promotion("allow"):
            experiment = prepared(config, as_path(workdir))
            results = run(experiment, as_path(workdir))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    return Started(side, folder, workdir, experiment, results)


@pytest.mark.slow
def test_a_page_trains_and_evaluates_its_network(started):
    assert started.experiment.config.model.name == "resnet50"
    assert started.experiment.dataset.image_shape == (started.side, started.side, 3)
    assert json.loads((started.workdir / "results.json").read_bytes()) == started.results
    for state in ("best", "last"):
        assert started.results[state]["step"] == 2
        test = started.results[state]["test"]
        assert {name: value["n"] for name, value in test.items()} == {"clean": 6, "pgd1": 6}
    with np.load(started.workdir / "examples.npz") as examples:
        assert examples["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    lines = (started.workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["split"] for record in records] == ["train", "validation"]


@pytest.mark.slow
def test_a_page_streams_images_from_the_host(started):
    assert isinstance(started.experiment.feed(), Streamed)
    assert isinstance(started.experiment.placed(started.experiment.dataset.test), Streamed)


@pytest.mark.slow
def test_a_page_decodes_images_once(started, monkeypatch):
    (file,) = started.folder.glob("decoded-*/images.npy")
    assert np.load(file, mmap_mode="r").shape == (24, started.side, started.side, 3)
    monkeypatch.setattr("bat_jax.data.images.decode", None)
    again = load(f"folder:{started.folder}", side=started.side)
    assert again.train.digest() == started.experiment.dataset.train.digest()
