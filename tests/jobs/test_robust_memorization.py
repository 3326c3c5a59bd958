"""One run estimates memorization on clean and on attacked images, and resumes with equal bytes."""

import json
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from bat_jax import memorization, report
from bat_jax.ensemble.members import Ensemble, subset
from bat_jax.jobs.memorization import memorize
from bat_jax.memorization import ranking
from bat_jax.memorization.store import Scores, Store
from bat_jax.report.contrast import contrasted
from bat_jax.report.style import render
from bat_jax.runtime.interruption import Interrupted
from bat_jax.training.saved import read_run
from configs import digits_robust_memorization

MEMBERS, TRAIN, TEST = 40, 160, 60


def config():
    config = digits_robust_memorization.get_config()
    config.data.subset = TRAIN
    config.model.width = 2
    config.memorization.members = MEMBERS
    config.memorization.test_images = TEST
    config.programs.members_at_once = 1
    config.parallel.devices = 1
    return config


def made_up(members):
    """Returns scores in place of training: margins in a sixteenth, lower under attack."""
    found = []
    for member in members:
        draws = np.random.default_rng(member)
        mask = np.zeros(TRAIN, bool)
        mask[subset(0, int(member), examples=TRAIN, size=112)] = True
        train = 2 + mask - 3 * (np.arange(TRAIN) < 20) * ~mask
        train, test = (
            np.round(16 * (draws.normal(mean, 1, size))) / 16
            for mean, size in ((train, TRAIN), (1, TEST))
        )
        found.append((mask, train, test, train - 1, test - 1))
    return Scores(np.array(members), *map(np.stack, zip(*found, strict=True)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A whole run, and one that was stopped after seven members."""
    folder = tmp_path_factory.mktemp("robust")

    def stop(store, scores, append=Store.append):
        append(store, scores)
        if len(store.missing(MEMBERS)) == MEMBERS - 7:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ensemble, "train", lambda self, members, progress=None: made_up(members))
        patch.setattr(ranking, "_RESAMPLES", 20)
        memorize(config(), folder / "whole")
        with patch.context() as stopping:
            stopping.setattr(Store, "append", stop)
            with pytest.raises(Interrupted):
                memorize(config(), folder / "stopped")
        assert not (folder / "stopped" / "robust_memorization.npz").exists()
        memorize(config(), folder / "stopped")
    return folder


def test_estimates_are_those_of_the_scores_on_either_kind_of_images(runs):
    scores = made_up(range(MEMBERS))
    for file, of, inputs in (
        ("memorization.npz", scores, "clean"),
        ("robust_memorization.npz", scores.attacked(), "adversarial"),
    ):
        found = memorization.load(runs / "whole" / file)
        expected = memorization.estimate(of.masks, of.train, of.test, estimator="margin")
        np.testing.assert_array_equal(found.memorization, expected.memorization)
        np.testing.assert_array_equal(found.memorization_se, expected.memorization_se)
        np.testing.assert_array_equal(found.influence[0].values, expected.influence[0].values)
        assert (found.inputs, found.training, len(found.test_ids)) == (inputs, "pgd_at", TEST)


@pytest.mark.parametrize("file", ["memorization.npz", "robust_memorization.npz", "results.json"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(runs, file):
    assert (runs / "stopped" / file).read_bytes() == (runs / "whole" / file).read_bytes()


def test_results_and_page_compare_clean_and_attacked_images(runs):
    results = json.loads((runs / "whole" / "results.json").read_text())
    assert results["robust"]["train"]["examples"] == TRAIN
    found = results["clean_and_robust"]
    assert 100 < found["rank_correlation"]["n"] <= TRAIN  # In halves, some lack four members.
    for name in ("clean", "robust"):
        assert found["influence"][name]["pairs"] == TRAIN * TEST
        assert found["influence"][name]["harmful"] < 20
    assert set(found["exchange"]) == {
        f"{kind}_atypical_on_{name}_accuracy"
        for kind in ("clean", "robust")
        for name in ("clean", "robust")
    }
    robust = memorization.load(runs / "whole" / "robust_memorization.npz")
    clean = ConfigDict({"memorization": {"estimates": str(runs / "whole" / "memorization.npz")}})
    section = contrasted(read_run(runs / "whole", clean), robust, results)
    assert "both have rank correlation" in section.text[1]
    assert "the mean of 5 counts after the subsets" in section.tables[1].caption
    assert [len(table.rows) for table in section.tables] == [2, 2, 4]
    assert render(section.charts[0]).png[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_page_of_a_run_has_the_comparison(runs):
    assert "Clean and attacked images" in report.report(runs / "whole").read_text()
