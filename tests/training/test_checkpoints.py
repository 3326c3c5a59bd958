"""With damaged, unreadable or foreign checkpoints, no data of a user are lost."""

import builtins
import errno
import json
import os
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.memorization import history
from bat_jax.parallel import make_mesh
from bat_jax.runtime import workdir as workdirs
from bat_jax.training import layout, trouble
from bat_jax.training.checkpoints import CheckpointError, Checkpoints
from bat_jax.training.state import TrainState

# TensorStore's callbacks after a failed read meet an event loop that Orbax has closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SCORES = {1: 0.75, 2: 0.5, 3: 0.25}


def state(step, ema=False, width=3):
    """A train state without a model."""
    params = {"kernel": jnp.full((2, width), step, jnp.float32), "bias": jnp.zeros(width)}
    optimizer = optax.sgd(optax.constant_schedule(0.1), momentum=0.9)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        variables={"params": params},
        opt_state=optimizer.init(params),
        ema={"params": params} if ema else None,
        memory={"history": history.create(4)},
    )


LIKE = jax.eval_shape(lambda: state(0))


def opened(run, keep=3):
    return Checkpoints(run / "checkpoints", keep=keep, score="pgd2", mesh=make_mesh(1))


def last_and_best(run, keep=3):
    """Returns the steps of the last and of the best state."""
    checkpoints = opened(run, keep)
    try:
        last = checkpoints.latest(LIKE)
        return int(last.state.step), int(checkpoints.best(LIKE).state.step)
    finally:
        checkpoints.close()


def steps(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def aside(run):
    return sorted(path.name for path in run.iterdir() if path.name.startswith("damaged"))


def content(folder):
    """Returns the bytes of all files below a folder."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with three scored checkpoints, of which the first is the best."""
    run = tmp_path_factory.mktemp("made") / "run"
    run.mkdir()
    config = configs.default()
    workdirs.claim(run, config, {}, defaults=config)
    checkpoints = opened(run)
    for step, score in SCORES.items():
        checkpoints.save(state(step), seconds=float(step), metrics={"clean": 1.0, "pgd2": score})
    checkpoints.close()
    return run


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of that run, with immediate retries of failed reads."""
    monkeypatch.setattr(trouble, "PAUSES", (0, 0))
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def failing(monkeypatch):
    """Makes the first attempts to open files fail with a system error."""

    def fail(part, code, times):
        left = [times]
        original = builtins.open

        def fails(path, *arguments, **options):
            if isinstance(path, str | os.PathLike) and part in os.fspath(path) and left[0] > 0:
                left[0] -= 1
                raise OSError(code, os.strerror(code), os.fspath(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(builtins, "open", fails)
        monkeypatch.setattr("io.open", fails)
        return left

    return fail


def test_whole_checkpoints_are_read(run):
    assert last_and_best(run) == (3, 1)
    assert steps(run) == [1, 2, 3]
    assert not aside(run)


@pytest.mark.parametrize("part", ["3/state/_METADATA", "3/check/metadata", "3/metrics/metrics"])
def test_a_read_that_fails_once_is_tried_again(run, failing, part):
    left = failing(part, errno.EIO, 1)
    assert last_and_best(run) == (3, 1)
    assert left == [0]
    assert steps(run) == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOLCK, errno.ESTALE])
@pytest.mark.parametrize("part", ["3/state/_METADATA", "3/check/metadata", "3/metrics/metrics"])
def test_a_read_that_fails_every_time_ends_in_one_line_and_changes_nothing(
    run, failing, part, code
):
    before = content(run)
    left = failing(part, code, 10**6)
    for keep in (3, None):
        with pytest.raises(CheckpointError, match=r"/checkpoints/3.* cannot be read") as caught:
            last_and_best(run, keep)
        assert os.strerror(code) in str(caught.value)
        assert "\n" not in str(caught.value)
    left[0] = 0
    assert content(run) == before


@pytest.mark.parametrize(
    "text",
    [
        'UNKNOWN: Error reading "step": Failed to open: "/x": Input/output error [spec]',
        "UNAVAILABLE: Error reading: No locks available [spec]",
        'PERMISSION_DENIED: Failed to open: "/x": Permission denied [spec]',
        'RESOURCE_EXHAUSTED: Failed to open: "/x": Too many open files [spec]',
    ],
)
def test_system_errors_of_tensorstore_are_not_damage(run, monkeypatch, text):
    calls = []

    def fail(*_, **__):
        calls.append(text)
        raise ValueError(text)

    checkpoints = opened(run)
    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(CheckpointError, match=text.partition(" [")[0].rpartition(": ")[2]):
        checkpoints.latest(LIKE)
    checkpoints.close()
    assert len(calls) == 3
    assert steps(run) == [1, 2, 3]
    assert not aside(run)


def flip(item):
    """Flips a bit in the middle of the largest file below a folder."""
    victim = max((p for p in item.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    bits = bytearray(victim.read_bytes())
    bits[len(bits) // 2] ^= 1
    victim.write_bytes(bits)


DAMAGES = {
    "flipped bit": lambda step: flip(step / "state" / "d"),
    "no data": lambda step: shutil.rmtree(step / "state" / "d"),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no manifest": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "half a manifest": lambda step: (step / "state" / "manifest.ocdbt").write_bytes(b"abc"),
    "no structure": lambda step: (step / "state" / "_METADATA").unlink(),
    "half a structure": lambda step: (step / "state" / "_METADATA").write_text('{"tree'),
    "no check": lambda step: shutil.rmtree(step / "check"),
}
CHECKS = ["", "[]", "3", '{"seconds": 1.0}', '{"fingerprint": 1, "seconds": 1.0}']
SECONDS = [None, "1", [], True, float("nan"), float("inf"), -1.0, "absent"]
METRICS = ["", '{"cl', "3", '"text"', "[]", "null", "\udcff", "[" * 10_000]
WRONG_SCORES = ["0.5", [0.5], {}, True, float("nan"), float("inf"), 10**400]


def write_check(step, seconds):
    path = step / "check" / "metadata"
    check = json.loads(path.read_text())
    del check["seconds"]
    path.write_text(json.dumps(check | ({} if seconds == "absent" else {"seconds": seconds})))


def write_metrics(step, text):
    (step / "metrics" / "metrics").write_text(text, errors="surrogateescape")


DAMAGES |= {
    f"check {text!r}": lambda step, text=text: (step / "check" / "metadata").write_text(text)
    for text in CHECKS
}
DAMAGES |= {
    f"seconds {value!r}": lambda step, value=value: write_check(step, value) for value in SECONDS
}
METRIC_DAMAGES = {
    f"metrics {text[:9]!r}": lambda step, text=text: write_metrics(step, text) for text in METRICS
}
METRIC_DAMAGES |= {
    f"score {score!r}": lambda step, score=score: write_metrics(step, json.dumps({"pgd2": score}))
    for score in WRONG_SCORES
}
METRIC_DAMAGES["no metrics"] = lambda step: (step / "metrics" / "metrics").unlink()


@pytest.mark.parametrize("damage", [*DAMAGES, *METRIC_DAMAGES])
def test_a_resuming_run_renames_a_damaged_checkpoint(run, damage, caplog):
    (DAMAGES | METRIC_DAMAGES)[damage](run / "checkpoints" / "3")
    before = content(run / "checkpoints" / "3")
    assert last_and_best(run) == (2, 1)
    assert steps(run) == [1, 2]
    assert aside(run) == ["damaged-3"]
    assert content(run / "damaged-3") == before
    assert "3 is now" in caplog.text


@pytest.mark.parametrize("damage", ["flipped bit", "no state", "score nan"])
def test_training_writes_in_the_place_of_a_damaged_checkpoint(run, damage):
    (DAMAGES | METRIC_DAMAGES)[damage](run / "checkpoints" / "3")
    assert last_and_best(run) == (2, 1)
    checkpoints = opened(run)
    checkpoints.save(state(3), seconds=1.0, metrics={"pgd2": 0.9})
    checkpoints.close()
    assert last_and_best(run) == (3, 3)


@pytest.mark.parametrize("damage", ["flipped bit", "no state", "seconds nan"])
def test_readers_fall_back_and_change_nothing(run, damage):
    DAMAGES[damage](run / "checkpoints" / "3")
    before = content(run)
    assert last_and_best(run, keep=None) == (2, 1)
    assert content(run) == before


@pytest.mark.parametrize("damage", METRIC_DAMAGES)
def test_the_states_of_a_run_with_a_damaged_score_are_read(run, damage):
    METRIC_DAMAGES[damage](run / "checkpoints" / "3")
    METRIC_DAMAGES[damage](run / "checkpoints" / "1")
    assert last_and_best(run, keep=None) == (3, 2)


def test_a_checkpoint_with_a_damaged_score_is_kept(run):
    METRIC_DAMAGES["score nan"](run / "checkpoints" / "1")
    checkpoints = opened(run, keep=1)
    for step in (4, 5):
        checkpoints.save(state(step), seconds=1.0, metrics={"pgd2": 0.01 * step})
    checkpoints.close()
    assert steps(run) == [1, 2, 5]


def test_the_best_and_the_newest_are_kept(run):
    checkpoints = opened(run, keep=1)
    checkpoints.save(state(4), seconds=1.0)
    checkpoints.save(state(5), seconds=1.0, metrics={"pgd2": 0.1})
    checkpoints.close()
    assert steps(run) == [1, 5]


def test_if_all_scores_are_damaged_a_run_resumes_from_the_newest_state(run):
    for step in SCORES:
        METRIC_DAMAGES["no metrics"](run / "checkpoints" / str(step))
    checkpoints = opened(run)
    assert int(checkpoints.latest(LIKE).state.step) == 3
    with pytest.raises(UserError, match=r"every scored checkpoint is damaged \(3 found\); restore"):
        checkpoints.best(LIKE)
    checkpoints.close()
    assert steps(run) == [1, 2, 3]


def test_if_all_are_damaged_none_is_renamed(run):
    for step in SCORES:
        DAMAGES["flipped bit"](run / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(3 found\)"):
        last_and_best(run)
    assert steps(run) == [1, 2, 3]


def test_a_name_that_is_taken_is_not_overwritten(run):
    (run / "damaged-3").mkdir()
    DAMAGES["flipped bit"](run / "checkpoints" / "3")
    last_and_best(run)
    assert aside(run) == ["damaged-3", "damaged-3-2"]


@pytest.mark.parametrize("keep", [3, None])
@pytest.mark.parametrize(
    ("like", "difference"),
    [
        (state(0, ema=True), "ema/params/bias: absent, float32[3]; ema/params/kernel: absent,"),
        (state(0, width=5), "opt_state/0/trace/bias: float32[3], float32[5]; "),
        (state(0).replace(memory={}), "history/forgotten: int32[4], absent; "),
    ],
)
def test_a_state_of_another_structure_is_refused_by_its_version(run, keep, like, difference):
    config = json.loads((run / "config.json").read_text())
    config["versions"]["bat_jax"], config["git"] = "7.5", "abc"
    (run / "config.json").write_text(json.dumps(config))
    before = content(run)
    checkpoints = opened(run, keep)
    with pytest.raises(UserError) as caught:
        checkpoints.latest(jax.eval_shape(lambda: like))
    checkpoints.close()
    assert difference in str(caught.value)
    assert "was begun by bat_jax 7.5 (abc), this is bat_jax" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert content(run) == before


class FormerState(flax.struct.PyTreeNode):
    """The train state of format 1, which checkpoints held whole."""

    step: jax.Array
    variables: dict
    opt_state: optax.OptState
    ema: dict | None
    history: history.History


def former(now):
    return FormerState(now.step, now.variables, now.opt_state, now.ema, now.memory["history"])


def test_states_saved_whole_and_in_parts_read_alike(run, tmp_path):
    """Versions from before and after states were saved as dicts read each other's runs."""
    saved = state(3, ema=True)
    shapes = jax.eval_shape(lambda: saved)
    as_dict, as_state = tmp_path / "dict", tmp_path / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(as_dict, layout.as_saved(saved))
        checkpointer.save(as_state, former(saved))
        checkpointer.wait_until_finished()
        new, old = (json.loads((p / "_METADATA").read_text()) for p in (as_dict, as_state))
        assert new == old
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
            ),
            shapes,
        )
        forward = checkpointer.restore(as_state, layout.as_saved(placed))
        backward = checkpointer.restore(as_dict, former(placed))
    found = layout.from_saved(forward, shapes)
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, found, saved)
    jax.tree.map(np.testing.assert_array_equal, backward, former(saved))


def test_a_reader_follows_a_training_that_removes_its_checkpoint(run):
    training, reader = opened(run, keep=1), opened(run, keep=None)
    original, taken = reader._read, []

    def read(step, like):
        taken.append(step)
        if len(taken) == 1:
            training.save(state(4), seconds=1.0, metrics={"pgd2": 0.9})
            training.wait()
            assert steps(run) == [4]
        return original(step, like)

    reader._read = read
    assert int(reader.latest(LIKE).state.step) == 4
    assert taken == [3, 4]
    assert int(reader.best(LIKE).state.step) == 4
    reader.close()
    training.close()


def test_a_reader_writes_nothing(run, monkeypatch):
    """Even unfinished leftovers of a killed training are kept."""
    (run / "checkpoints" / "4.orbax-checkpoint-tmp-1").mkdir()
    before = content(run)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "makedirs", "unlink", "rmdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert last_and_best(run, keep=None) == (3, 1)
    monkeypatch.undo()
    assert content(run) == before
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times


@pytest.mark.parametrize("name", ["lr[0.1]", "glob[*]", "a*"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"its full path has .*expected neither \[ nor \*"):
        opened(tmp_path / name / "run")
    assert not (tmp_path / name).exists()


def test_a_run_that_was_moved_below_such_a_path_is_read(run, tmp_path):
    moved = run.rename(tmp_path / "lr[0.1]*")
    assert last_and_best(moved, keep=None) == (3, 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/tmp/x"),
            r"could not be written \(Not a directory\)",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device.*free space"),
    ],
)
def test_a_write_that_fails_gives_its_reason(run, monkeypatch, error, words):
    checkpoints = opened(run)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.save(state(4), seconds=1.0)
    checkpoints.close()


@pytest.mark.parametrize("part", ["metrics/metrics", "check/metadata", "state/manifest.ocdbt"])
def test_a_pipe_in_a_checkpoint_is_damage_and_does_not_block(run, part):
    path = run / "checkpoints/3" / part
    path.unlink()
    os.mkfifo(path)
    assert last_and_best(run) == (2, 1)
    assert aside(run) == ["damaged-3"]


def test_a_folder_that_is_not_a_checkpoint_is_kept_while_others_are_removed(run):
    (run / "checkpoints/0").mkdir()
    (run / "checkpoints/0/notes.txt").write_text("mine")
    checkpoints = opened(run, keep=1)
    checkpoints.latest(LIKE)
    checkpoints.save(state(4), seconds=0.0, metrics={"pgd2": 0.1})
    checkpoints.close()
    # The newest, and the best.
    assert steps(run) == [0, 1, 4]
    assert (run / "checkpoints/0/notes.txt").read_text() == "mine"
