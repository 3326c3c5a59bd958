"""Robust accuracy against epsilon: the page and the files hold what was found of every image."""

import dataclasses
import json

import numpy as np
import pytest

from bat_jax.attacks.engine import Engine
from bat_jax.errors import UserError
from bat_jax.evaluation import read
from bat_jax.report import curves
from bat_jax.report.curve import main
from bat_jax.runtime.files import write_json

# Of the command in the fixture.
ARGUMENTS = ["--attacks", "apgd-ce", "--images=24"]
RADII = ["--epsilons", "1/20", "0.1", "0.2"]


@pytest.fixture(scope="module")
def curve(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve") / "page"
    assert main([str(runs[1]), f"--output={folder}", *ARGUMENTS, *RADII]) == 0
    with np.load(folder / "curve.npz", allow_pickle=False) as arrays:
        return folder, dict(arrays)


def test_every_image_has_a_bracket(curve):
    _, arrays = curve
    assert {"ids", "labels", "clean", "epsilons", "lower", "upper"} == set(arrays)
    np.testing.assert_array_equal(arrays["epsilons"], [0.05, 0.1, 0.2])
    assert len(arrays["ids"]) == 24
    assert set(arrays["lower"]) <= {0, 0.05, 0.1, 0.2}
    is_right = arrays["clean"]
    assert (arrays["lower"] < arrays["upper"])[is_right].all()
    assert not arrays["upper"][~is_right].any()


def test_the_curve_is_that_of_the_images_and_falls(runs, curve):
    folder, arrays = curve
    content = json.loads((folder / "curve.json").read_bytes())
    assert content["attacks"] == ["apgd-ce"]
    assert (content["norm"], content["state"]) == ("linf", "best")
    points = content["robust"]
    assert [point["epsilon"] for point in points] == [0, 0.05, 0.1, 0.2]
    for point in points:
        assert point["n"] == 24
        assert point["accuracy"] == np.mean(arrays["upper"] > point["epsilon"])
    accuracies = [point["accuracy"] for point in points]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == arrays["clean"].mean() > accuracies[-1]
    # AutoAttack's first attack leaves no more images than two steps of PGD, at the run's epsilon.
    with np.load(runs[1] / "examples.npz") as examples:
        rows = np.searchsorted(examples["ids"], arrays["ids"])
        np.testing.assert_array_equal(examples["best_clean"][rows], arrays["clean"])
        assert accuracies[2] <= examples["best_pgd2"][rows].mean()


def test_the_page_has_the_curve(curve):
    folder, _ = curve
    page = (folder / "report.html").read_text()
    assert "Robust accuracy against epsilon" in page
    assert "apgd-ce" in page
    assert (folder / "figures" / "curve.svg").exists()


def test_the_page_of_the_run_has_its_curves(runs, curve, tmp_path):
    folder, _ = curve
    run = dataclasses.replace(read(runs[1]), folder=tmp_path)
    assert not curves.sections(run)
    for norm in ("l2", "linf"):
        (tmp_path / f"curve-{norm}").mkdir()
        content = json.loads((folder / "curve.json").read_bytes())
        content |= {"norm": norm, "fab": content["robust"]}
        (tmp_path / f"curve-{norm}" / "curve.json").write_text(json.dumps(content))
    found = curves.sections(run)
    assert [one.title for one in found] == [
        "Robust accuracy against epsilon in L2",
        "Robust accuracy against epsilon in Linf",
    ]
    assert found[0].tables[0].header == ("epsilon", "robust accuracy", "under FAB-T alone")
    assert [row[0] for row in found[0].tables[0].rows] == ["0", "0.05", "0.1", "0.2"]
    assert "n = 24; at 0, of clean images. Checkpoint: best." in found[0].tables[0].caption
    assert len({one.charts[0].name for one in found}) == 2
    (tmp_path / "curve-linf-last").mkdir()
    (tmp_path / "curve-linf-last" / "curve.json").write_text(
        json.dumps(content | {"state": "last"})
    )
    titles = [one.title for one in curves.sections(run)]
    assert titles[2] == "Robust accuracy against epsilon in Linf, last checkpoint"
    (tmp_path / "curve-l2" / "curve.json").write_text('{"state": "best"}')
    with pytest.raises(UserError, match=r"curve-l2/curve\.json: has no norm; expected one"):
        curves.sections(run)


def test_the_command_continues_its_curve_and_refuses_that_of_other_radii(
    runs, curve, monkeypatch, capsys
):
    def refuse(*_):
        raise AssertionError

    folder, arrays = curve
    monkeypatch.setattr(Engine, "run", refuse)
    command = [str(runs[1]), f"--output={folder}", *ARGUMENTS]
    assert main([*command, *RADII]) == 0
    with np.load(folder / "curve.npz", allow_pickle=False) as again:
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array)
    capsys.readouterr()
    (saved,) = folder.glob("minimal_norms_*.npz")
    assert main([*command, "--epsilons", "0.1", "0.2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{saved}: holds another evaluation (epsilons differ; epsilons was [0.05, 0.1" in line
    assert saved.exists()


def test_each_checkpoint_has_a_folder_of_its_own(runs, monkeypatch, capsys):
    def refuse(*_, path, **__):
        raise UserError(str(path.parent))

    monkeypatch.setattr("bat_jax.report.curve.minimal_norms", refuse)
    for state, name in (("best", "curve-linf"), ("last", "curve-linf-last")):
        assert main([str(runs[1]), f"--state={state}", "--images=24"]) == 2
        assert capsys.readouterr().err == f"bat_jax.report.curve: {runs[1] / name}\n"


def test_the_curve_of_another_checkpoint_is_kept(runs, curve, capsys):
    folder, _ = curve
    before = (folder / "curve.json").read_bytes()
    command = [str(runs[1]), f"--output={folder}", *ARGUMENTS, *RADII]
    assert main([*command, "--state=last"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    words = "holds the curve of the best checkpoint; expected that of the last: name another folder"
    assert f"{folder / 'curve.json'}: {words}" in line
    assert (folder / "curve.json").read_bytes() == before


def test_the_curve_of_another_run_is_kept(runs, curve, tmp_path, capsys):
    content = json.loads((curve[0] / "curve.json").read_bytes())
    (saved,) = curve[0].glob("minimal_norms_*.npz")
    for name, files in (
        ("finished", {"curve.json": {**content, "weights": "other"}}),
        ("stopped", {"minimal_norms_1.npz": {}}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file, held in files.items():
            write_json(folder / file, held)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        assert main([str(runs[1]), f"--output={folder}", *ARGUMENTS, *RADII]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{folder}: holds the curve of another run" in line
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert saved.name != "minimal_norms_1.npz"


def test_wrong_input_ends_in_one_line(runs, tmp_path, capsys):
    run = str(runs[0])
    for arguments, words in (
        ([run, "--images=0"], "--images is 0; expected 1 or more"),
        ([run, "--output="], "--output is empty"),
        ([str(tmp_path)], "no such file; expected the folder of a run"),
        ([run, "--norm=l2"], "--norm is l2, and linf in"),
        ([run, "--epsilons", "0.2", "0.1"], "epsilons: 0.2, then 0.1; expected ascending radii"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bat_jax.report.curve: ")
        assert words in line
    for arguments, words in (
        (["--epsilons", "8/0"], "'8/0': expected a number or a fraction, such as 8/255"),
        (["--norm=l3"], "argument --norm: invalid choice: 'l3'"),
        (["--attacks", "pgd"], "argument --attacks: invalid choice: 'pgd'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([run, *arguments])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
