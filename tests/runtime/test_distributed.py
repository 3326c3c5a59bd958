"""What processes share, in a single one; tests/jobs/test_distributed.py runs several."""

import fcntl
import signal

import jax
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.runtime import distributed
from bat_jax.runtime.files import remove_partial
from bat_jax.runtime.interruption import Interruption


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
    distributed.initialize(num_processes=1)
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

    # As at the start of a program, which this is not.
    monkeypatch.setattr(bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(UserError, match="expected all three"):
        distributed.initialize(**flags)
    assert not jax.distributed.is_initialized()


def test_a_signal_is_heard_at_the_next_poll_and_by_the_last_look():
    with Interruption().listening() as interruption:
        assert not interruption.poll()
        assert not interruption.settle()
        signal.raise_signal(signal.SIGTERM)
        assert interruption.poll()
        assert interruption.settle()
        assert interruption.requested == signal.SIGTERM


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".results.json.123.part").write_text("{")
    (tmp_path / "results.json").write_text("{}")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_process_that_has_joined_leaves_no_sign_of_its_waiting(tmp_path):
    folder = tmp_path / "run"
    with distributed._roll_call(folder, 2, 0, 60):
        (sign,) = folder.iterdir()
        with sign.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not folder.exists()
