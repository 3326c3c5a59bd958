"""Runs of older and newer versions, read from their config.json."""

import json

import pytest

from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.runtime.plain import plain
from bat_jax.training import saved


@pytest.fixture
def written(tmp_path):
    """Returns a function that changes the default config and writes it as a run's config.json."""

    def write(change, **fields):
        config = plain(configs.default())
        change(config)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"config": config, "data": {"train": "0"}, **fields}))
        return path

    return write


def test_a_field_that_the_run_lacks_has_its_default(written):
    def change(config):
        del config["train"]["ema"], config["checkpoint"]
        config["seed"] = 7

    config, digests = saved._config(written(change))
    expected = configs.default()
    expected.seed = 7
    assert plain(config) == plain(expected)
    assert digests == {"train": "0"}


def test_a_folder_of_findings_is_no_single_run(written):
    path = written(lambda config: config.update(job="findings", findings={}))
    with pytest.raises(UserError, match="holds findings; expected a single run: name a folder in"):
        saved.read_run(path.parent)


def test_a_field_of_a_newer_version_is_named(written):
    path = written(lambda config: config["train"].update(warmup=3))
    with pytest.raises(UserError, match=r"does not know: train\.warmup; the run was begun by an"):
        saved._config(path)


def test_a_newer_format_is_named(written):
    path = written(lambda _: None, format=9, versions={"bat_jax": "7.5"}, git=None)
    with pytest.raises(UserError, match=r"format 9, begun by bat_jax 7\.5; bat_jax .* up to 2:"):
        saved._config(path)


def test_a_value_of_another_type_is_one_line(written):
    path = written(lambda config: config["train"].update(epochs={"a": 1}))
    with pytest.raises(UserError, match="not the config of a run of this version"):
        saved._config(path)
