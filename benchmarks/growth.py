"""Draws how the cost of a training step grows with batch, width, attack steps and devices.

    python benchmarks/growth.py --out=benchmarks/growth.svg

PreActResNet-18, PGD-AT, float32, 32x32, JAX alone; one setting varies at a time around width 32,
batch 64 and ten attack steps, each in its own process. About eight minutes on two cores, half of it
compilation.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import sides
import train_step

FACTORS = {
    "batch": ("images in a batch", (0.25, 0.5, 1, 2)),
    "width": ("width (channels of the first stage)", (0.5, 1, 2)),
    "steps": ("attack steps", (0.1, 0.5, 1, 2)),
    "devices": ("CPU devices (on two cores)", (1, 2)),
}


def measured(case: dict[str, Any], times: int) -> list[float]:
    """Returns the seconds of each of `times` steps."""
    environment = {"JAX_NUM_CPU_DEVICES": str(case["devices"])}
    with sides.started({"jax": train_step.command("jax", case)}, environment) as running:
        return running["jax"].ask(times)["seconds"]


def draw(found: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Draws the medians with their ranges, and lines of proportional growth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "bat_jax", "font.size": 9})
    figure, panels = plt.subplots(1, len(found), figsize=(12, 3), layout="constrained")
    for panel, (name, points) in zip(panels, found.items(), strict=True):
        values = sorted(points)
        medians = [statistics.median(points[value]) for value in values]
        below = [median - min(points[value]) for median, value in zip(medians, values, strict=True)]
        above = [max(points[value]) - median for median, value in zip(medians, values, strict=True)]
        panel.errorbar(values, medians, (below, above), marker="o", capsize=3, color="#0072B2")
        panel.set_xlabel(FACTORS[name][0])
        panel.set_xticks(values)
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd")
        panel.set_axisbelow(True)
    panels[0].set_ylabel("seconds per step")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/growth.svg"))
    parser.add_argument("--times", type=int, default=4, help="steps timed at each setting")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--attack_steps", type=int, default=10)
    options = parser.parse_args()
    base = {
        **train_step.CASES["preact32"],
        "dtype": "float32",
        "objective": "pgd_at",
        "batch": options.batch,
        "width": options.width,
        "steps": options.attack_steps,
        "devices": 1,
    }
    known: dict[tuple[Any, ...], list[float]] = {}
    found: dict[str, dict[int, list[float]]] = {}
    rows = []
    for name, (_, factors) in FACTORS.items():
        found[name] = {}
        for factor in factors:
            case = {**base, name: round(base[name] * factor)}
            setting = tuple(case[varied] for varied in FACTORS)
            if setting not in known:
                known[setting] = measured(case, options.times)
            found[name][case[name]] = known[setting]
            rows.append((name, str(case[name]), sides.spread(known[setting])))
            print(*rows[-1], file=sys.stderr)
    sides.print_table(["varied", "value", "a step"], rows)
    draw(found, options.out)


if __name__ == "__main__":
    main()
