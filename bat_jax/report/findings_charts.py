"""Charts of the findings: accuracies by epoch and typicality, trade-offs, and differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bat_jax.evaluation.records import CLEAN, GROUPS, Measure
from bat_jax.evaluation.tracking import SETS
from bat_jax.findings.claims import over
from bat_jax.findings.power import failed_arms
from bat_jax.findings.results import measure_title
from bat_jax.report.drawing import Figure
from bat_jax.report.style import Chart, fitted, legend, line, point


def by_epoch(
    method: str, part: str, curves: Mapping[str, Any], attack: str, *, tested: str
) -> Chart:
    """Returns a chart of clean and robust accuracy by epoch on typical and atypical images.

    Args:
      method: the arm.
      part: `train` or `test`.
      curves: the accuracies by epoch, by set.
      attack: the key of the attack.
      tested: what the images of `test` are.
    """
    sets = [name for name in SETS if name.startswith(part) and name in curves]
    seeds = curves[sets[0]]["clean"][0]["n"]

    def draw(figure: Figure) -> None:
        axes, entries = figure.subplots(), []
        for number, name in enumerate(sets):
            for dash, measure in enumerate((CLEAN.key, attack)):
                epochs, values = curves[name]["epochs"], curves[name][measure]
                group = name.partition("_")[2]
                (drawn,) = axes.plot(
                    epochs,
                    [100 * value["mean"] for value in values],
                    **{**line(dash), "color": f"C{number}"},
                )
                text = f"{group}, {_title(measure)} (n = {curves[name]['images']})"
                entries.append((drawn, text))
                if seeds > 1:
                    low, high = np.transpose([value["interval"] for value in values])
                    axes.fill_between(
                        epochs, 100 * low, 100 * high, color=f"C{number}", alpha=0.15, linewidth=0
                    )
        axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 101))
        legend(figure, entries)

    ends = "; ".join(
        f"{name.partition('_')[2]}, {_title(measure)}: {over(curves[name][measure][-1])} %"
        for name in sets
        for measure in (CLEAN.key, attack)
    )
    where = {"train": "training images", "test": tested}[part]
    return Chart(
        f"{method}_{part}_by_epoch",
        f"{method}: {where} by epoch",
        f"Line chart of accuracy in percent by epoch on {where}. At the end: {ends}.",
        f"Mean over {seeds} seed(s); bands are 95 % intervals over seeds.",
        draw,
        height=3.1,
    )


def by_typicality(
    summary: Mapping[str, Any],
    arms: Sequence[str],
    measure: str,
    state: str,
    name: str,
    heading: str,
) -> Chart:
    """Returns a chart of accuracy on typical and atypical test images, one row per arm."""
    accuracies, title = summary["accuracies"], measure_title(summary, measure)
    groups = [group for group in GROUPS if group in accuracies[arms[0]][state]]

    def draw(figure: Figure) -> None:
        axes, entries = figure.subplots(), []
        for number, group in enumerate(groups):
            values = [accuracies[arm][state][group][measure] for arm in arms]
            drawn = axes.errorbar(
                [100 * value["mean"] for value in values],
                np.arange(len(arms)) + 0.2 * (number - 0.5),
                xerr=_bars(values),
                **point(number),
                capsize=2,
                linestyle="none",
            )
            entries.append((drawn, f"{group} (n = {values[0]['images']})"))
        names = [arm.replace("-without-", " without ") for arm in arms]
        ticks = [fitted(name, inches=1.4, size=9.0, lines=2) for name in names]
        axes.set_yticks(range(len(arms)), ticks)
        axes.set(xlabel=f"accuracy, {title} (%)", ylim=(len(arms) - 0.5, -0.5))
        legend(figure, entries)

    numbers = "; ".join(
        f"{arm}: " + ", ".join(f"{g} {over(accuracies[arm][state][g][measure])}" for g in groups)
        for arm in arms
    )
    return Chart(
        name,
        f"{heading}: {title} accuracy by typicality",
        f"Dot plot of accuracy in percent. {numbers}.",
        f"{state.capitalize()} checkpoint, mean and 95 % interval over seeds.",
        draw,
        height=1.2 + 0.42 * len(arms),
    )


def trade_off(
    summary: Mapping[str, Any],
    arms: Sequence[str],
    attack: str,
    state: str,
    name: str = "trade_off",
) -> Chart:
    """Returns a chart of clean against robust accuracy of some arms on all test images."""
    title = measure_title(summary, attack)
    # Arms with a run at chance have intervals of 0 to 100 %, which would hide the others.
    failed = failed_arms(summary)
    arms, left_out = [a for a in arms if a not in failed], [a for a in arms if a in failed]
    accuracies = [summary["accuracies"][arm][state]["all"] for arm in arms]

    def draw(figure: Figure) -> None:
        axes, entries = figure.subplots(), []
        for number, (arm, found) in enumerate(zip(arms, accuracies, strict=True)):
            drawn = axes.errorbar(
                100 * found["clean"]["mean"],
                100 * found[attack]["mean"],
                xerr=_bars([found["clean"]]),
                yerr=_bars([found[attack]]),
                **point(number),
                capsize=2,
                elinewidth=0.8,
                linestyle="none",
            )
            entries.append((drawn, arm))
        axes.set(xlabel="clean accuracy (%)", ylabel=f"accuracy under {title} (%)")
        legend(figure, entries)

    numbers = "; ".join(
        f"{arm}: clean {over(found['clean'])}, {title} {over(found[attack])}"
        for arm, found in zip(arms, accuracies, strict=True)
    )
    return Chart(
        f"{name}_{state}",
        f"Clean against robust accuracy, {state} checkpoint",
        f"Scatter plot of clean against robust accuracy in percent. {numbers}.",
        "Mean and 95 % interval over seeds."
        + (f" Not shown, as a run failed to train: {', '.join(left_out)}." if left_out else ""),
        draw,
        height=3.5,
    )


def differences(
    name: str, title: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Chart:
    """Returns a chart of differences of accuracies, one row per difference.

    Args:
      name: of the chart's file.
      title: of the chart.
      found: by data set and name, at least one difference over seeds.
    """
    rows = list(dict.fromkeys(row for values in found.values() for row in values))

    def draw(figure: Figure) -> None:
        axes, entries = figure.subplots(), []
        for number, (data, by_name) in enumerate(found.items()):
            values = [by_name[row] for row in rows if row in by_name]
            if not values:
                continue
            means = 100 * np.array([value["mean"] for value in values])
            ends = 100 * np.array([value.get("interval", [value["mean"]] * 2) for value in values])
            drawn = axes.errorbar(
                means,
                np.array([index for index, row in enumerate(rows) if row in by_name])
                + 0.25 * (number - (len(found) - 1) / 2),
                xerr=[means - ends[:, 0], ends[:, 1] - means],
                **point(number),
                capsize=2,
                linestyle="none",
            )
            entries.append((drawn, data))
        axes.axvline(0, color="C6", linewidth=0.8)
        ticks = [fitted(row, inches=1.9, size=7.0, lines=3) for row in rows]
        axes.set_yticks(range(len(rows)), ticks, fontsize=7)
        axes.set(xlabel="difference (points)", ylim=(len(rows) - 0.5, -0.5))
        legend(figure, entries)

    return Chart(
        name,
        title,
        f"Dot plot of {len(rows)} differences in points; the numbers are below.",
        "Mean over seeds and 95 % interval. Above 0 the finding's direction. Differences of arms"
        " with a run at chance are not shown.",
        draw,
        height=1.2 + 0.4 * len(rows),
    )


def _title(key: str) -> str:
    return Measure.parse(key).title


def _bars(values: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Returns the distances to the intervals' ends in percent; None without intervals."""
    if any("interval" not in value for value in values):
        return None
    return np.transpose(
        [
            [
                100 * (value["mean"] - value["interval"][0]),
                100 * (value["interval"][1] - value["mean"]),
            ]
            for value in values
        ]
    )
