"""Exports in the layouts that attribution libraries read."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.memorization import Estimates, lds, save
from bat_jax.memorization.export import export, main, subsets
from bat_jax.memorization.store import Scores, Store

MODELS, TRAIN, TEST = 12, 10, 4
DRAWS = np.random.default_rng(0)
MASKS = DRAWS.permuted(np.tile(np.arange(TRAIN) < 7, (MODELS, 1)), axis=1)
MARGINS = np.round(DRAWS.normal(1, 2, (MODELS, TEST)) * 256) / 256
ESTIMATES = Estimates(
    source="a test",
    memorization=np.zeros(TRAIN),
    train_labels=np.zeros(TRAIN, np.int32),
    test_labels=np.zeros(TEST, np.int32),
    train_ids=np.arange(TRAIN),
    test_ids=np.arange(TEST),
    influence=(),
    in_count=MASKS.sum(0),
    out_count=(~MASKS).sum(0),
    estimator="margin",
)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder / "memorization.npz", ESTIMATES)
    store = Store(folder / "members", train=TRAIN, test=TEST, statistic="margin", writes=True)
    for rows in (np.arange(7, MODELS), np.arange(7)):
        train = np.where(MASKS[rows], 1.0, -1.0)
        store.append(Scores(rows, MASKS[rows], train, MARGINS[rows]))
    return folder


def test_members_are_read_by_number(run):
    found = subsets(run)
    np.testing.assert_array_equal(found.masks, MASKS)
    np.testing.assert_array_equal(found.margins, MARGINS)
    assert lds(DRAWS.normal(size=(TRAIN, TEST)), found).models == MODELS


def test_datamodels(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "out"), "--layout=datamodels"]) == 0
    assert capsys.readouterr().out == f"exported: {tmp_path / 'out'}\n"
    # As its RegressionDataset opens them.
    masks, margins = (
        np.lib.format.open_memmap(tmp_path / "out" / f"{name}.npy", mode="r")
        for name in ("masks", "margins")
    )
    assert (masks.dtype, margins.dtype) == (np.bool_, np.float16)
    np.testing.assert_array_equal(masks, MASKS)
    np.testing.assert_allclose(margins, MARGINS, rtol=1e-3)
    assert np.load(tmp_path / "out" / "_completed.npy").all()


def test_dattri(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = export(run, tmp_path / "out", layout="dattri")
    metadata = yaml.safe_load((folder / "metadata.yml").read_text())
    assert (metadata["num_subsets"], metadata["num_runs_per_subset"]) == (MODELS, 1)
    for number, mask in enumerate(MASKS):
        place = metadata["subset_dir_map"][number]
        with (Path(place) / "indices.txt").open() as file:
            assert [int(line) for line in file] == np.flatnonzero(mask).tolist()


def test_dattri_reads_it(run, tmp_path):
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("dattri.metric")
    folder = export(run, tmp_path / "out", layout="dattri")

    def target(checkpoint, loader):
        return -torch.from_numpy(np.load(checkpoint.parent / "margins.npy"))

    loader = types.SimpleNamespace(sampler=range(TEST))
    truth = metric.calculate_lds_ground_truth(target, str(folder), loader)
    np.testing.assert_allclose(truth[0].numpy(), MARGINS)
    scores = np.random.default_rng(1).normal(size=(TRAIN, TEST))
    theirs, _ = metric.lds(torch.from_numpy(scores), truth)
    np.testing.assert_allclose(theirs.numpy(), lds(scores, subsets(run)).values, atol=1e-6)


def test_quanda(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = export(run, tmp_path / "out", layout="quanda")
    found = yaml.safe_load((folder / "subset_ids.yaml").read_text())
    assert found == [np.flatnonzero(mask).tolist() for mask in MASKS]
    np.testing.assert_array_equal(np.load(folder / "margins.npy"), MARGINS)


def test_quanda_reads_it(run, tmp_path):
    torch = pytest.importorskip("torch")
    quanda = pytest.importorskip("quanda.metrics.ground_truth")
    folder = export(run, tmp_path / "out", layout="quanda")
    margins = torch.from_numpy(np.load(folder / "margins.npy"))
    metric = quanda.LinearDatamodelingMetric(
        model=torch.nn.Identity(),
        train_dataset=range(TRAIN),
        subset_ids="subset_ids.yaml",
        cache_dir=str(folder),
        m=len(margins),
        subset_ckpt_filenames=[""] * len(margins),
    )
    scores = np.random.default_rng(1).normal(size=(TRAIN, TEST))
    metric.update(
        explanations=torch.from_numpy(scores.T),
        test_targets=torch.zeros(TEST, dtype=torch.int64),
        test_data=torch.zeros(TEST, 1),
        subset_logits=dict(enumerate(margins)),
    )
    ours = lds(scores, subsets(run)).values
    np.testing.assert_allclose(torch.cat(metric.results["scores"]).numpy(), ours, atol=1e-6)
    assert metric.compute()["score"] == pytest.approx(np.mean(ours), abs=1e-6)


def test_wrong_runs_are_refused(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path), "--layout=quanda"]) == 2
    assert "exists; expected the name of a folder to create" in capsys.readouterr().err
    with pytest.raises(UserError, match="'trak'; expected one of datamodels, dattri, quanda"):
        export(run, tmp_path / "out", layout="trak")
    with pytest.raises(UserError, match=r"gs://bucket/out: is in a bucket; expected"):
        export(run, "gs://bucket/out", layout="quanda")
    (run / "members" / "000000-000006.npz").unlink()
    with pytest.raises(UserError, match="lacks 7 of 12 members"):
        export(run, tmp_path / "out", layout="quanda")
    save(run / "memorization.npz", dataclasses.replace(ESTIMATES, estimator=None))
    with pytest.raises(UserError, match=r"recorded no margins; .*memorization\.estimator=margin"):
        export(run, tmp_path / "out", layout="quanda")
    assert not (tmp_path / "out").exists()
