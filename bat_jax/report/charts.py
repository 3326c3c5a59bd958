"""Charts of runs: training curves, trade-off, typicality, weights."""

from collections.abc import Sequence

import numpy as np

from bat_jax.evaluation.records import (
    AUTOATTACK,
    CLEAN,
    GROUPS,
    STATES,
    WEIGHTS,
    Accuracy,
    Evaluation,
    Measure,
    kind_of_tested,
    percent,
    strongest,
)
from bat_jax.evaluation.runs import Run
from bat_jax.methods import WEIGHT_BINS, has_attack
from bat_jax.report.drawing import Figure, LogNorm
from bat_jax.report.style import Chart, fitted, legend, line, point
from bat_jax.training.scores import FGSM


def accuracy_curves(run: Run) -> Chart | None:
    """Returns a chart of accuracy by epoch, in training and on the validation images."""
    series = {f"training, {_trained_on(run)}": run.series("train", "accuracy")}
    for name in sorted({name for r in run.records if r["split"] == "validation" for name in r}):
        if Measure.is_key(name):
            measure = Measure.parse(name)
            series[f"validation, {measure.title}"] = run.series("validation", name)
    series["validation, FGSM"] = run.series("validation", FGSM)
    series = {name: points for name, points in series.items() if points[0]}
    if not series:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, (name, (epochs, values)) in enumerate(series.items()):
            (drawn,) = axes.plot(epochs, 100 * np.asarray(values), **line(number))
            entries.append((drawn, name))
        axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 101))
        legend(figure, entries)

    ends = "; ".join(f"{name}: {percent(values[-1])} %" for name, (_, values) in series.items())
    return Chart(
        "accuracy_by_epoch",
        "Accuracy by epoch",
        f"Line chart of accuracy in percent by epoch. At the end: {ends}.",
        "Training accuracy is measured on the training batches, attacked where the method attacks"
        f" them; the validation images (n = {run.config['data']['validation']}) select the best"
        " checkpoint.",
        draw,
    )


def loss_curves(run: Run) -> Chart | None:
    """Returns a chart of the training loss by epoch, and of the discrimination loss if any."""
    named = {"loss": "loss", "discrimination": "discrimination loss, unscaled"}
    series = {text: run.series("train", name) for name, text in named.items()}
    series = {name: points for name, points in series.items() if points[0]}
    if not series:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, (name, points) in enumerate(series.items()):
            (drawn,) = axes.plot(*points, **line(number))
            entries.append((drawn, name))
        axes.set(xlabel="epoch", ylabel="loss (nats)")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        legend(figure, entries)

    ends = "; ".join(
        f"{n}: {v[0]:.3g} at first, {v[-1]:.3g} at the end" for n, (_, v) in series.items()
    )
    return Chart(
        "loss_by_epoch",
        "Loss by epoch",
        f"Line chart of the training loss by epoch. {ends}.",
        "Each point averages the steps since the previous one.",
        draw,
    )


def trade_off(runs: Sequence[Run], names: Sequence[str]) -> Chart | None:
    """Returns a chart of clean against robust accuracy, if the runs have an attack in common.

    It shows the states that were evaluated with the attack, with intervals.
    """
    attack = common_attack(runs)
    if not attack.is_attack:
        return None
    points = [
        (number, name, state, test.title(attack), test.all[CLEAN], test.all[attack])
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
        for state, test in run.evaluations.items()
        if attack in test.all
    ]
    tests = [test for run in runs for test in run.evaluations.values() if attack in test.all]
    shown = _common_title(tests, attack)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, name, state, _, x, y in points:
            look = point(number)
            drawn = axes.errorbar(
                100 * x.accuracy,
                100 * y.accuracy,
                xerr=bars(x),
                yerr=bars(y),
                **look,
                markerfacecolor="none" if state == "last" else look["color"],
                capsize=2,
                elinewidth=0.8,
                linestyle="none",
            )
            # With several runs, the legend names each run once, by its `best` or only state.
            if len(runs) == 1 or state == runs[number].states[0]:
                entries.append((drawn, f"{name}, {state}"))
        axes.set(xlabel="clean accuracy (%)", ylabel=f"accuracy under {shown} (%)")
        legend(figure, entries)

    numbers = "; ".join(
        f"{name}, {state}: clean {x}, {title} {y}" for _, name, state, title, x, y in points
    )
    return Chart(
        "trade_off",
        "Clean against robust accuracy",
        f"Scatter plot of clean against robust accuracy in percent. {numbers}.",
        f"Bars are 95 % Wilson intervals over the {tested(*runs)}.{of_samples(tests, attack)}"
        f"{_markers([state for _, _, state, _, _, _ in points])} Shown are checkpoints evaluated"
        f" with {shown}.",
        draw,
        height=3.3,
    )


def _common_title(tests: Sequence[Evaluation], attack: Measure) -> str:
    """Returns the title of an attack that all tests have, and whether it differs among them."""
    titles = {test.title(attack) for test in tests}
    if len(titles) == 1:
        return titles.pop()
    is_mixed = len({test.is_estimate(attack) for test in tests}) > 1
    words = ["some sampled"] if is_mixed else []
    words += ["of different attacks"] if len({test.attacks for test in tests}) > 1 else []
    return f"{attack.title} ({'; '.join(words)})"


def _markers(states: Sequence[str]) -> str:
    """Returns what open and filled markers are, if there are both."""
    if not set(STATES) <= set(states):
        return ""
    others = " or the weights of a file" if WEIGHTS in states else ""
    return f" Filled markers: the best checkpoint{others}; open markers: the last."


def typicality(runs: Sequence[Run], names: Sequence[str]) -> Chart | None:
    """Returns a chart of accuracy on typical and atypical images, if these are known."""
    attack = common_attack(runs)
    states = {run.states[0] for run in runs}
    rows, shown = [], []
    for run, name in zip(runs, names, strict=True):
        state = run.states[0]
        title = name if len(states) == 1 else f"{name}, {state}"
        test = run.evaluations[state]
        groups = test.groups
        for measure in dict.fromkeys((CLEAN, attack)):
            if all(measure in groups.get(group, {}) for group in GROUPS):
                accuracies = [groups[group][measure] for group in GROUPS]
                rows.append((f"{title}, {test.title(measure)}", accuracies))
                shown.append(test)
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        for number, group in enumerate(GROUPS):
            values = [accuracies[number] for _, accuracies in rows]
            drawn = axes.errorbar(
                [100 * value.accuracy for value in values],
                np.arange(len(rows)) + 0.2 * (number - 0.5),
                xerr=np.concatenate([bars(value) for value in values], axis=1),
                **point(number),
                capsize=2,
                linestyle="none",
            )
            entries.append((drawn, f"{group} ({_count(values)})"))
        ticks = [fitted(name, inches=1.5, size=9.0, lines=2) for name, _ in rows]
        axes.set_yticks(range(len(rows)), ticks)
        axes.set(xlabel="accuracy (%)", xlim=(-1, 101), ylim=(len(rows) - 0.5, -0.5))
        legend(figure, entries)

    numbers = "; ".join(
        f"{name}: typical {typical}, atypical {atypical}" for name, (typical, atypical) in rows
    )
    checkpoint = f"Checkpoint: {runs[0].states[0]}. " if len(states) == 1 else ""
    return Chart(
        "typicality",
        "Accuracy by typicality",
        f"Dot plot of accuracy in percent on typical and atypical {tested(*runs)}. {numbers}.",
        f"{checkpoint}Bars are 95 % Wilson intervals.{of_samples(shown, attack)}",
        draw,
        height=1.4 + 0.4 * len(rows),
    )


def _count(values: Sequence[Accuracy]) -> str:
    """Returns how many images accuracies are of: `n = 449`, or `n = 440 to 449`."""
    least, most = min(value.n for value in values), max(value.n for value in values)
    return f"n = {least}" if least == most else f"n = {least} to {most}"


def weights(run: Run) -> Chart | None:
    """Returns a heat map of a method's weights: the share of images in each bin, by epoch."""
    records = [r for r in run.records if r["split"] == "train" and all(b in r for b in WEIGHT_BINS)]
    epochs = [float(record["epoch"]) for record in records]
    if len(epochs) < 2:
        return None
    shares = 100 * np.asarray([[float(record[name]) for record in records] for name in WEIGHT_BINS])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(False)
        edges = np.concatenate([[0.0], epochs])
        mesh = axes.pcolormesh(
            edges,
            np.linspace(0, 1, len(WEIGHT_BINS) + 1),
            np.ma.masked_less_equal(shares, 0),
            cmap="cividis",
            norm=LogNorm(vmin=0.1, vmax=100),
            rasterized=True,
        )
        bar = figure.colorbar(mesh, ax=axes, label="share of training images (%)")
        bar.set_ticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
        axes.set(xlabel="epoch", ylabel="weight", ylim=(0, 1))

    below = run.series("train", "weighted_down")[1]
    down = (
        f" Weights below 1: {percent(below[0])} % of the images at first,"
        f" {percent(below[-1])} % at the end."
        if below
        else ""
    )
    return Chart(
        "weights_by_epoch",
        "Weights by epoch",
        "Heat map of the share of training images by weight, in ten bins from 0 to 1, and epoch."
        + down,
        "Each column averages the steps since the previous one; cells without images are empty."
        " Before the start epoch, every weight is 1.",
        draw,
    )


def common_attack(runs: Sequence[Run]) -> Measure:
    """Returns the strongest attack that the first state of every run was evaluated with."""
    tests = [run.evaluations[run.states[0]].all for run in runs]
    for run in runs:
        if all(run.attack in test for test in tests):
            return run.attack
    # If no run's own attack is shared by all, take the strongest measure that every run has.
    return strongest([measure for measure in tests[0] if all(measure in test for test in tests)])


def tested(*runs: Run) -> str:
    """Returns what the images of an evaluation are: `test images`, or held-out training images."""
    kinds = {kind_of_tested(run.config.get("data", {}).get("tested", 0)) for run in runs}
    return kinds.pop() if len(kinds) == 1 else "test or held-out training images"


def of_samples(tests: Sequence[Evaluation], measure: Measure = AUTOATTACK) -> str:
    """Returns a sentence on the intervals of sampled accuracies, after a space; else nothing."""
    if not any(test.is_estimate(measure) for test in tests):
        return ""
    return " Those of sampled accuracies also cover the images not attacked by all attacks."


def file_of(run: Run) -> str:
    """Returns what was evaluated in place of a trained run: the weights of a file."""
    return f"the weights of a file (content {run.about['data']['weights']})"


def _trained_on(run: Run) -> str:
    if not has_attack(run.config["objective"]["name"]):
        return "clean"
    return f"{run.config['attack']['num_steps']}-step attack"


def bars(accuracy: Accuracy) -> np.ndarray:
    """Returns the distances to the interval's ends in percent, as `errorbar` takes them."""
    value, _, (low, high) = accuracy
    return 100 * np.asarray([[max(value - low, 0)], [max(high - value, 0)]])
