"""Released figures are read, and joined by the original order."""

from pathlib import Path

import numpy as np
import pytest

from bat_jax.data import Split
from bat_jax.errors import UserError
from bat_jax.memorization import released

SHARED = Path(__file__).parents[3] / "shared/data"
PAIRS = SHARED / "cifar100_high_infl_pairs_infl0.15_mem0.25.npz"
CSCORES = SHARED / "cifar100-cscores-orig-order.npz"
needs_files = pytest.mark.skipif(not PAIRS.exists(), reason=f"the released files, at {SHARED}")


@needs_files
def test_the_released_pairs_reach_their_thresholds():
    pairs = released.load_pairs(PAIRS)
    assert len(pairs.train) == 1015
    assert pairs.influence.min() > 0.15
    assert pairs.memorization.min() >= 0.25
    assert pairs.train.max() < 50_000
    assert pairs.test.max() < 10_000


@needs_files
def test_memorized_examples_of_the_pairs_have_low_consistency_scores():
    pairs, scores = released.load_pairs(PAIRS), released.load_cscores(CSCORES)
    assert len(scores.scores) == 50_000
    # Two groups of authors, one ranking: in the same order only if both are the original one.
    assert np.median(scores.scores[pairs.train]) < np.median(scores.scores) - 0.2


def images(labels, ids):
    return Split(
        np.zeros((len(labels), 8, 8, 1), np.uint8), np.array(labels, np.int32), np.array(ids)
    )


def test_scores_are_joined_by_id_and_labels_are_checked():
    scores = released.CScores(np.array([3, 1, 4]), np.array([0.1, 0.5, 0.9]))
    released.check_cscores(scores, images([4, 3], [2, 0]))
    with pytest.raises(UserError, match="example 2 has label 4, in the data 3"):
        released.check_cscores(scores, images([3], [2]))
    with pytest.raises(UserError, match="one for every image"):
        released.check_cscores(scores, images([3], [7]))


def test_wrong_files_are_refused_by_name(tmp_path):
    path = tmp_path / "some.npz"
    with pytest.raises(UserError, match="no such file"):
        released.load_pairs(path)
    np.savez(path, labels=np.arange(3))
    with pytest.raises(UserError, match="has no scores; expected C-scores"):
        released.load_cscores(path)
    np.savez(path, labels=np.arange(3), scores=np.arange(2.0))
    with pytest.raises(
        UserError, match=r"scores has shape \(2,\); expected \(3,\), the length of l"
    ):
        released.load_cscores(path)
    np.savez(path, labels=np.array([{}]), scores=np.array([{}]))
    with pytest.raises(UserError, match="labels is object; expected integers"):
        released.load_cscores(path)
    np.savez(path, labels=np.arange(2), scores=np.array([0.5, 1.5]))
    with pytest.raises(UserError, match=r"scores holds 1\.5; expected finite numbers from 0 to 1"):
        released.load_cscores(path)
    pairs = {"tr_idx": np.arange(3), "tt_idx": np.arange(3), "infl": np.ones(3), "mem": np.ones(3)}
    np.savez(path, **pairs | {"tr_idx": np.full(3, 0.5)})
    with pytest.raises(UserError, match="tr_idx is float64; expected integers"):
        released.load_pairs(path)
    np.savez(path, **pairs | {"infl": np.full(3, np.nan)})
    with pytest.raises(UserError, match="infl holds nan; expected finite numbers"):
        released.load_pairs(path)
