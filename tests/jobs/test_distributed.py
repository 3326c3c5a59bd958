"""A run in several processes has the numbers of one, and always ends."""

import json
import random
import re
import shutil
import signal
import time

import numpy as np
import psutil
import pytest

from tests.command import launch
from tests.jobs.processes import (
    TINY,
    final_state,
    finish,
    free_port,
    has_validated,
    leftovers,
    run,
    start,
    wait_for,
)

# Reductions over processes add in another order than those within one.
TOLERANCE = 1e-5


def assert_equal(ours, theirs):
    for found, expected in zip(final_state(ours), final_state(theirs), strict=True):
        np.testing.assert_array_equal(found, expected)


def assert_close(ours, theirs):
    for found, expected in zip(final_state(ours), final_state(theirs), strict=True):
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def assert_same_results(ours, theirs, names):
    """Compares accuracies; an image on the edge may fall to either side."""
    found, expected = (json.loads((w / "results.json").read_bytes()) for w in (ours, theirs))
    for state in ("best", "last"):
        assert set(found[state]["test"]) == names
        for name, value in found[state]["test"].items():
            other = expected[state]["test"][name]
            assert value["n"] == other["n"]
            assert value["accuracy"] == pytest.approx(other["accuracy"], abs=2 / value["n"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of two processes with two devices each, three epochs of four steps."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run(workdir, 2)


def test_two_processes_give_the_numbers_of_one(finished, tmp_path, monkeypatch):
    workdir, (main, other) = finished
    monkeypatch.setattr("bat_jax.report.report", lambda workdir: workdir)
    alone = ("--config=digits_bat", f"--workdir={tmp_path / 'one'}", "--config.parallel.devices=4")
    assert launch(*alone, *TINY).returncode == 0
    assert_close(workdir, tmp_path / "one")
    assert_same_results(workdir, tmp_path / "one", {"clean", "pgd2"})
    # One process writes, and once.
    assert "best clean" in main.stdout
    assert other.stdout.count("best clean") == 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [2, 4, 4, 6, 8, 8, 10, 12, 12]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert not leftovers(workdir)


@pytest.mark.slow
def test_two_processes_with_images_on_the_host_give_the_same_bits(finished, tmp_path):
    workdir, _ = finished
    run(tmp_path / "host", 2, "--config.data.placement=host")
    assert_equal(tmp_path / "host", workdir)
    with (
        np.load(tmp_path / "host" / "examples.npz") as found,
        np.load(workdir / "examples.npz") as expected,
    ):
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.slow
def test_under_slurm_processes_find_one_another(finished, monkeypatch, tmp_path):
    whole, _ = finished
    # The variables that srun sets in each of two tasks on one node.
    monkeypatch.setenv("SLURM_JOB_ID", str(free_port()))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    processes = []
    for index in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", index)
        monkeypatch.setenv("SLURM_LOCALID", index)
        processes += start(tmp_path / "run", 1)
    assert [process.status for process in finish(processes)] == [0, 0]
    assert_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_sigterm_in_one_process_stops_all_at_one_step_and_the_run_resumes(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "run"
    processes = start(workdir, 2)
    wait_for(has_validated(workdir), processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [process.status for process in ended] == [128 + signal.SIGTERM] * 2
    messages = {process.stderr.splitlines()[-1].partition("stopped by")[2] for process in ended}
    assert len(messages) == 1
    assert "is saved; run the same command" in messages.pop()
    assert not leftovers(workdir)
    main, _ = run(workdir, 2)
    assert "resuming from step" in main.stderr
    assert_equal(workdir, whole)


@pytest.mark.slow
def test_when_one_process_is_killed_the_others_end_with_an_error_within_a_minute(tmp_path):
    workdir = tmp_path / "run"
    processes = start(workdir, 2)
    wait_for(has_validated(workdir), processes)
    processes[1].kill()
    killed = time.monotonic()
    main = finish(processes, timeout=60)[0]
    assert time.monotonic() - killed < 60
    assert main.status in (1, -signal.SIGABRT)
    assert "another process is gone" in main.stderr or "another task died" in main.stderr
    assert not (workdir / "results.json").exists()


@pytest.mark.slow
def test_processes_name_the_one_that_does_not_join(tmp_path):
    processes = start(tmp_path / "run", 3, "--join_timeout=3", missing=(1,))
    for process in finish(processes, timeout=60):
        assert process.status == 1
        assert "waited 3 s for all to join; missing: 1;" in process.stderr
    assert not (tmp_path / "run").exists() or not leftovers(tmp_path / "run")


def test_processes_of_different_configs_are_refused(tmp_path):
    port = free_port()
    first = start(tmp_path / "run", 2, missing=(1,), port=port)
    second = start(tmp_path / "run", 2, "--config.seed=1", missing=(0,), port=port)
    for process in finish([*first, *second]):
        assert process.status == 2, process.stderr
        assert "the config: not the same in process 1 as in process 0" in process.stderr
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_an_input_error_of_the_main_process_ends_all_processes(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    main, other = finish(start(workdir, 2))
    assert (main.status, other.status) == (2, 2)
    assert "not a run's config" in main.stderr
    assert "process 0: " in other.stderr
    assert "not a run's config" in other.stderr


@pytest.mark.slow
def test_four_processes_give_the_numbers_of_one_and_resume_on_any_number_of_devices(tmp_path):
    run(tmp_path / "one", 1, devices=8)
    run(tmp_path / "four", 4)
    assert_close(tmp_path / "four", tmp_path / "one")
    workdir = tmp_path / "stopped"
    processes = start(workdir, 4)
    wait_for(has_validated(workdir), processes)
    processes[2].send_signal(signal.SIGTERM)
    assert {process.status for process in finish(processes)} == {128 + signal.SIGTERM}
    for devices in (1, 2, 8):
        resumed = tmp_path / f"resumed_{devices}"
        shutil.copytree(workdir, resumed)
        (only,) = run(resumed, 1, devices=devices)
        assert "resuming from step" in only.stderr
        assert_close(resumed, tmp_path / "one")


@pytest.mark.slow
def test_two_processes_share_the_images_of_autoattack(tmp_path):
    flags = ("--config.evaluation.attacks=('apgd-ce','square')", "--config.evaluation.subset=61")
    run(tmp_path / "one", 1, *flags, devices=4)
    run(tmp_path / "two", 2, *flags)
    assert_same_results(tmp_path / "two", tmp_path / "one", {"clean", "pgd2", "autoattack"})
    files = sorted(path.name for path in (tmp_path / "two").glob("autoattack_12_*.npz"))
    assert files == ["autoattack_12_1of2.npz", "autoattack_12_2of2.npz"]


@pytest.mark.slow
def test_two_processes_draw_a_sample_each(tmp_path):
    flags = (
        "--config.evaluation.attacks=('apgd-ce','fab-t')",
        "--config.attack.epsilon=0.01",
        "--config.evaluation.tolerance=0.1",
        "--config.evaluation.batch_size=8",
    )
    run(tmp_path / "one", 1, *flags, devices=4)
    run(tmp_path / "two", 2, *flags)
    for state in ("best", "last"):
        one, two = (
            json.loads((tmp_path / name / "results.json").read_bytes())[state]
            for name in ("one", "two")
        )
        assert two["sample"]["images"] == one["sample"]["images"] > two["sample"]["drawn"] > 0
        low, high = two["sample"]["interval"]
        assert 0 < high - low <= 0.1
        assert low <= two["test"]["autoattack"]["accuracy"] <= high


@pytest.mark.slow
def test_a_killed_main_process_ends_the_others_and_the_run_resumes_bit_identical(
    finished, tmp_path
):
    whole, _ = finished
    workdir = tmp_path / "run"
    processes = start(workdir, 2)
    wait_for(has_validated(workdir), processes)
    processes[0].kill()
    other = finish(processes, timeout=60)[1]
    assert other.status in (1, -signal.SIGABRT)
    assert "another process is gone" in other.stderr or "another task died" in other.stderr
    # Not the stacks and modules that Python can add to an abort.
    assert len(other.stderr.splitlines()) < 40
    run(workdir, 2)
    assert_equal(workdir, whole)
    assert not leftovers(workdir)


@pytest.mark.slow
def test_all_processes_skip_a_damaged_checkpoint(finished, tmp_path):
    from tests.jobs.test_train import checkpoint_steps, damage

    whole, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    steps = checkpoint_steps(workdir)
    damage(workdir / "checkpoints" / str(steps[-1]) / "state")
    main, _ = run(workdir, 2)
    assert f"resuming from step {steps[-2]}" in main.stderr
    assert_equal(workdir, whole)


@pytest.mark.slow
def test_a_checkpoint_folder_that_cannot_be_written_ends_all_with_one_line_each(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the folder's place")
    main, other = finish(start(tmp_path / "run", 2), timeout=90)
    assert main.status == 1
    assert other.status in (1, -signal.SIGABRT)
    assert main.stderr.splitlines()[-1].startswith("launch.py: process 0 of 2: ")


def last_step(workdir):
    """Returns the step of the last whole record of a run, 0 if there is none."""
    path = workdir / "metrics.jsonl"
    found = re.findall(rb'"step": (\d+).*}\n', path.read_bytes()) if path.exists() else []
    return int(found[-1]) if found else 0


@pytest.mark.slow
def test_twenty_kills_at_random_leave_the_bits_of_an_undisturbed_run(tmp_path):
    flags = ("--config.train.epochs=300", "--join_timeout=20")
    run(tmp_path / "whole", 2, *flags)
    workdir, draw, resumed = tmp_path / "run", random.Random(0), 0
    for kill in range(20):
        processes = start(workdir, 2, *flags)
        # By the records rather than the clock, so that each start gets further: 1,200 steps in all.
        goal = last_step(workdir) + draw.randrange(40)
        wait_for(lambda goal=goal: last_step(workdir) >= goal, processes)
        time.sleep(draw.uniform(0, 0.5))
        victim = draw.randrange(2)
        processes[victim].kill()
        killed = time.monotonic()
        ended = finish(processes, timeout=60)
        other = ended[1 - victim]
        resumed += "resuming from step" in ended[0].stderr
        seconds = time.monotonic() - killed
        print(f"kill {kill + 1}: process {victim}; the other: {other.status}, {seconds:.1f} s")
        assert other.status in (1, -signal.SIGABRT)
    assert resumed >= 10
    run(workdir, 2, *flags)
    assert_equal(workdir, tmp_path / "whole")
    assert not leftovers(workdir)
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if f"--workdir={workdir}" in command]
