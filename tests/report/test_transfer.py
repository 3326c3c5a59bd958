"""The transfer matrix: its diagonal is each run's own result, and wrong runs are refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from bat_jax.data import Split
from bat_jax.errors import UserError
from bat_jax.evaluation import read
from bat_jax.evaluation.records import Accuracy
from bat_jax.report import matrices, report
from bat_jax.report.transfer import main
from bat_jax.runtime.files import write_json


@pytest.fixture(scope="module")
def matrix(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transferred") / "page"
    assert main([*map(str, runs), f"--output={folder}"]) == 0
    with np.load(folder / "transfer.npz") as arrays:
        return folder, dict(arrays)


def test_a_run_attacked_itself_has_the_verdicts_of_its_evaluation(runs, matrix):
    _, arrays = matrix
    for number, run in enumerate(runs):
        with np.load(run / "examples.npz") as examples:
            np.testing.assert_array_equal(arrays["ids"], examples["ids"])
            np.testing.assert_array_equal(arrays["clean"][number], examples["best_clean"])
            np.testing.assert_array_equal(arrays["robust"][number, number], examples["best_pgd2"])


def test_a_target_must_classify_the_clean_image_too(matrix):
    _, arrays = matrix
    assert not np.any(arrays["robust"] & ~arrays["clean"][None])
    # Images made against another network fool less than those made against one's own.
    accuracy = arrays["robust"].mean(axis=-1)
    assert accuracy[0, 1] > accuracy[1, 1]


def test_the_page_and_the_file_have_every_accuracy_with_n_and_interval(runs, matrix):
    folder, arrays = matrix
    content = json.loads((folder / "transfer.json").read_bytes())
    assert content["attack"] == "pgd2"
    page = (folder / "report.html").read_text()
    for i, source in enumerate(runs):
        for j, target in enumerate(runs):
            found = content["sources"][source.name][target.name]
            assert found["accuracy"] == arrays["robust"][i, j].mean()
            assert found["n"] == 449
            assert f"{100 * found['accuracy']:.1f} (" in page
    assert (folder / "figures" / "transfer.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_a_run_has_the_matrix_in_its_folder(runs, matrix, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    shutil.copytree(matrix[0], run / "transfer")
    page = report(run).read_text()
    assert "<h2>Transfer between runs</h2>" in page
    assert "From transfer/transfer.json in the run&#39;s folder." in page
    assert "made against the run in the row by PGD-2; 95 % Wilson intervals, n = 449." in page
    content = json.loads((matrix[0] / "transfer.json").read_bytes())
    for name, by_target in content["sources"].items():
        row = "".join(f"<td>{Accuracy.from_json(one)}</td>" for one in by_target.values())
        assert f'<th scope="row">{name}</th>{row}</tr>' in page


def test_a_damaged_matrix_is_named(runs, matrix, tmp_path):
    run = dataclasses.replace(read(runs[1]), folder=tmp_path)
    assert not matrices.sections(run)
    path = tmp_path / "transfer" / "transfer.json"
    path.parent.mkdir()
    content = json.loads((matrix[0] / "transfer.json").read_bytes())
    one = {"bat": content["clean"]["bat"]}
    for change, words in (
        ({"attack": "fgsm"}, "attack is 'fgsm'; expected a PGD, such as pgd20"),
        ({"clean": one}, r"clean has 1 run\(s\); expected two or more"),
        ({"sources": {"bat": one}}, r"has no pgd_at in sources\.bat; expected one"),
    ):
        write_json(path, content | change)
        with pytest.raises(UserError, match=rf"transfer/transfer\.json: {words}"):
            matrices.sections(run)


@pytest.mark.usefixtures("undrawn")
def test_fewer_images_are_drawn_on_request(runs, tmp_path):
    assert main([*map(str, runs), f"--output={tmp_path}", "--images=50"]) == 0
    with np.load(tmp_path / "transfer.npz") as arrays:
        assert arrays["robust"].shape == (2, 2, 50)


def test_the_data_of_a_run_are_hashed_once(runs, tmp_path, monkeypatch):
    hashed = []
    digest = Split.digest
    monkeypatch.setattr(Split, "digest", lambda split: hashed.append(split) or digest(split))

    def stop(*_, **__):
        raise UserError("stopped")

    monkeypatch.setattr("bat_jax.report.transfer.transfer", stop)
    assert main([*map(str, runs), f"--output={tmp_path}"]) == 2
    assert len(hashed) == 2 * len(runs)


def test_wrong_input_ends_in_one_line(runs, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    stored = json.loads((runs[1] / "config.json").read_bytes())
    stored["config"]["attack"]["epsilon"] = 0.2
    write_json(other / "config.json", stored)
    one = str(runs[0])
    for arguments, words in (
        ([one], "got 1 run(s); expected two or more"),
        ([one, one], "is named twice"),
        ([one, str(runs[1]), "--images=0"], "--images is 0; expected 1 or more"),
        ([one, str(runs[1]), "--output="], "--output is empty"),
        ([one, str(tmp_path / "none")], "no such file; expected the folder of a run"),
        ([one, str(other)], "config.attack.epsilon is 0.2, and 0.1 in"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bat_jax.report.transfer: ")
        assert words in line
