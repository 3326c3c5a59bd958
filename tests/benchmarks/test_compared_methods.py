"""The comparison of methods has a legal config for every arm."""

import methods
import pytest

from bat_jax import config as configs


@pytest.mark.parametrize("arm", methods.ARMS)
def test_the_config_of_every_arm_is_legal(arm):
    config = methods.config_of(arm, seed=1, epsilon=16 / 255)
    configs.check(config)
    assert config.seed == 1
    assert config.attack.epsilon == 16 / 255
    assert not config.evaluation.attacks


def test_a_table_shows_what_is_there(tmp_path):
    folders = {("pgd_at", 0): tmp_path / "pgd_at-seed0"}
    assert list(methods.table(tmp_path, ["pgd_at"], folders))[2] == "| pgd_at | 0 |" + " - |" * 7
