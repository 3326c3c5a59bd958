"""A run's evaluations: AutoAttack, typical and atypical images, and a second evaluation."""

import json

import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.protocol import Outcome
from bat_jax.attacks.verdict_file import VerdictFile
from bat_jax.attacks.versions import STANDARD
from bat_jax.data.corruptions.__main__ import make
from bat_jax.errors import UserError
from bat_jax.evaluation import records, runs
from bat_jax.jobs import evaluate_run, train_and_evaluate
from bat_jax.jobs.final import _for_robustbench
from bat_jax.report import single
from bat_jax.training.building import build
from bat_jax.training.saved import read_run
from tests import command
from tests.estimates import write_digits_estimates
from tests.training.conftest import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on digits with an estimates file; the folder and the results."""
    folder = tmp_path_factory.mktemp("evaluated")
    estimates = write_digits_estimates(folder / "memorization.npz")
    fields = {
        "memorization.estimates": str(estimates),
        "objective.bat.gate": "memorized",
        "train.epochs": 6,
    }
    results = train_and_evaluate(tiny("bat", **fields), folder / "run")
    return folder / "run", results


def test_typical_and_atypical_images_are_reported_apart(run):
    _, results = run
    test = results["last"]["test"]
    # The run has one of the ten atypical training images; it influences ten test images.
    assert test["atypical"]["clean"]["n"] == 10
    assert test["typical"]["clean"]["n"] == 439
    both = sum(
        test[group]["pgd2"]["accuracy"] * test[group]["pgd2"]["n"]
        for group in ("typical", "atypical")
    )
    assert both == pytest.approx(test["pgd2"]["accuracy"] * 449)
    assert "autoattack" not in test


def test_a_finished_run_is_evaluated_again_with_autoattack(run):
    folder, results = run
    config = configs.evaluation()
    config.run = str(folder)
    config.attack.epsilon = 0.05
    config.evaluation.attacks = ("apgd-ce",)
    config.evaluation.by = ("class",)
    config.evaluation.subset = 48
    config.evaluation.batch_size = 24
    config.evaluation.search_dtype = "bfloat16"
    config.checkpoints = ("last",)
    again, workdir = evaluate_run(config)
    assert workdir == folder / "evaluation-linf-0.05"
    assert set(again) == {"last", "seconds", "attack_seconds"}
    assert again["attack_seconds"]["last"]["apgd-ce"] > 0
    test = again["last"]["test"]
    assert test["autoattack"]["n"] == 48
    assert test["autoattack"]["accuracy"] <= test["pgd2"]["accuracy"] <= test["clean"]["accuracy"]
    assert again["last"]["broken_by"]["apgd-ce"] == round(
        48 * (test["clean"]["accuracy"] - test["autoattack"]["accuracy"])
    )
    by_class = again["last"]["by"]["class"]
    assert sum(found["autoattack"]["n"] for found in by_class.values()) == 48
    with np.load(workdir / "examples.npz") as examples:
        sevens = examples["last_autoattack"][examples["labels"] == 7]
        assert by_class["7"]["autoattack"]["accuracy"] == sevens.mean()
        assert examples["last_autoattack"].mean() == test["autoattack"]["accuracy"]
        assert len(examples["ids"]) == 48
    # The run's own results are as they were.
    assert json.loads((folder / "results.json").read_bytes()) == results


@pytest.mark.usefixtures("undrawn")
def test_the_command_evaluates_a_run(run, tmp_path):
    folder, results = run
    fields = {"run": folder, "evaluation.attacks": "()", "checkpoints": "('last',)"}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    ended = command.launch("--config=evaluation", f"--workdir={tmp_path / 'again'}", *flags)
    assert ended.returncode == 0, ended.stderr
    assert "last clean" in ended.stdout
    assert f"report: {tmp_path}/again/report.html" in ended.stdout
    again = json.loads((tmp_path / "again" / "results.json").read_bytes())
    assert set(again) == {"last", "seconds"}
    assert again["last"] == results["last"]


def test_a_dry_run_of_an_evaluation_prints_its_config(tmp_path):
    ended = command.launch("--config=evaluation", f"--config.run={tmp_path}", "--dry_run")
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert (printed["job"], printed["run"]) == ("evaluation", str(tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_run_is_evaluated_on_corrupted_images(run, tmp_path):
    folder, _ = run
    make("digits", None, tmp_path / "digits-c", seed=0)
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.attacks = config.evaluation.losses = ()
    config.evaluation.corruptions.path = str(tmp_path / "digits-c")
    config.evaluation.corruptions.names = ("gaussian_noise",)
    config.evaluation.subset = 24
    config.evaluation.batch_size = 24
    results, _ = evaluate_run(config, folder / "corrupted")
    for state in ("best", "last"):
        by = results[state]["corruptions"]["by"]
        assert list(by) == ["gaussian_noise"]
        assert list(by["gaussian_noise"]) == ["mean", "1", "2", "3", "4", "5"]


def test_only_an_evaluation_needs_the_corrupted_images_of_a_run(run, tmp_path):
    stored = json.loads((run[0] / "config.json").read_bytes())
    gone = {"path": str(tmp_path / "gone"), "names": ["fog"]}
    stored["config"]["evaluation"]["corruptions"] = gone
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert read_run(tmp_path).corrupted is None
    with pytest.raises(UserError, match="gone: is not a folder"):
        read_run(tmp_path, configs.evaluation())


def test_autoattack_attacks_the_states_that_are_named(run):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.attacks = ("apgd-ce",)
    config.evaluation.attacked = ("best",)
    config.evaluation.subset = 24
    config.evaluation.batch_size = 24
    results, _ = evaluate_run(config, folder / "best_attacked")
    assert "autoattack" in results["best"]["test"]
    assert "autoattack" not in results["last"]["test"]
    assert "broken_by" not in results["last"]


def test_autoattack_resumes_where_it_stopped(run, monkeypatch):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.attacks = ("apgd-ce", "apgd-dlr")
    config.evaluation.subset = 96
    config.evaluation.batch_size = 8
    config.checkpoints = ("last",)
    whole, _ = evaluate_run(config, folder / "whole")
    written = []
    original = VerdictFile.write

    def interrupted(self, verdicts):
        original(self, verdicts)
        written.append(verdicts)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(VerdictFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(config, folder / "halves")
    assert not (folder / "halves" / "results.json").exists()
    monkeypatch.undo()
    resumed, _ = evaluate_run(config, folder / "halves")
    assert resumed["last"] == whole["last"]


@pytest.fixture
def nothing_found(monkeypatch):
    """Makes every attack of AutoAttack find nothing."""

    def find_nothing(engine, attack, images, labels, targets, keys, scale=None):
        return Outcome(images.copy(), np.zeros(len(images), bool), np.zeros(len(images), bool))

    monkeypatch.setattr(Engine, "run", find_nothing)


@pytest.mark.usefixtures("nothing_found")
def test_a_tolerance_gives_an_interval_and_later_the_exact_verdict(run):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.attacks = ("apgd-ce", "fab-t")
    config.evaluation.tolerance = 0.05
    config.evaluation.batch_size = 8
    config.checkpoints = ("last",)
    sampled, workdir = evaluate_run(config, folder / "sampled")
    last = sampled["last"]
    sample = last["sample"]
    assert sample["attacks"] == ["fab-t"]
    assert 0 < sample["drawn"] < sample["images"]
    assert sample["images"] == round(449 * last["test"]["clean"]["accuracy"])
    low, high = sample["interval"]
    assert 0 < high - low <= 0.05
    found = last["test"]["autoattack"]
    assert found["interval"][0] < low < found["accuracy"] == high < found["interval"][1]
    lines = records.table(sampled).split("\n")
    assert any(line.startswith("last autoattack (sampled) ") for line in lines)
    assert any(f"fab-t on {sample['drawn']} of {sample['images']} images" in line for line in lines)
    with np.load(workdir / "examples.npz") as examples:
        not_run = examples["last_not_run"]
        assert not_run.sum() == sample["images"] - sample["drawn"]
        assert examples["last_autoattack"][not_run].all()
    page = single._page(runs.read(workdir))
    assert "AutoAttack (apgd-ce, fab-t; sampled) 1" in page.summary
    rows = page.sections[0].tables[0].rows
    assert "last, AutoAttack (apgd-ce, fab-t; sampled)" in [row[0] for row in rows]
    sentence = f"fab-t on {sample['drawn']} of {sample['images']} images, of which they broke"
    assert sentence in page.sections[0].text[-1]

    config.evaluation.tolerance = None
    (workdir / "report.html").write_text("a page of the sampled verdicts")
    exact, _ = evaluate_run(config, folder / "sampled")
    assert not (workdir / "report.html").exists()
    stored = json.loads((workdir / "config.json").read_bytes())
    assert stored["config"]["evaluation"]["tolerance"] is None
    assert "sample" not in exact["last"]
    assert exact["last"]["test"]["autoattack"] == last["test"]["clean"]
    assert exact["last"]["test"]["clean"] == last["test"]["clean"]
    with np.load(workdir / "examples.npz") as examples:
        assert "last_not_run" not in examples


def test_a_run_is_evaluated_in_l1(run, monkeypatch):
    def shrink(engine, attack, images, labels, targets, keys, scale=None):
        assert (attack.norm, attack.epsilon) == ("l1", 12.0)
        return Outcome(0 * images, np.ones(len(images), bool), np.zeros(len(images), bool))

    monkeypatch.setattr(Engine, "run", shrink)
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.attack.norm, config.attack.epsilon = "l1", 12.0
    config.evaluation.attacks = STANDARD
    config.evaluation.attacked = config.checkpoints = ("last",)
    config.evaluation.subset = config.evaluation.batch_size = 24
    with pytest.raises(
        UserError, match=r"losses is None; expected config\.evaluation\.losses=\(\)"
    ):
        evaluate_run(config)
    config.evaluation.losses = ()
    results, workdir = evaluate_run(config)
    assert workdir == folder / "evaluation-l1-12"
    assert set(results["last"]["test"]) >= {"clean", "autoattack"}
    assert not list(workdir.glob("robustbench*"))
    page = single._page(runs.read(workdir))
    assert page.facts["Attack"].startswith("L1, epsilon 12")


@pytest.mark.usefixtures("nothing_found")
def test_a_run_has_the_form_of_robustbench(run):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.attacks = STANDARD
    config.evaluation.losses = ()
    config.evaluation.attacked = ("best",)
    config.evaluation.subset = 24
    config.evaluation.batch_size = 24
    results, workdir = evaluate_run(config, folder / "standard")
    (path,) = workdir.glob("robustbench*")
    assert path.name == "robustbench_best.json"
    info = json.loads(path.read_bytes())
    test = results["best"]["test"]
    assert info["autoattack_acc"] == f"{100 * test['autoattack']['accuracy']:.2f}"
    assert info["architecture"] == "tests.networks:create"
    assert info["footnote"] == "On 24 of 449 test images."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"data.classes": (3, 1)}, "On {} test images of 2 of its classes."),
        ({"data.tested": 50}, "On {} held-out training images."),
        (
            {"data.classes": (3, 1), "data.tested": 50},
            "On {} held-out training images of 2 of its classes.",
        ),
    ],
)
def test_robustbench_is_told_which_images_were_tested(fields, expected):
    experiment = build(tiny("pgd_at", **{"data.subset": 64, **fields}))
    n = len(experiment.dataset.test)
    test = {"clean": {"accuracy": 0.5, "n": n, "interval": [0, 1]}}
    (info,) = _for_robustbench(experiment, {"weights": {"test": test}}).values()
    assert info["footnote"] == (expected and expected.format(n))


def test_the_tolerance_of_a_run_is_not_that_of_an_evaluation(run, tmp_path):
    folder, _ = run
    content = json.loads((folder / "config.json").read_bytes())
    content["config"]["evaluation"]["tolerance"] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_run(tmp_path).config.evaluation.tolerance == 0.5
    assert read_run(tmp_path, configs.evaluation()).config.evaluation.tolerance is None


def test_another_attack_does_not_choose_another_best(run):
    folder, results = run
    config = configs.evaluation()
    config.run = str(folder)
    config.evaluation.num_steps = 1
    config.evaluation.attacks = ()
    again, _ = evaluate_run(config, folder / "pgd1")
    assert again["best"]["step"] == results["best"]["step"]
    assert again["best"]["test"]["clean"] == results["best"]["test"]["clean"]
    assert "pgd1" in again["best"]["test"]


def test_wrong_evaluations_are_refused(run):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    with pytest.raises(UserError, match="is the run itself"):
        evaluate_run(config, folder)
    with pytest.raises(UserError, match="is among the run's checkpoints"):
        evaluate_run(config, folder / "checkpoints" / "again")
    config.checkpoints = ("first",)
    with pytest.raises(UserError, match=r"config\.checkpoints is \('first',\); expected every"):
        evaluate_run(config, folder / "first")
    assert not (folder / "first").exists()


def test_an_l1_attack_that_reaches_any_image_is_refused(run):
    folder, _ = run
    config = configs.evaluation()
    config.run = str(folder)
    config.attack.norm, config.attack.epsilon, config.evaluation.losses = "l1", 65.0, ()
    with pytest.raises(UserError, match=r"attack\.epsilon is 65\.0; expected at most 64 for l1"):
        evaluate_run(config, folder / "l1")


def test_a_folder_without_a_run_is_refused(tmp_path):
    config = configs.evaluation()
    with pytest.raises(UserError, match=r"config\.run is not set"):
        evaluate_run(config)
    config.run = str(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        evaluate_run(config)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not a run's config"):
        evaluate_run(config)
