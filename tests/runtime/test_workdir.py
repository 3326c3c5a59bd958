"""The folder of a run: its lock, its config and its version."""

import errno
import fcntl
import json
import os

import pytest

from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.runtime import workdir as workdirs

DATA = {"train": "0", "test": "1"}


def claim(folder, config=None, defaults=None):
    workdirs.claim(
        folder, config or configs.default(), DATA, defaults=defaults or configs.default()
    )


def open_and_close(folder):
    with workdirs.opened(folder):
        pass


@pytest.fixture
def folder(tmp_path):
    """A folder claimed by the default config."""
    claim(tmp_path)
    return tmp_path


def edit(folder, change):
    """Changes config.json to that of another version."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_second_process_is_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is running in it"):
            open_and_close(tmp_path)
    open_and_close(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_used_with_one_warning(tmp_path, monkeypatch, caplog, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        open_and_close(tmp_path)
    (record,) = caplog.records
    assert f"has no locks ({os.strerror(code)})" in record.getMessage()


def test_a_link_or_fifo_as_the_lock_is_refused_and_its_target_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name, make in (("link", lambda p: p.symlink_to(precious)), ("fifo", os.mkfifo)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / ".lock")
        with pytest.raises(UserError, match="lock: is not a regular file"):
            open_and_close(tmp_path / name)
    assert precious.read_text() == "mine"


def test_a_config_records_its_format(folder):
    assert json.loads((folder / "config.json").read_text())["format"] == workdirs.FORMAT
    edit(folder, lambda content: content.pop("format"))
    claim(folder)


def test_a_newer_format_is_refused_with_both_versions(folder):
    def change(content):
        content["format"] = workdirs.FORMAT + 1
        content["versions"]["bat_jax"] = "7.5"
        content["git"] = "abc"

    edit(folder, change)
    with pytest.raises(UserError, match=r"of format 3, begun by bat_jax 7.5 \(abc\); bat_jax .* 2"):
        claim(folder)


@pytest.mark.parametrize("number", [0, True, "1", None, [1]])
def test_a_wrong_format_is_refused(folder, number):
    edit(folder, lambda content: content.update(format=number))
    with pytest.raises(UserError, match="format is"):
        claim(folder)


@pytest.mark.parametrize(
    "content", ["", "null", "3", "[]", "{", "[" * 10_000, '{"config": [], "data": {}}', "{}"]
)
def test_a_file_that_is_not_a_config_gives_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="not a run's config") as caught:
        claim(tmp_path)
    assert "\n" not in str(caught.value)
    assert "--workdir" not in str(caught.value)


def test_a_field_that_an_older_run_lacks_has_its_default(folder):
    def change(content):
        del content["config"]["train"]["ema"], content["config"]["checkpoint"]
        del content["config"]["seed"]

    edit(folder, change)
    claim(folder)
    other = configs.default()
    other.train.ema = 0.5
    with pytest.raises(UserError, match=r"another config .*: train.ema: 0.0, 0.5;"):
        claim(folder, other)


def test_a_field_of_a_newer_version_is_refused_by_name(folder):
    def change(content):
        content["config"]["train"]["warmup"] = None
        content["config"]["magic"] = {"on": True}

    edit(folder, change)
    with pytest.raises(UserError, match=r"does not know: train\.warmup, magic; the run was begun"):
        claim(folder)


def test_a_run_of_another_job_or_method_is_not_called_one_of_another_version(folder, tmp_path):
    with pytest.raises(UserError, match=r"another config .*: job: 'train', 'findings'; name"):
        claim(folder, configs.findings(), configs.findings())
    edit(folder, lambda content: content["config"]["objective"].update(name="my:Focal", focal={}))
    with pytest.raises(UserError, match=r"another config .*: objective.name: 'my:Focal', 'bat'; n"):
        claim(folder)


def test_without_synchronised_batch_norm_the_number_of_devices_must_stay(tmp_path):
    config = configs.default()
    config.model.sync_batch_norm = False
    claim(tmp_path, config)
    claim(tmp_path, config)
    config.parallel.devices = 8  # As many as there are: the same.
    claim(tmp_path, config)
    config.parallel.devices = 0
    edit(tmp_path, lambda content: content.update(devices=["cpu:0", "cpu:1"]))
    with pytest.raises(UserError, match=r"another config .*: parallel.devices: 2, 8; name"):
        claim(tmp_path, config)
    config.job = "memorization"  # A member trains on one device.
    edit(tmp_path, lambda content: content["config"].update(job="memorization"))
    claim(tmp_path, config)
    config.model.sync_batch_norm = True
    edit(tmp_path, lambda content: content["config"]["model"].update(sync_batch_norm=True))
    claim(tmp_path, config)


def test_mappings_that_users_fill_are_compared_as_they_are(tmp_path):
    config = configs.findings().unlock()
    config.findings.variants = {"mine": {"alpha": 2.0}}
    claim(tmp_path, config, configs.findings())
    claim(tmp_path, config, configs.findings())
    with pytest.raises(UserError, match="another config"):
        claim(tmp_path, configs.findings(), configs.findings())


def test_a_pipe_in_place_of_a_config_is_refused_without_waiting(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UserError, match="is not a regular file; expected the config of a run"):
        claim(folder)
    assert workdirs.begun_by(folder) == "an unknown version"
