"""The report of one finished run."""

import json
import statistics

from bat_jax import methods
from bat_jax.attacks.versions import STANDARD
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import AUTOATTACK, CLEAN, WEIGHTS, is_standard
from bat_jax.evaluation.runs import Run
from bat_jax.report import (
    audit,
    charts,
    corruptions,
    curves,
    groups,
    matrices,
    pictures,
    proxies,
    unions,
)
from bat_jax.report.page import Page, Section, Table, write
from bat_jax.report.recipe import recipe
from bat_jax.runtime.storage import AnyPath


def report(folder: AnyPath, output: AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` of a finished run; returns the page's path.

    Raises:
      UserError: the folder holds no finished run.
    """
    return write(_page(runs.read(folder)), output)


def facts(run: Run) -> dict[str, str]:
    """Returns the facts of a run: data, model, attack, training, hardware and time."""
    config, results = run.config, run.results
    data, train = config["data"], config["train"]
    steps = f"{train['steps']} steps" if train["steps"] else f"{train['epochs']} epochs"
    versions = run.about["versions"]
    devices = run.about["devices"]
    model = config["model"]["name"] + (
        f", width {config['model']['width']}" if config["model"]["width"] else ""
    )
    hardware = {
        "Run on": f"{len(devices)} device(s), {devices[0]}; JAX {versions['jax']}",
        "Code": run.about["git"] or "not in a git repository",
    }
    if WEIGHTS in run.states:
        return {
            "Data": data["name"],
            "Model": f"{model}, {charts.file_of(run)}",
            "Attack": _threat(run),
            **hardware,
        }
    return {
        "Method": methods.title(config["objective"]["name"])
        + methods.options_title(config["objective"]),
        "Data": f"{data['name']}, {_classes(run)}{data['subset'] or 'all'} training images"
        f"{_left_out(run)}, {data['validation']} held out for validation{_tested(run)}",
        "Model": model,
        "Attack": _threat(run) + _training_attack(run),
        "Training": f"{steps}, batch {train['batch_size']}, seed {config['seed']},"
        f" {results['seconds']:,.0f} s",
        **({"Recipe": words} if (words := recipe(config)) else {}),
        **_speed(run),
        **hardware,
    }


def _threat(run: Run) -> str:
    """Returns the norm and the radius of the attacks that a run was evaluated with."""
    attack = run.config["attack"]
    return f"{attack['norm'].capitalize()}, epsilon {attack['epsilon']:.4g}"


def _training_attack(run: Run) -> str:
    """Returns the attack in training, if there was one within the same threat.

    An evaluation, which has no records, may have another norm or radius than the training had.
    """
    if not run.records or not methods.has_attack(run.config["objective"]["name"]):
        return ""
    attack = run.config["attack"]
    return f"; in training {attack['num_steps']} steps of {attack['step_size']:.4g}"


def _classes(run: Run) -> str:
    """Returns which classes a run used, if not all."""
    classes = run.config["data"].get("classes")
    return f"{len(classes)} of its classes, " if classes else ""


def _left_out(run: Run) -> str:
    """Returns which training images a run left out, if any."""
    path = run.config["data"].get("exclude")
    return f" without those of {path}" if path else ""


def _tested(run: Run) -> str:
    """Returns how many held-out training images a run was tested on, if not on test images."""
    if not run.config["data"].get("tested"):
        return ""
    n = run.evaluations[run.states[0]].all[CLEAN].n
    return f", tested on {n:,} held-out training images"


def _speed(run: Run) -> dict[str, str]:
    """Returns the median training speed, if it was recorded."""
    rates = run.series("train", "images_per_second")[1]
    if not rates:
        return {}
    shares = run.series("train", "utilisation")[1]
    of_peak = f", {100 * statistics.median(shares):.0f} % of the devices' peak" if shares else ""
    return {"Speed": f"{statistics.median(rates):,.0f} images/s{of_peak}"}


def robustness_note(run: Run) -> str:
    """Returns what the attacks that were run do and do not show."""
    if run.attack == AUTOATTACK:
        attacks = run.evaluations[run.states[0]].attacks
        if is_standard(attacks):
            return (
                "Robust accuracy is accuracy under AutoAttack, per image the worst case of its"
                " attacks."
            )
        missing = [name for name in STANDARD if name not in attacks]
        return (
            "Robust accuracy is accuracy under these attacks of AutoAttack alone, per image the"
            f" worst case: {', '.join(attacks)}. Without the other standard ones,"
            f" {', '.join(missing)}, it does not establish robustness."
        )
    if not run.attack.is_attack:
        return "No attack was run: these numbers do not measure robustness."
    return (
        f"{run.attack.title} alone does not establish robustness: evaluate with AutoAttack"
        " (configs/evaluation.py) before comparing."
    )


def results_table(run: Run) -> Table:
    """Returns a table of every accuracy of a run with its n and interval."""
    rows = []
    for state, test in run.evaluations.items():
        for group, accuracies in test.groups.items():
            for measure, found in accuracies.items():
                what = f"{state}, {test.title(measure)}" + (f", {group}" if group else "")
                rows.append((what, f"{found.n:,}", found.percent, found.interval_in_percent))
    return Table(
        f"Accuracy on the {charts.tested(run)}; 95 % Wilson intervals."
        f"{charts.of_samples(list(run.evaluations.values()))}",
        ("checkpoint, attack", "n", "%", "95 % interval"),
        tuple(rows),
    )


def _title(state: str) -> str:
    return "Weights of a file" if state == WEIGHTS else f"{state.capitalize()} checkpoint"


def _page(run: Run) -> Page:
    state = run.states[0]
    test = run.evaluations[state]
    shown = {measure: test.all[measure] for measure in (CLEAN, run.attack)}
    summary = "; ".join(
        f"{test.title(measure)} {found.percent} % (n = {found.n:,}, 95 % interval"
        f" {found.interval_in_percent})"
        for measure, found in shown.items()
    )
    broken = test.broken_by
    text = [robustness_note(run)]
    if broken:
        counts = ", ".join(f"{attack} {count}" for attack, count in broken.items())
        text.append(f"Images of the {state} checkpoint broken by each attack in turn: {counts}.")
    text += [
        f"Of the {name} checkpoint, a sample was attacked: {one.sample}."
        for name, one in run.evaluations.items()
        if one.sample
    ]
    training = [charts.accuracy_curves(run), charts.loss_curves(run), charts.weights(run)]
    comparisons = [charts.trade_off([run], [run.name]), charts.typicality([run], [run.name])]
    taken = pictures.of_run(run.folder) if run.records else []
    sections = [
        Section(
            "Results",
            tuple(text),
            (results_table(run),),
            tuple(chart for chart in comparisons if chart),
        ),
        *groups.sections(run),
        *corruptions.sections(run),
        *curves.sections(run),
        *unions.sections(run),
        *matrices.sections(run),
        Section("Training", charts=tuple(chart for chart in training if chart)),
        proxies.section(run) or Section("Proxies"),
        audit.section(run) or Section("Audit"),
        Section("Pictures", charts=tuple(taken)),
    ]
    return Page(
        title=run.name,
        summary=f"{_title(state)}, {charts.tested(run)}: {summary}.",
        facts=facts(run),
        sections=tuple(section for section in sections if section.charts or section.tables),
        details={"The whole config": json.dumps(run.config, indent=2)},
    )
