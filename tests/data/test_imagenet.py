"""ImageNet's layout, as a small stand-in of synthetic JPEGs of many sizes, starts at both sizes."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from bat_jax import overrides, pages
from bat_jax.data import load
from bat_jax.jobs import train_and_evaluate
from bat_jax.jobs.dry_run import describe

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


@pytest.fixture(scope="module", params=["flat", "folders"])
def imagenet(request, tmp_path_factory):
    """A folder in the layout of the published archives."""
    folder = tmp_path_factory.mktemp("imagenet")
    seed, lines = 0, []
    for label, wnid in enumerate(WNIDS):
        (folder / "train" / wnid).mkdir(parents=True)
        for number in range(6):
            file = folder / "train" / wnid / f"{wnid}_{number}.JPEG"
            file.write_bytes(photograph(seed := seed + 1))
        for _ in range(2):
            name = f"ILSVRC2012_val_{len(lines) + 1:08}.JPEG"
            place = folder / "val" if request.param == "flat" else folder / "val" / wnid
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(photograph(seed := seed + 1))
            lines.append(f"{name} {label}")
    if request.param == "flat":
        (folder / "val.txt").write_text("\n".join(lines) + "\n")
    return folder


def short(imagenet, method="pgd_at", side=64):
    """The page's config, narrow and for two steps."""
    config = overrides.load(pages.find(f"imagenet_{method}"))
    config.data.name, config.data.side = f"folder:{imagenet}", side
    config.data.validation, config.data.placement = 2, "host"
    config.model.width = 4
    config.model.stem = "imagenet" if side == 224 else "tiny_imagenet"
    config.attack.num_steps = config.evaluation.num_steps = 1
    config.train.steps, config.train.batch_size = 2, 4
    config.evaluation.batch_size, config.evaluation.attacks = 4, ()
    config.evaluation.losses = ("cross_entropy",)
    config.parallel.devices = 1
    return config


def test_both_layouts_are_the_same_set(imagenet):
    dataset = load(f"folder:{imagenet}", side=16)
    assert dataset.class_names == WNIDS
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.images.std() > 10


@pytest.mark.slow  # A ResNet-50 compiles for a minute.
@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("imagenet", ["flat"], indirect=True)
def test_training_starts(imagenet, side, tmp_path):
    config = short(imagenet, "bat", side)
    if side == 64:
        assert "parameters: " in describe(config)
    with jax.numpy_rank_promotion("allow"):
        results = train_and_evaluate(config, tmp_path / "run")
    assert results["last"]["step"] == 2
    assert results["last"]["test"]["clean"]["n"] == 6
