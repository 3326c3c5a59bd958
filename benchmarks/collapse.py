"""Shows catastrophic overfitting: FGSM-RS collapses at eps 16/255 where N-FGSM does not.

    JAX_NUM_CPU_DEVICES=1 python benchmarks/collapse.py --path=cifar-100-binary.tar.gz
    python benchmarks/collapse.py --table    # And docs/results/figures/collapse.svg.

Every arm is a page of `configs/` with the changes of `config_of`: ten classes of CIFAR-100, a
network of one convolution, which is enough for a collapse (Andriushchenko & Flammarion,
arXiv:2007.02617), and eps 16/255, which warms up. Finished runs are not repeated; several processes
may share the folder if each has seeds or arms of its own. `--table` prints and draws what is there.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EPSILON = 16 / 255
TOLERANCE = 0.02  # Of AutoAttack on the last states.
FIGURE = ROOT / "docs/results/figures/collapse.svg"

ARMS = ("fgsm_rs", "n_fgsm")  # Of the pages cifar100_<arm>.


class OneLayer(nn.Module):
    """A 3x3 convolution with ReLU, whose outputs are the features, and a dense layer."""

    num_classes: int
    filters: int = 16

    @nn.compact
    def __call__(self, images: Any, *, train: bool = False, features: bool = False) -> Any:
        """Returns the logits, and on request the features; `train` has no effect."""
        x = nn.relu(nn.Conv(self.filters, (3, 3))((images - 0.5) / 0.25))
        x = x.reshape(len(x), -1)
        logits = nn.Dense(self.num_classes)(x).astype(jnp.float32)
        return (logits, x) if features else logits


def one_layer(*, num_classes: int, image_shape: tuple[int, int, int]) -> OneLayer:
    """Returns the network, for `config.model.name`; it takes images of any shape."""
    del image_shape
    return OneLayer(num_classes)


def config_of(arm: str, seed: int, path: Path | None) -> Any:
    """Returns the config of an arm and seed."""
    config = importlib.import_module(f"configs.cifar100_{arm}").get_config()
    config.seed = seed
    config.model.name = "collapse:one_layer"
    config.model.dtype = "float32"
    config.data.path = None if path is None else str(path)
    config.data.classes = tuple(range(0, 100, 10))
    config.data.validation = 500
    config.data.crop_padding = 0
    config.data.flip = False
    for section in (config.attack, config.evaluation):
        section.step_size *= EPSILON / config.attack.epsilon
    config.attack.epsilon = EPSILON
    config.attack.warmup_epochs = 10.0
    config.train.epochs = 60
    config.checkpoint.every_epochs = 2
    config.train.optimizer.learning_rate = 0.01
    config.evaluation.attacks = ()
    return config


def collapses(folder: Path) -> list[int]:
    """Returns the epochs of a run's collapsed states."""
    from bat_jax.evaluation.runs import read

    states = zip(*read(folder).series("validation", "collapsed"), strict=True)
    return [round(epoch) for epoch, collapsed in states if collapsed]


def main() -> None:
    """Trains, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "collapse")
    parser.add_argument("--path", type=Path, help="config.data.path of CIFAR-100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--table", action="store_true", help="print and draw the results so far")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure of --table")
    settings = parser.parse_args()
    arms = settings.arms.split(",")
    seeds = [int(seed) for seed in settings.seeds.split(",")]
    if settings.table:
        runs = {arm: [settings.workdir / f"{arm}-{seed}" for seed in seeds] for arm in arms}
        runs = {arm: [one for one in ran if finished(one)] for arm, ran in runs.items()}
        runs = {arm: ran for arm, ran in runs.items() if ran}
        if not runs:
            parser.error(f"{settings.workdir} has no finished run; run this without --table first")
        print("\n".join(table(runs)))
        draw(runs, settings.out)
        return
    from methods import attack

    import bat_jax

    for seed in seeds:
        for arm in arms:
            config, folder = config_of(arm, seed, settings.path), settings.workdir / f"{arm}-{seed}"
            if not finished(folder):
                bat_jax.fit(config, workdir=folder)
                print(folder.name, collapses(folder), flush=True)
            attack(folder, TOLERANCE, state="last")


def finished(folder: Path) -> bool:
    """Returns whether a run is finished."""
    return (folder / "results.json").exists()


def table(runs: dict[str, list[Path]]) -> Iterator[str]:
    """Yields the lines of a Markdown table, of finished runs by arm."""
    from methods import interval

    head = ["arm", "collapsed", "first at epoch"]
    head += [f"{state}, {name}" for state in ("best", "last") for name in ("clean", "PGD-20")]
    head.append("last, AutoAttack")
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for arm, folders in runs.items():
        read = [json.loads((folder / "results.json").read_text()) for folder in folders]
        found = [collapses(folder) for folder in folders]
        first = ", ".join(str(epochs[0]) if epochs else "-" for epochs in found)
        images = read[0]["best"]["test"]["clean"]["n"]
        percent = partial(interval, images=images, scale=100)
        cells = [
            percent([r[state]["test"][measure]["accuracy"] for r in read])
            for state in ("best", "last")
            for measure in ("clean", "pgd20")
        ]
        attacked = [folder / "autoattack/results.json" for folder in folders]
        attacked = [json.loads(path.read_text()) for path in attacked if path.exists()]
        robust = percent([r["last"]["test"]["autoattack"]["accuracy"] for r in attacked])
        cells.append(robust if len(attacked) == len(read) else f"{robust} [{len(attacked)}]")
        number = sum(map(bool, found))
        yield "| " + " | ".join([f"`{arm}`", f"{number} of {len(read)}", first, *cells]) + " |"


def draw(runs: dict[str, list[Path]], path: Path) -> None:
    """Draws accuracies by epoch, a panel for each arm and a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from bat_jax.evaluation.runs import read

    plt.rcParams.update({"svg.hashsalt": "bat_jax", "font.size": 9})
    figure = plt.figure(figsize=(3.2 * len(runs), 3), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    colors = plt.get_cmap("tab10").colors
    curves = (
        ("train", "accuracy", "training images, own attack"),
        ("validation", "fgsm", "held-out images, FGSM"),
        ("validation", "pgd20", "held-out images, PGD-20"),
    )
    for panel, (arm, folders) in zip(panels, runs.items(), strict=True):
        for folder in folders:
            run = read(folder)
            for color, (split, name, label) in zip(colors, curves, strict=False):
                epochs, accuracies = run.series(split, name)
                panel.plot(
                    epochs,
                    [100 * accuracy for accuracy in accuracies],
                    color=color,
                    linewidth=1,
                    label=label if folder == folders[0] else None,
                )
        panel.set(title=arm, xlabel="epoch", ylim=(0, 100))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, percent")
    panels[-1].legend(fontsize=7, loc="upper right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
