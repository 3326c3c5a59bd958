"""A run whose folder is in a bucket of Google Cloud Storage, served locally.

Except for the bucket, everything is real: gcsfs, Orbax, TensorStore and the program.
"""

import json
import signal

import pytest

from tests.jobs.bucket import served
from tests.jobs.processes import finish, run, start, wait_for
from tests.jobs.test_distributed import assert_close, assert_equal
from tests.jobs.test_memorize import launch

WORKDIR = "gs://bucket/runs/one"
METRICS = "runs/one/metrics.jsonl"


@pytest.fixture
def bucket(monkeypatch):
    with served("bucket") as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield bucket


def downloaded(bucket, folder):
    """Copies the run's objects into a folder, in which `final_state` can read it."""
    for name in bucket.names("runs/one/"):
        path = folder / name.removeprefix("runs/one/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.objects[name][1])
    return folder


def has_a_checkpoint(bucket):
    return lambda: any(name.endswith("4/commit_success.txt") for name in bucket.names("runs/one"))


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_stopped_and_resumed_is_the_run_on_a_disk(bucket, tmp_path):
    processes = start(WORKDIR, 1)
    wait_for(lambda: METRICS in bucket.objects, processes)
    processes[0].send_signal(signal.SIGTERM)
    (stopped,) = finish(processes)
    assert stopped.status == 128 + signal.SIGTERM, stopped.stderr
    assert "is saved; run the same command" in stopped.stderr.splitlines()[-1]
    assert "buckets have no locks" in stopped.stderr

    (resumed,) = run(WORKDIR, 1)
    assert "resuming from step" in resumed.stderr
    assert f"report: {WORKDIR}/report.html" in resumed.stdout
    there = downloaded(bucket, tmp_path / "there")
    run(tmp_path / "here", 1)
    assert_equal(there, tmp_path / "here")

    def results(workdir):
        return json.loads((workdir / "results.json").read_bytes()) | {"seconds": None}

    assert results(there) == results(tmp_path / "here")
    steps = [json.loads(line)["step"] for line in bucket.objects[METRICS][1].splitlines()]
    assert steps == [2, 4, 4, 6, 8, 8, 10, 12, 12]
    assert len(bucket.names("runs/one/tensorboard/")) == 2
    assert b"</html>" in bucket.objects["runs/one/report.html"][1]
    assert not [name for name in bucket.names() if name.endswith((".part", ".writable", ".lock"))]
    assert bucket.names() == bucket.names("runs/one/")


@pytest.mark.slow
def test_a_killed_run_in_a_bucket_resumes_bit_identical(bucket, tmp_path):
    processes = start(WORKDIR, 1)
    wait_for(has_a_checkpoint(bucket), processes)
    processes[0].kill()
    finish(processes)
    (resumed,) = run(WORKDIR, 1)
    assert "resuming from step" in resumed.stderr
    run(tmp_path / "here", 1)
    assert_equal(downloaded(bucket, tmp_path / "there"), tmp_path / "here")
    steps = [json.loads(line)["step"] for line in bucket.objects[METRICS][1].splitlines()]
    assert steps == [2, 4, 4, 6, 8, 8, 10, 12, 12]


@pytest.mark.slow
def test_two_processes_share_a_bucket(bucket, tmp_path):
    run(WORKDIR, 2)
    run(tmp_path / "here", 1, devices=4)
    assert_close(downloaded(bucket, tmp_path / "there"), tmp_path / "here")


@pytest.mark.slow
def test_an_ensemble_in_a_bucket_trains_only_the_members_that_are_missing(bucket):
    def rounds(members):
        ended = launch(WORKDIR, f"--config.memorization.members={members}", capture_output=True)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(bucket.objects["runs/one/results.json"][1])["members"] == members
        return {name: bucket.objects[name] for name in bucket.names("runs/one/members/0")}

    # Two devices train a member each at a time.
    first, all_of_them = rounds(4), rounds(8)
    assert (len(first), len(all_of_them)) == (2, 4)
    assert all(all_of_them[name] == content for name, content in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workdir", "refused", "reason"),
    [
        ("gs://other/run", None, "gs://other/run: cannot be written to (there is no such bucket)"),
        (WORKDIR, ("POST ", 403), "credentials that may write to it"),
        ("s3://bucket/run", None, "s3://bucket/run: expected a folder on a disk, or gs://"),
    ],
)
def test_an_unusable_bucket_is_a_wrong_input_of_one_line(bucket, workdir, refused, reason):
    bucket.refused = refused
    (ended,) = finish(start(workdir, 1))
    assert ended.status == 2, ended.stderr
    # A warning about the schedule of such a short training may come first.
    *warnings, last = ended.stderr.splitlines()
    assert reason in last
    assert not [line for line in warnings if not line.startswith("training ends with epoch 3: ")]
    assert not bucket.names()


@pytest.mark.slow
def test_a_bucket_that_rejects_checkpoints_ends_the_run_with_one_line(bucket):
    bucket.refused = ("POST .*checkpoints/8", 403)
    (ended,) = finish(start(WORKDIR, 1))
    assert ended.status == 1
    assert "a checkpoint could not be written" in ended.stderr.splitlines()[-1]
    bucket.refused = None
    (resumed,) = run(WORKDIR, 1)
    assert "resuming from step 4" in resumed.stderr
