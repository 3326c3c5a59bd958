"""The job memorization is killed and resumed, extended, refused; the trainer reads its file."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from bat_jax import data, memorization
from bat_jax.errors import UserError
from bat_jax.jobs.memorization import memorize
from bat_jax.memorization.matching import check
from bat_jax.memorization.store import Store
from configs import digits_memorization
from tests import command as commands
from tests.jobs import processes

ROOT = Path(__file__).parents[2]
TINY = (
    "--config.data.subset=160",
    "--config.model.width=2",
    "--config.train.epochs=2",
    "--config.memorization.members=8",
    "--config.programs.members_at_once=1",
)


def launch(workdir, *flags, start=subprocess.run, **options):
    command = [sys.executable, str(ROOT / "launch.py")]
    command += ["--config=configs/digits_memorization.py", f"--workdir={workdir}", *TINY, *flags]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    return start(command, cwd=ROOT, env=environment, text=True, **options)


def trainers_of(process):
    """Returns the processes that train members, once both are there."""
    while True:
        assert process.poll() is None
        others = psutil.Process(process.pid).children(recursive=True)
        trainers = [other for other in others if "spawn_main" in " ".join(other.cmdline())]
        if len(trainers) == 2:
            return trainers
        time.sleep(0.02)


def wait_for_members(process, workdir):
    while not list((workdir / "members").glob("*.npz")):
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was stopped after its third member, then extended by two members."""
    workdir = tmp_path_factory.mktemp("memorize") / "run"
    command = ("--config=digits_memorization", f"--workdir={workdir}", *TINY)
    command += ("--config.parallel.devices=1",)

    def stop(store, scores, append=Store.append):
        append(store, scores)
        if len(store.missing(6)) == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", stop)
        stopped = commands.launch(*command, "--config.memorization.members=6")
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "3 of 6 members are saved" in stopped.stderr
    assert not (workdir / "memorization.npz").exists()
    before = {path: path.stat().st_mtime_ns for path in (workdir / "members").glob("*.npz")}
    result = commands.launch(*command)
    assert result.returncode == 0, result.stderr
    # Finished members were not trained again.
    assert len(before) == 3
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    return workdir, result


def test_it_writes_estimates_that_name_their_data_set_and_kind(finished):
    workdir, result = finished
    found = memorization.load(workdir / "memorization.npz")
    check(found, data.load("digits"))
    assert (found.dataset, found.statistic, found.training) == ("digits", "correct", "standard")
    assert len(found.memorization) == 160
    np.testing.assert_array_equal(found.in_count + found.out_count, 8)
    np.testing.assert_array_equal(
        np.isnan(found.memorization), found.out_count * found.in_count == 0
    )
    assert sum(len(block.test) for block in found.influence) == 449
    assert "8 members; an example is atypical above 0.15" in result.stdout
    assert json.loads((workdir / "results.json").read_text())["members"] == 8


def test_it_ends_with_a_page_of_figures(finished):
    workdir, result = finished
    assert f"report: {workdir}/report.html" in result.stdout
    page = (workdir / "report.html").read_text()
    assert "Memorization on digits" in page
    names = {path.stem for path in (workdir / "figures").glob("*.png")}
    assert {"memorization", "split_half", "most_memorized"} <= names


def test_a_dry_run_prints_the_cost_of_the_members_and_trains_none(tmp_path):
    command = ("--config=digits_memorization", f"--workdir={tmp_path / 'run'}", *TINY)
    ended = commands.launch(*command, "--config.parallel.devices=1", "--dry_run")
    assert ended.returncode == 0, ended.stderr
    # Two epochs of three batches of 32 in 70 % of 160 images; the 449 test images are scored too.
    assert "a member: 6 steps of 32 images (3 forward passes each)" in ended.stdout
    assert "scoring 609 images" in ended.stdout
    assert "all 8 members: " in ended.stdout
    assert '"members": 8' in ended.stdout
    assert not (tmp_path / "run").exists()


def whole(folder):
    """Returns the estimates of an undisturbed run on two devices of this process."""
    config = digits_memorization.get_config()
    for flag in TINY:
        field, value = flag.removeprefix("--config.").split("=")
        config.update_from_flattened_dict({field: int(value)})
    config.parallel.devices = 2
    memorize(config, folder)
    return (folder / "memorization.npz").read_bytes()


def test_a_run_that_was_stopped_and_extended_ends_with_the_same_bytes(finished, tmp_path):
    assert (finished[0] / "memorization.npz").read_bytes() == whole(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_was_killed_with_its_trainers_ends_with_the_same_bytes(tmp_path):
    workdir = tmp_path / "run"
    members = "--config.memorization.members=6"
    process = launch(workdir, members, start=subprocess.Popen, stderr=subprocess.DEVNULL)
    trainers = trainers_of(process)
    wait_for_members(process, workdir)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The processes that trained its members do not survive either.
    assert not psutil.wait_procs(trainers, timeout=10)[1]
    before = {path: path.stat().st_mtime_ns for path in (workdir / "members").glob("*.npz")}
    assert not (workdir / "memorization.npz").exists()
    assert launch(workdir, capture_output=True).returncode == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert (workdir / "memorization.npz").read_bytes() == whole(tmp_path / "whole")


@pytest.mark.slow
def test_control_c_is_for_the_main_process_which_ends_the_others_after_a_round(tmp_path):
    process = launch(
        tmp_path / "run",
        "--config.memorization.members=2000",
        start=subprocess.Popen,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for_members(process, tmp_path / "run")
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped by SIGINT" in output
    assert "of 2000 members are saved" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_after_ten_random_kills_it_ends_with_the_same_bytes(tmp_path):
    members = "--config.memorization.members=60"
    assert launch(tmp_path / "whole", members, capture_output=True).returncode == 0
    workdir, draws, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 10:
        process = launch(workdir, members, start=subprocess.Popen, stderr=subprocess.DEVNULL)
        # Most of the time is start-up: a round takes a tenth of a second.
        try:
            process.wait(timeout=draws.uniform(1.0, 8.0))
            # It had already finished: discard its results except for some members.
            for path in [workdir / "results.json", *(workdir / "members").glob("*5-*.npz")]:
                path.unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert launch(workdir, members, capture_output=True).returncode == 0
    whole = (tmp_path / "whole" / "memorization.npz").read_bytes()
    assert (workdir / "memorization.npz").read_bytes() == whole
    assert not processes.leftovers(workdir)


@pytest.mark.slow
def test_two_processes_estimate_what_one_does(tmp_path):
    def estimated_by(count):
        workdir = tmp_path / str(count)
        flags = (*TINY, "--config.data.validation=0")
        processes.run(workdir, count, *flags, config="digits_memorization", devices=2 // count)
        assert not processes.leftovers(workdir)
        return (workdir / "memorization.npz").read_bytes()

    assert estimated_by(2) == estimated_by(1)


def test_a_finished_run_is_reported_and_left_unchanged(finished):
    workdir, _ = finished
    before = (workdir / "memorization.npz").stat().st_mtime_ns
    result = commands.launch("--config=digits_memorization", f"--workdir={workdir}", *TINY)
    assert "this run is finished" in result.stderr
    assert (workdir / "memorization.npz").stat().st_mtime_ns == before


def test_lost_estimates_are_written_again_from_the_members(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (workdir / "memorization.npz").unlink()
    ended = commands.launch("--config=digits_memorization", f"--workdir={workdir}", *TINY)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = (folder / "memorization.npz" for folder in (workdir, finished[0]))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_stored_file_that_cannot_be_read_is_named(finished):
    workdir, _ = finished
    path = sorted((workdir / "members").glob("*.npz"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    try:
        line = commands.refused("--config=digits_memorization", f"--workdir={workdir}", *TINY)
    finally:
        path.write_bytes(whole)
    assert str(path) in line
    assert "move this file out of its folder" in line


def test_estimates_of_another_data_set_are_refused_by_name(finished, tmp_path):
    arrays = dict(np.load(finished[0] / "memorization.npz"))
    arrays["dataset"] = np.asarray("cifar100")
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match="estimates of cifar100; expected those of digits"):
        check(memorization.load(tmp_path / "other.npz"), data.load("digits"))
