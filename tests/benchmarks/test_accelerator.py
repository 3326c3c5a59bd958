"""The program for accelerators: its records, its time, its failures, and the whole on CPU."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import types
from collections import Counter
from pathlib import Path

import accelerator
import feeding
import numpy as np
import parts
import pytest
from stages import cifar100, clock, memorization, recipes, typicality
from stages.clock import Clock, OutOfTime
from stages.memorization import influence_of
from stages.records import MEASURED, NOTE, Records
from stages.stage import Run, Stage, with_smaller_batches

from bat_jax.config import default
from bat_jax.errors import UserError
from bat_jax.memorization import EstimatorOutput, Influence
from bat_jax.memorization.store import Scores
from bat_jax.runtime import backend
from tests.data.archives import make_cifar100

ROOT = Path(__file__).parents[2]
ABOUT = {"precision": "float32", "seeds": (0,)}


def records(path, *, card="H100", smoke=False):
    return Records(path / "records.jsonl", card=card, versions={"jax": "1"}, smoke=smoke)


def stage(path, *, seconds=100.0):
    run = Run(records(path), Clock(seconds), False, None, None, path, (0,), ("pgd_at",))
    return Stage("step", run, box=50.0)


@pytest.mark.parametrize("passed", [True, False])
def test_a_check_that_failed_is_a_failure_and_is_made_again(tmp_path, passed):
    found = records(tmp_path)
    found.measured("sanity/a", {"passed": passed}, precision="", seeds=(0,), seconds=1.0)
    assert found.failures == (not passed)
    again = records(tmp_path).find("sanity/a", by_card=True)
    assert again == ({"passed": True} if passed else None)


def lines(path):
    return [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]


def test_a_figure_is_on_disk_at_once_and_names_what_it_was_measured_with(tmp_path, capsys):
    records(tmp_path).measured("step/a", {"ms": 1.5}, seconds=2.0, **ABOUT)
    (found,) = lines(tmp_path)
    assert found["values"] == {"ms": 1.5}
    assert {"stage": "step", "card": "H100", "versions": {"jax": "1"}}.items() <= found.items()
    assert {"precision": "float32", "seeds": [0], "seconds": 2.0}.items() <= found.items()
    assert capsys.readouterr().out == "step/a: ms 1.5 [H100; jax 1; float32; seed 0]\n"


def test_a_later_run_finds_the_figures_of_the_same_card(tmp_path):
    records(tmp_path).measured("step/a", {"ms": 1.5}, seconds=2.0, **ABOUT)
    assert records(tmp_path).find("step/a", by_card=True) == {"ms": 1.5}
    assert records(tmp_path, card="H200").find("step/a", by_card=True) is None
    assert records(tmp_path, card="H200").find("step/a", by_card=False) == {"ms": 1.5}
    assert records(tmp_path, smoke=True).find("step/a", by_card=True) is None


def test_half_a_line_is_left_and_the_rest_is_read(tmp_path, capsys):
    first = records(tmp_path)
    first.measured("step/a", {"ms": 1.5}, seconds=2.0, **ABOUT)
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "step/b", "sta')
    again = records(tmp_path)
    assert "line 2 is no record" in capsys.readouterr().err
    again.measured("step/b", {"ms": 2.5}, seconds=2.0, **ABOUT)
    found = records(tmp_path)
    assert found.find("step/a", by_card=True) == {"ms": 1.5}
    assert found.find("step/b", by_card=True) == {"ms": 2.5}
    assert b'{"key": "step/b", "sta\n' in path.read_bytes()


def test_a_reason_is_recorded_once(tmp_path, capsys):
    for _ in range(2):
        records(tmp_path).missing("step/a", "skipped", "no peer", **ABOUT)
    assert len(lines(tmp_path)) == 1
    assert capsys.readouterr().out.count("step/a: skipped: no peer") == 2


def test_a_folder_in_place_of_the_records_is_refused(tmp_path):
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(UserError, match="expected a file of records"):
        records(tmp_path)


def test_what_is_measured_is_not_measured_again(tmp_path):
    assert stage(tmp_path).measure("a", lambda: {"ms": 1.0}, **ABOUT) == {"ms": 1.0}
    assert stage(tmp_path).measure("a", lambda: pytest.fail("again"), **ABOUT) == {"ms": 1.0}
    assert len(lines(tmp_path)) == 1


def test_too_little_time_is_said(tmp_path):
    found = stage(tmp_path, seconds=5.0)
    assert found.measure("a", lambda: pytest.fail("began"), needs=30.0, **ABOUT) is None
    (record,) = lines(tmp_path)
    assert record["state"] == "skipped"
    assert record["why"].startswith("needs 30 s, and ")


def test_what_takes_too_long_is_ended(tmp_path):
    began = time.monotonic()
    found = stage(tmp_path, seconds=0.2)
    assert found.measure("a", lambda: time.sleep(20), **ABOUT) is None
    assert time.monotonic() - began < 10
    assert lines(tmp_path)[0]["why"].startswith("out of time after")


def test_a_run_that_listens_gets_the_signal_of_the_end():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Clock(0.05).limiting():
            while not heard:
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_an_end_that_python_drops_comes_again(monkeypatch):
    monkeypatch.setattr(clock, "_AGAIN", 0.5)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    dropped = []

    class Dropping:
        def __del__(self):
            try:
                time.sleep(20)
            finally:  # Python prints and drops an exception in a destructor.
                dropped.append(True)

    def work():
        Dropping()
        time.sleep(20)

    with pytest.raises(OutOfTime), Clock(0.1).limiting():
        work()
    assert dropped


def test_a_training_that_saves_gets_the_signal_once(monkeypatch):
    monkeypatch.setattr(clock, "_AGAIN", 0.05)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Clock(0.02).limiting():
            time.sleep(0.2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_clock_ends_with_the_one_it_is_in():
    assert Clock(100.0, within=Clock(1.0)).left <= 1.0
    with pytest.raises(OutOfTime), Clock(0.0).limiting():
        time.sleep(1)


def test_a_failure_is_recorded_and_the_rest_goes_on(tmp_path, capsys):
    found = stage(tmp_path)

    def fail():
        raise ValueError("no such\nthing")

    assert found.measure("a", fail, **ABOUT) is None
    assert found.measure("b", lambda: {"ms": 1.0}, **ABOUT) == {"ms": 1.0}
    assert [line["state"] for line in lines(tmp_path)] == ["failed", "measured"]
    assert lines(tmp_path)[0]["why"] == "ValueError: no such thing"
    assert found.run.records.failures == 1
    # A later run tries again.
    assert stage(tmp_path).measure("a", lambda: {"ms": 3.0}, **ABOUT) == {"ms": 3.0}


def test_a_batch_that_is_too_large_is_halved_until_it_fits():
    def attempt(batch):
        if batch > 256:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return {"ms": float(batch)}

    assert with_smaller_batches(1024, attempt) == {
        "ms": 256.0,
        "batch": 256,
        "too_large": [1024, 512],
    }
    assert with_smaller_batches(64, attempt) == {"ms": 64.0, "batch": 64}
    with pytest.raises(RuntimeError, match="RESOURCE"):
        with_smaller_batches(1024, attempt, least=512)


def test_a_training_that_memory_does_not_hold_goes_on_in_parts(tmp_path, monkeypatch):
    def train(config, folder):
        if config.train.accumulation < 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return folder.name

    monkeypatch.setattr(cifar100.jobs, "train_and_evaluate", train)
    config = default()
    found, folder, parts = cifar100.train(stage(tmp_path), config, "pgd_at-0")
    assert (found, folder.name, parts) == ("pgd_at-0-4_parts", "pgd_at-0-4_parts", 4)
    assert [line["state"] for line in lines(tmp_path)] == ["note", "note"]
    assert "on with the batch of 128 in 4 parts" in lines(tmp_path)[1]["why"]


def test_the_influence_of_pairs_is_that_of_their_class():
    block = Influence(np.array([1, 4]), np.array([0, 2, 3]), np.arange(6.0).reshape(2, 3))
    found = EstimatorOutput(*(np.zeros(5),) * 2, *(np.zeros(5, np.int64),) * 2, (block,))
    pairs = np.array([4, 1, 0, 4]), np.array([2, 3, 0, 1])
    np.testing.assert_array_equal(influence_of(found, *pairs), [4.0, 2.0, np.nan, np.nan])


@pytest.fixture
def program(monkeypatch):
    """The program in this process, whose JAX has been set up already."""
    monkeypatch.setattr(accelerator, "prepare", lambda options: None)
    monkeypatch.setattr(backend, "prepare", lambda **settings: None)
    return accelerator.main


def refused(program, capsys, *arguments):
    assert program([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_without_an_accelerator_there_is_nothing_to_measure(program, capsys, tmp_path):
    line = refused(program, capsys, "--budget=10", f"--out={tmp_path / 'out'}")
    assert line.startswith("accelerator.py: JAX found no accelerator, only CPU; expected a GPU")
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_stage_whose_packages_are_missing_fails_and_the_rest_goes_on(
    program, capsys, tmp_path, monkeypatch
):
    ran = []
    monkeypatch.setitem(sys.modules, "stages.autoattack", None)
    monkeypatch.setitem(sys.modules, "stages.ensemble", types.SimpleNamespace(run=ran.append))
    assert program(["--smoke", "--stages=autoattack,ensemble", f"--out={tmp_path}"]) == 1
    assert len(ran) == 1
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["state"] == "failed"
    assert "stages.autoattack" in capsys.readouterr().out


def test_a_stage_that_raises_fails_and_the_rest_goes_on(program, capsys, tmp_path, monkeypatch):
    ran = []

    def failing(stage):
        raise UserError("no such thing; expected another")

    monkeypatch.setitem(sys.modules, "stages.autoattack", types.SimpleNamespace(run=failing))
    monkeypatch.setitem(sys.modules, "stages.ensemble", types.SimpleNamespace(run=ran.append))
    assert program(["--smoke", "--stages=autoattack,ensemble", f"--out={tmp_path}"]) == 1
    assert len(ran) == 1
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["why"] == "UserError: no such thing; expected another"


def test_rounds_of_members_are_stored_and_go_on_where_they_stopped(tmp_path, monkeypatch):
    make_cifar100(tmp_path / "cifar-100-binary.tar.gz", train=2000, test=100, classes=100)
    trained = []

    class Made:
        round_size = 2

        def __init__(self, experiment, members):
            del members
            self._sizes = len(experiment.train), len(experiment.dataset.test)

        def train(self, members):
            trained.extend(members.tolist())
            if len(trained) == 4:
                raise OutOfTime  # The second round is not finished.
            train, test = self._sizes
            masks = np.arange(2)[:, None] == np.arange(train) % 2
            return Scores(members, masks, np.ones((2, train), bool), np.ones((2, test), bool))

    monkeypatch.setattr(memorization, "Ensemble", Made)
    run = Run(records(tmp_path, smoke=True), Clock(100.0), True, tmp_path, None, tmp_path, (0,), ())
    memorization.run(Stage("memorization", run, box=100.0))
    memorization.run(Stage("memorization", run, box=100.0))
    assert trained == [0, 1, 2, 3, 2, 3]
    measured = [line for line in lines(tmp_path) if line["state"] == MEASURED]
    assert [line["values"]["members"] for line in measured] == [2, 4]


def test_the_small_files_of_a_run_stand_beside_the_records(tmp_path):
    run = tmp_path / "runs" / "bat-0"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("results.json", "examples.npz"):
        (run / name).write_text(name)
    cifar100._keep(stage(tmp_path), run, "bat-0")
    with tarfile.open(tmp_path / "bat-0.tar") as archive:
        assert archive.getnames() == ["bat-0/results.json", "bat-0/examples.npz"]
        assert archive.extractfile("bat-0/examples.npz").read() == b"examples.npz"


def test_data_that_are_missing_or_damaged_end_before_the_first_stage(program, capsys, tmp_path):
    given = ("--smoke", f"--out={tmp_path / 'out'}", f"--data={tmp_path / 'data'}")
    assert "no such folder" in refused(program, capsys, *given)
    make_cifar100(tmp_path / "cifar-100-binary.tar.gz")
    first, second = parts.pack(tmp_path / "cifar-100-binary.tar.gz", tmp_path / "data")
    content = first.read_bytes()
    first.unlink()
    assert "part-1-of-2.npz: no such file" in refused(program, capsys, *given)
    first.write_bytes(content[:-100])
    assert "part-1-of-2.npz: is damaged" in refused(program, capsys, *given)
    first.unlink()
    second.unlink()
    # Not the images that a run without --data made for itself.
    (tmp_path / "out" / "work" / "trial" / "toy-data").mkdir(parents=True)
    assert "cifar-100-binary" in refused(program, capsys, *given)


def test_what_a_step_hides_of_a_batch():
    seconds = {"device": [1.0, 1.0, 2.0], "host": [1.1, 1.2, 2.2], feeding.ALONE: [0.4, 0.4, 0.4]}
    assert feeding.ratio(seconds) == pytest.approx(1.1)
    assert feeding.hidden(seconds) == pytest.approx(1 - 0.2 / 0.4)
    assert feeding.hidden({**seconds, feeding.ALONE: [0.001] * 3}) is None


@pytest.mark.parametrize("method", accelerator.METHODS)
def test_a_method_has_a_fast_recipe(tmp_path, method):
    config = recipes.training(stage(tmp_path).run, method, seed=3)
    assert (config.seed, config.train.epochs) == (3, 30)
    assert config.objective.name == method.removesuffix("_awp")
    assert (config.objective.awp.gamma > 0) == method.endswith("_awp")


def test_a_run_is_compared_with_released_memorization(tmp_path, monkeypatch):
    ids = np.array([5, 0, 3, 2])
    np.savez(
        tmp_path / "train_examples.npz",
        ids=ids,
        labels=np.zeros(4, np.int32),
        presented=np.array([1, 2, 4, 2]),
        loss_sum=np.float32([0.5, 2.0, 8.0, 3.0]),  # Mean losses: 0.5, 1, 2, 1.5.
        forgotten=np.zeros(4, np.int32),
        ever_correct=np.ones(4, bool),
    )
    examples = {
        "ids": np.arange(4),
        "labels": np.zeros(4, np.int32),
        "best_clean": np.array([True, True, True, False]),
        "last_clean": np.zeros(4, bool),
    }
    monkeypatch.setattr(
        typicality.runs, "read", lambda run: types.SimpleNamespace(examples=examples)
    )
    released = tmp_path / "released"
    released.mkdir()
    assert typicality.of_run(tmp_path, released) == {}
    # 1 - score of ids 5, 0, 3, 2: 0.25, 0.5, 1, 0.75, which is half of the mean loss.
    scores = np.array([0.5, 0.0, 0.25, 0.0, 0.0, 0.75])
    np.savez(released / typicality.CSCORES, labels=np.zeros(6, np.int32), scores=scores)
    pairs = {"tr_idx": [0, 1, 0], "tt_idx": [3, 3, 1], "infl": [0.2] * 3, "mem": [0.5] * 3}
    np.savez(released / typicality.PAIRS, **pairs)
    found = typicality.of_run(tmp_path, released)
    for name in ("rank_correlation", "pearson", "cosine"):
        assert found[f"loss_{name}"] == pytest.approx(1)
    assert found["loss_n"] == 4
    assert (found["atypical_n"], found["other_n"]) == (2, 2)
    assert (found["atypical_best_clean"], found["other_best_clean"]) == (0.5, 1.0)
    assert "atypical_last_clean" not in found


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--budget=0"],
        ["--budget=9", "--stages=stp"],
        ["--smoke", "--seeds=a"],
        ["--smoke", "--methods=mart"],
    ],
)
def test_wrong_arguments_are_refused(program, arguments):
    with pytest.raises(SystemExit) as ended:
        program(arguments)
    assert ended.value.code == 2


@pytest.mark.slow
def test_every_stage_runs_at_toy_size_and_a_killed_run_goes_on(tmp_path):
    path = tmp_path / "records.jsonl"
    command = [sys.executable, ROOT / "benchmarks" / "accelerator.py", "--smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("XLA_FLAGS", None)
    first = subprocess.Popen(
        [*command, f"--out={tmp_path}"], env=environment, stdout=subprocess.DEVNULL
    )
    while not (path.exists() and b'"cifar100/bat/seed 0"' in path.read_bytes()):
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.wait()
    before = path.read_bytes()
    again = subprocess.run(
        [*command, f"--out={tmp_path}"], env=environment, check=True, text=True, capture_output=True
    )
    assert path.read_bytes().startswith(before)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    measured = [line for line in found if line["state"] == MEASURED]
    assert {line["stage"] for line in measured} == set(accelerator.BOXES)
    assert not [
        key for key, times in Counter(line["key"] for line in measured).items() if times > 1
    ]
    assert {line["state"] for line in found} <= {MEASURED, NOTE, "skipped"}
    assert all(line["values"].get("passed", True) for line in measured)
    for line in found:
        assert line["card"] == "cpu"
        assert line["versions"]["jax"]
        assert line["precision"]
        assert line["seeds"] == [0]
    assert "sanity/pgd: in the file already [cpu; jax " in again.stdout
