"""Members trained by several processes equal those of one, and errors are passed on."""

import multiprocessing

import numpy as np
import pytest

from bat_jax.ensemble.members import Ensemble
from bat_jax.ensemble.workers import Workers
from bat_jax.errors import UserError
from bat_jax.runtime.distributed import PeerError
from tests.ensemble.members import experiment
from tests.estimates import write_digits_estimates


def test_workers_train_the_same_members_and_a_killed_process_is_reported():
    # Workers must not hold out images for the test again.
    fields = {"memorization.statistic": "probability", "data.tested": 300}
    fields["programs.members_at_once"] = 2
    alone = Ensemble(experiment(**fields), members=3).train(np.array([7, 0, 4]))
    progress = []
    with Workers(experiment(**fields), members=3) as workers:
        assert workers.round_size == 4
        shared = workers.train(np.array([7, 0, 4]), progress.append)
        # Fewer than there are processes.
        np.testing.assert_array_equal(workers.train(np.array([4])).train[0], alone.train[2])
        multiprocessing.active_children()[0].kill()
        with pytest.raises(PeerError, match="was ended by signal 9; run the same command"):
            workers.train(np.array([1, 2]))
    for found, expected in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert sum(progress) == pytest.approx(3)
    assert not multiprocessing.active_children()


def test_workers_take_estimates_of_all_test_images_and_score_some(tmp_path):
    fields = {
        "objective.name": "bat",
        "objective.bat.gate": "memorized",
        "attack.num_steps": 1,
        "train.steps": 2,
        "memorization.estimates": str(write_digits_estimates(tmp_path / "all.npz")),
        "memorization.test_images": 9,
        "programs.members_at_once": 1,
    }
    alone = Ensemble(experiment(**fields), members=1).train(np.array([3]))
    with Workers(experiment(**fields), members=1) as workers:
        shared = workers.train(np.array([3]))
    assert shared.test.shape == (1, 9)
    np.testing.assert_array_equal(shared.train, alone.train)


def test_a_wrong_field_is_reported_and_no_process_is_left():
    fields = {"train.batch_size": 150}
    with pytest.raises(UserError, match="140 images of a member's subset"):
        Workers(experiment(**fields), members=1)
    assert not multiprocessing.active_children()
