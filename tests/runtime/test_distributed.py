"""What processes share, tested in one; tests/jobs/test_distributed.py runs several."""

import errno
import fcntl
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.runtime import distributed
from bat_jax.runtime.interruption import Interrupted, Interruption


def test_shares_are_in_order_even_and_whole(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    rows = []
    for index in range(4):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows.append(list(range(10))[distributed.share(10)])
    assert [row for part in rows for row in part] == list(range(10))
    assert {len(part) for part in rows} == {2, 3}


def test_one_process_agrees_with_itself():
    assert distributed.is_main()
    assert distributed.anywhere(15) == 15
    np.testing.assert_array_equal(distributed.gathered(np.arange(3)), [[0, 1, 2]])
    np.testing.assert_array_equal(distributed.concatenated(np.arange(3)), [0, 1, 2])
    distributed.check_same("the config", "text")
    with pytest.raises(UserError, match="wrong"), distributed.agreed():
        raise UserError("wrong")


def test_without_a_cluster_or_flags_nothing_is_joined(monkeypatch):
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    import jax._src.xla_bridge as bridge

    # As at the start of a program, before JAX has initialised its devices.
    monkeypatch.setattr(bridge, "backends_are_initialized", lambda: False)
    distributed.initialize()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    "flags",
    [
        {"coordinator": "localhost:1234"},
        {"coordinator": "localhost", "num_processes": 2, "process_id": 0},
        {"coordinator": "localhost:1234", "num_processes": 2, "process_id": 2},
        {"num_processes": 2, "process_id": 0},
    ],
)
def test_flags_that_do_not_fit_together_are_refused(monkeypatch, flags):
    import jax._src.xla_bridge as bridge

    # As at the start of a program, before JAX has initialised its devices.
    monkeypatch.setattr(bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(UserError, match="expected all three"):
        distributed.initialize(**flags)
    assert not jax.distributed.is_initialized()


def test_a_signal_is_seen_at_the_next_poll_and_at_the_last_check():
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with Interruption().listening("all is saved") as interruption:
            assert not interruption.poll()
            assert not interruption.settle()
            signal.raise_signal(signal.SIGTERM)
            assert interruption.poll()
            assert interruption.settle()
            assert interruption.requested == signal.SIGTERM

    with pytest.raises(Interrupted, match="stopped by SIGTERM: all is saved;"):
        run()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["while it asks", "after it asked"])
def test_a_signal_is_not_forgotten_at_the_end(monkeypatch, moment):
    before = signal.getsignal(signal.SIGTERM)

    def anywhere(value):
        # Of two processes, this one receives the signal too late to report it.
        answer = value
        signal.raise_signal(signal.SIGTERM)
        return answer

    class Late(Interruption):
        def settle(self):
            answer = super().settle()
            signal.raise_signal(signal.SIGTERM)
            return answer

    kind = Late if moment == "after it asked" else Interruption
    if kind is Interruption:
        monkeypatch.setattr(distributed, "anywhere", anywhere)
    with pytest.raises(Interrupted, match="all is saved"), kind().listening("all is saved"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_a_signal_nothing_is_raised_and_failures_pass_through():
    with Interruption().listening("all is saved") as interruption:
        pass
    assert interruption.requested is None
    with pytest.raises(KeyError), Interruption().listening("all is saved"):
        raise KeyError("of the block")


def test_a_thread_runs_without_listening():
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with Interruption().listening("all is saved") as interruption:
            assert signal.getsignal(signal.SIGTERM) is before
            return interruption.poll()

    with ThreadPoolExecutor() as threads:
        assert not threads.submit(run).result()


def test_a_process_that_has_joined_removes_its_sign(tmp_path):
    folder = tmp_path / "run"
    with distributed._roll_call(folder, 2, 0, 60):
        (sign,) = folder.iterdir()
        with sign.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not folder.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_without_locks_the_age_of_a_sign_shows_whether_its_process_waits(
    tmp_path, monkeypatch, capsys, code
):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    given_up = []
    monkeypatch.setattr(os, "_exit", given_up.append)
    monkeypatch.setattr(distributed, "_GRACE_SECONDS", 0)
    (tmp_path / ".process_1.part").touch()
    (tmp_path / ".process_2.part").touch()
    os.utime(tmp_path / ".process_2.part", (0, 0))
    with distributed._roll_call(tmp_path, 4, 0, 1):
        deadline = time.monotonic() + 30
        while not given_up:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    # 1 waits, 2 was killed long ago, 3 never came.
    assert "missing: 2, 3; start all" in capsys.readouterr().err


def test_a_process_that_did_not_lock_its_sign_is_missing(tmp_path, monkeypatch, capsys):
    given_up = []
    monkeypatch.setattr(os, "_exit", given_up.append)
    monkeypatch.setattr(distributed, "_GRACE_SECONDS", 0)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".process_1.part").symlink_to(precious)
    os.mkfifo(tmp_path / ".process_2.part")
    with distributed._roll_call(tmp_path, 3, 0, 0):
        deadline = time.monotonic() + 30
        while not given_up:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "missing: 1, 2; start all" in capsys.readouterr().err
    with pytest.raises(UserError, match="part: is not a regular file"):
        distributed.initialize(
            coordinator="localhost:1", num_processes=3, process_id=1, folder=tmp_path
        )
    assert precious.read_text() == "mine"
