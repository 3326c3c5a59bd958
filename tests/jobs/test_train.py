"""Runs of the command as a user starts them, in their own process if they are to be stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bat_jax.training.checkpoints import Checkpoints
from tests import command as commands
from tests.data import archives

ROOT = Path(__file__).parents[2]
TINY = (
    "--config.data.validation=32",
    "--config.data.subset=256",
    "--config.model.name=tests.networks:create",
    "--config.attack.num_steps=2",
    "--config.programs.unroll=False",
    "--config.train.log_every=2",
    "--config.evaluation.num_steps=2",
    "--config.evaluation.batch_size=64",
    "--config.evaluation.losses=('cross_entropy',)",
    "--config.checkpoint.every_epochs=1",
    "--config.parallel.devices=1",
)


def command(workdir, *flags, config="digits_bat"):
    return [
        sys.executable,
        str(ROOT / "launch.py"),
        f"--config={ROOT}/configs/{config}.py",
        f"--workdir={workdir}",
        *flags,
    ]


def launch(workdir, *flags, config="digits_bat"):
    return commands.launch(f"--config={ROOT}/configs/{config}.py", f"--workdir={workdir}", *flags)


def refused(workdir, *flags):
    return commands.refused(
        f"--config={ROOT}/configs/digits_bat.py", f"--workdir={workdir}", *flags
    )


def checkpoint_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def final_state(workdir):
    """Returns the leaves of the newest checkpoint, bit for bit."""
    import orbax.checkpoint as ocp

    step = checkpoint_steps(workdir)[-1]
    path = (workdir / "checkpoints" / str(step) / "state").absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Restored without a sharding: as it was saved.
            state = checkpointer.restore(path)
    import jax

    return jax.device_get(jax.tree.leaves(state))


def assert_same_arrays(workdir, other, name):
    with np.load(workdir / name) as ours, np.load(other / name) as theirs:
        assert ours.files == theirs.files
        for key in ours.files:
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.fixture(autouse=True, scope="module")
def _without_pages():
    """Omits the page at the end of a run, which takes longer than these trainings."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bat_jax.report.report", lambda workdir: workdir)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of three epochs of four steps."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = launch(workdir, *TINY, "--config.train.epochs=3")
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_run_leaves_the_documented_files(finished):
    workdir, result = finished
    assert "best clean" in result.stdout
    results = json.loads((workdir / "results.json").read_bytes())
    for name in ("best", "last"):
        test = results[name]["test"]
        assert set(test) == {"clean", "pgd2"}
        for value in test.values():
            assert value["n"] == 449
            low, high = value["interval"]
            assert low <= value["accuracy"] <= high
        assert test["pgd2"]["accuracy"] <= test["clean"]["accuracy"]
    config = json.loads((workdir / "config.json").read_bytes())
    assert config["config"]["train"]["epochs"] == 3
    assert config["versions"]["jax"]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["split"] == "train"]
    assert [r["step"] for r in train] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in records if r["split"] == "validation"] == [4, 8, 12]
    assert {"loss", "accuracy", "weight", "discrimination", "learning_rate"} <= set(train[0])
    with np.load(workdir / "examples.npz") as examples:
        assert examples["ids"].shape == (449,)
        accuracy = examples["last_pgd2"].mean()
    assert accuracy == pytest.approx(results["last"]["test"]["pgd2"]["accuracy"])
    with np.load(workdir / "train_examples.npz") as seen:
        assert seen["ids"].shape == (256,)
        np.testing.assert_array_equal(seen["presented"], 3)
    assert any((workdir / "tensorboard").iterdir())
    assert not list(workdir.rglob("*.part"))


def test_a_finished_run_is_not_trained_again(finished):
    workdir, _ = finished
    before = (workdir / "results.json").read_bytes()
    again = launch(workdir, *TINY, "--config.train.epochs=3")
    assert again.returncode == 0
    assert "this run is finished" in again.stderr
    assert (workdir / "results.json").read_bytes() == before


def assert_ends_as(workdir, whole):
    """Resumes a run and compares it with an undisturbed one."""
    assert not (workdir / "results.json").exists()
    resumed = launch(workdir, *TINY, "--config.train.epochs=3")
    assert resumed.returncode == 0, resumed.stderr
    for found, expected in zip(final_state(workdir), final_state(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    ours, theirs = ((w / "results.json").read_text() for w in (workdir, whole))
    assert json.loads(ours)["best"] == json.loads(theirs)["best"]
    assert json.loads(ours)["last"] == json.loads(theirs)["last"]
    assert_same_arrays(workdir, whole, "train_examples.npz")


def test_a_run_that_is_stopped_and_resumed_ends_bit_identical(finished, tmp_path, monkeypatch):
    def stopped(*arguments, save=Checkpoints.save, **options):
        monkeypatch.setattr(Checkpoints, "save", save)
        save(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", stopped)
    ended = launch(tmp_path / "run", *TINY, "--config.train.epochs=3")
    assert ended.returncode == 128 + signal.SIGTERM
    assert re.search(r"stopped by SIGTERM: step \d+ of 12 is saved", ended.stderr)
    assert_ends_as(tmp_path / "run", finished[0])


def test_a_run_that_is_killed_and_resumed_ends_bit_identical(finished, tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(workdir, *TINY, "--config.train.epochs=3"),
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and '"validation"' in metrics.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert_ends_as(workdir, finished[0])


def damage(path):
    """Flips one bit in the middle of the largest file below a checkpoint's state."""
    victim = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    steps = checkpoint_steps(workdir)
    damage(workdir / "checkpoints" / str(steps[-1]) / "state")
    resumed = launch(workdir, *TINY, "--config.train.epochs=3")
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoints/{steps[-1]} is damaged" in resumed.stderr
    assert f"resuming from step {steps[-2]}" in resumed.stderr
    for found, expected in zip(final_state(workdir), final_state(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_half_written_checkpoint_is_ignored(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    steps = checkpoint_steps(workdir)
    newest = workdir / "checkpoints" / str(steps[-1])
    shutil.rmtree(newest / "state" / "d")
    resumed = launch(workdir, *TINY, "--config.train.epochs=3")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from step {steps[-2]}" in resumed.stderr


def test_a_workdir_of_another_config_is_refused_with_the_fields(finished):
    workdir, _ = finished
    error = refused(workdir, *TINY, "--config.train.epochs=4", "--config.seed=1")
    assert "seed: 0, 1" in error
    assert "train.epochs: 3, 4" in error


def test_a_second_process_in_a_workdir_is_refused(finished):
    import fcntl

    workdir, _ = finished
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = refused(workdir, *TINY, "--config.train.epochs=3")
    assert "another process is running in it" in error


def test_training_stops_at_the_first_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr("bat_jax.training.loop.together", lambda devices, dtype: 1.0)
    result = launch(tmp_path / "run", *TINY, "--config.train.optimizer.learning_rate=1e30")
    assert result.returncode == 1
    assert re.search(r"launch.py: step \d+: not finite: .*loss", result.stderr)
    assert re.search(r"training takes at least \d.* days, even at the devices' peak", result.stderr)
    assert not (tmp_path / "run" / "results.json").exists()
    # What was saved before, if anything, is finite; the state that is not was never saved.
    assert not any((tmp_path / "run" / "checkpoints").glob("[1-9]*"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    # Files of at most 2 KiB, and an error rather than a signal for more: as on a full disk.
    limited = ["bash", "-c", 'ulimit -f 2; trap "" XFSZ; exec "$@"', "-"]
    result = subprocess.run(
        [*limited, *command(tmp_path / "run", *TINY, "--config.train.epochs=3")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # Reads compiled programs, but does not leave truncated ones for other tests.
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"},
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("launch.py: ")
    workdir = tmp_path / "run"
    assert not (workdir / "results.json").exists()
    assert not (workdir / "examples.npz").exists()
    assert not list(workdir.rglob("*.part"))


def test_cifar100_trains_checkpoints_resumes_and_evaluates(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-100-binary.tar.gz"
    archives.make_cifar100(archive, train=96, test=40, classes=5)
    flags = (
        f"--config.data.path={archive}",
        "--config.data.validation=16",
        "--config.model.name=tests.networks:create",
        "--config.attack.num_steps=1",
        "--config.programs.unroll=False",
        "--config.train.batch_size=16",
        "--config.evaluation.batch_size=16",
        "--config.evaluation.num_steps=1",
        "--config.evaluation.losses=('cross_entropy',)",
        "--config.evaluation.attacks=()",
        "--config.parallel.devices=1",
    )
    workdir = tmp_path / "run"

    def stopped(*arguments, save=Checkpoints.save, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", stopped)
        result = launch(workdir, *flags, "--config.train.steps=8", config="cifar100_bat")
    assert result.returncode == 128 + signal.SIGINT
    assert not (workdir / "results.json").exists()
    result = launch(workdir, *flags, "--config.train.steps=8", config="cifar100_bat")
    assert result.returncode == 0, result.stderr
    assert "resuming from step" in result.stderr
    results = json.loads((workdir / "results.json").read_bytes())
    assert results["last"]["test"]["clean"]["n"] == 40


def test_dry_run_prints_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("bat_jax.jobs.dry_run.together", lambda devices, dtype: 1.0)
    result = launch(tmp_path / "run", *TINY, "--config.attack.num_steps=1", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert re.search(r"TFLOP, at least \d.* years at 1e-09 GFLOP/s, the peak of 1", result.stdout)
    for word in ('"epsilon"', "parameters: ", "training step: ", "compiled step: ", "MiB"):
        assert word in result.stdout
    assert not (tmp_path / "run").exists()
