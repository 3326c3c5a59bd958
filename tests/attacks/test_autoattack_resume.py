"""A stopped evaluation resumes where it stopped, and ends like an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bat_jax.attacks import autoattack, schedule
from bat_jax.attacks.verdict_file import VerdictFile
from bat_jax.errors import UserError
from tests.attacks import linear

ATTACKS = ("apgd-ce", "apgd-dlr", "fab-t")


@pytest.fixture(scope="module")
def arguments():
    logits_fn, weights, images, labels = linear.problem(count=24)
    return {
        "logits_fn": logits_fn,
        "images": images,
        "labels": labels,
        "key": jax.random.key(0),
        "epsilon": linear.median_radius(weights, images, labels, "linf"),
        "attacks": ATTACKS,
        "batch_size": 8,
    }


@pytest.fixture(scope="module")
def whole(arguments):
    return autoattack(**arguments)


def assert_same(result, other):
    np.testing.assert_array_equal(result.robust, other.robust)
    np.testing.assert_array_equal(result.clean, other.clean)
    assert list(result.by_attack) == list(other.by_attack)
    for name, broken in other.by_attack.items():
        np.testing.assert_array_equal(result.by_attack[name], broken)
    np.testing.assert_array_equal(result.adversarial, other.adversarial)


class StoppedError(Exception):
    """Stops the evaluation from outside."""


def test_it_resumes_after_a_batch_and_a_finished_file_is_not_computed_again(
    arguments, whole, tmp_path, monkeypatch
):
    path = tmp_path / "new" / "verdicts.npz"
    write, written = VerdictFile.write, []

    def write_and_stop(file, verdicts):
        write(file, verdicts)
        written.append(verdicts.batches)
        if len(written) == 4:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(VerdictFile, "write", write_and_stop)
        with pytest.raises(StoppedError):
            autoattack(**arguments, path=path)
    resumed = autoattack(**arguments, path=path)
    assert_same(resumed, whole)
    assert list(resumed.seconds) == list(ATTACKS)
    assert all(seconds > 0 for seconds in resumed.seconds.values())

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(schedule, "_verify", refuse)
    finished = autoattack(**arguments, path=path)
    assert_same(finished, whole)
    assert finished.seconds == resumed.seconds

    with np.load(path, allow_pickle=False) as archive:
        earlier = {name: archive[name] for name in archive if name != "seconds"}
    np.savez(path, **earlier)
    assert_same(autoattack(**arguments, path=path), whole)


def test_a_sample_of_all_images_gives_the_same_verdicts(arguments, whole):
    assert_same(autoattack(**arguments, tolerance=1e-9), whole)


@pytest.fixture(scope="module")
def written(arguments, tmp_path_factory):
    """Returns the arguments of an evaluation and the arrays of its file."""
    path = tmp_path_factory.mktemp("written") / "verdicts.npz"
    evaluation = {**arguments, "attacks": ("apgd-dlr",), "keep_adversarial": False}
    autoattack(**evaluation, path=path)
    with np.load(path, allow_pickle=False) as archive:
        return evaluation, dict(archive)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0.3}, "epsilon differ; epsilon was"),
        ({"batch_size": 16}, "batch_size differ"),
        ({"key": jax.random.key(1)}, "key differ"),
        ({"attacks": ("apgd-ce",)}, "attacks differ"),
        ({"labels": np.zeros(24, np.int32)}, "images differ"),
        ({"logits_fn": lambda x: x[:, 0, :6, 0] ** 2}, "of another model"),
    ],
)
def test_another_evaluation_is_refused(written, changed, message, tmp_path):
    evaluation, arrays = written
    path = tmp_path / "verdicts.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        autoattack(**{**evaluation, **changed}, path=path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_an_unrelated_file_is_refused(arguments, content, tmp_path):
    path = tmp_path / "verdicts.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"verdicts\.npz: cannot be read"):
        autoattack(**arguments, path=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("broken_by", lambda a: a[:1], r"broken_by is int8 of shape \(1,\); expected int8 of"),
        ("broken_by", lambda a: a.astype(np.float32), "broken_by is float32"),
        ("broken_by", lambda a: np.full_like(a, 99), "broken_by holds 99 to 99; expected -2 to 0"),
        ("broken_by", lambda a: np.full_like(a, -3), "broken_by holds -3 to -3"),
        ("flat", lambda a: a[:, :5], r"flat is bool of shape \(1, 5\)"),
        ("flat", lambda a: a[0], "flat is bool of shape"),
        ("is_nan", lambda a: a.astype(np.int8), "is_nan is int8"),
        ("clean_logits", lambda a: a[:3], "clean_logits is float32 of shape"),
        ("clean_logits", lambda a: a.astype(str), "clean_logits is <U"),
        ("progress", lambda a: a[:1], "progress is int64 of shape"),
        ("progress", lambda a: a - 5, "progress holds"),
        ("seconds", lambda a: -1 - a, "seconds holds -"),
        ("seconds", lambda a: a * np.nan, "seconds holds nan"),
        ("progress", lambda a: None, "progress is missing"),
        ("settings", lambda a: np.array("[" * 100_000), "not a file of AutoAttack verdicts"),
        ("settings", lambda a: np.array("[1]"), "not a file of AutoAttack verdicts"),
    ],
)
def test_damaged_arrays_are_refused_by_name(written, name, change, message, tmp_path):
    evaluation, arrays = written
    path = tmp_path / "verdicts.npz"
    arrays = {**arrays, name: change(arrays[name])}
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    content = path.read_bytes()
    with pytest.raises(UserError, match=message) as error:
        autoattack(**evaluation, path=path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_missing_images_are_reported(arguments, tmp_path):
    path = tmp_path / "verdicts.npz"
    one = {**arguments, "attacks": ("apgd-dlr",)}
    autoattack(**one, path=path)
    (tmp_path / "verdicts.adversarial.npy").unlink()
    with pytest.raises(UserError, match="adversarial images that belong"):
        autoattack(**one, path=path)


SCRIPT = """
import sys
import jax
from bat_jax.attacks import autoattack
from tests.attacks import linear
logits_fn, weights, images, labels = linear.problem(count=400)
epsilon = linear.median_radius(weights, images, labels, "linf")
autoattack(logits_fn, images, labels, jax.random.key(0), epsilon=epsilon, batch_size=16,
           attacks=("apgd-ce", "apgd-t", "fab-t"), path=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_file_to_resume_from(tmp_path):
    killed, quiet = tmp_path / "killed.npz", tmp_path / "quiet.npz"
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen([*command, str(killed)], env=os.environ)
    while not killed.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with np.load(killed) as archive:
        assert archive["progress"][0] < 3
    for path in (killed, quiet):
        subprocess.run([*command, str(path)], env=os.environ, check=True)
    with np.load(killed) as one, np.load(quiet) as other:
        for name in set(other.files) - {"seconds"}:
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(
        np.load(tmp_path / "killed.adversarial.npy"), np.load(tmp_path / "quiet.adversarial.npy")
    )
