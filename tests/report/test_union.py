"""The union over norms: an image must withstand every threat, of one and the same run."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.evaluation import read
from bat_jax.evaluation.records import Accuracy
from bat_jax.jobs import evaluate_run
from bat_jax.report import report, unions
from bat_jax.report.union import main
from bat_jax.runtime.files import write_json, write_npz

SAMPLE = {"attacks": ["square"], "images": 9, "drawn": 5, "broken": 0, "interval": [0, 1]}


@pytest.fixture(scope="module")
def evaluations(runs, tmp_path_factory):
    """A run with Linf attacks, and two made-up evaluations of it, with L2 and a larger epsilon."""
    folders = [runs[1]]
    rng = np.random.default_rng(0)
    for norm, epsilon in (("l2", 0.5), ("linf", 0.3)):
        folder = tmp_path_factory.mktemp("evaluation") / norm
        folder.mkdir()
        about = json.loads((runs[1] / "config.json").read_bytes())
        about["config"]["attack"] |= {"norm": norm, "epsilon": epsilon}
        write_json(folder / "config.json", about)
        results = json.loads((runs[1] / "results.json").read_bytes())
        with np.load(runs[1] / "examples.npz") as file:
            examples = dict(file)
        for state in ("best", "last"):
            robust = examples[f"{state}_pgd2"]
            broken = rng.uniform(size=len(robust)) < 0.2
            examples[f"{state}_pgd2"] = examples[f"{state}_clean"] & ~broken
            found = Accuracy.of(examples[f"{state}_pgd2"]).to_json()
            results[state]["test"]["pgd2"] = found
        write_json(folder / "results.json", results)
        write_npz(folder / "examples.npz", examples)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def united(evaluations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("union") / "page"
    assert main([*map(str, evaluations), f"--output={folder}"]) == 0
    with np.load(folder / "union.npz", allow_pickle=False) as arrays:
        return folder, dict(arrays)


def test_an_image_stands_if_it_withstands_every_threat(evaluations, united):
    _, arrays = united
    for state in ("best", "last"):
        robust = arrays[f"{state}_robust"]
        for row, folder in zip(robust, evaluations, strict=True):
            with np.load(folder / "examples.npz") as examples:
                np.testing.assert_array_equal(row, examples[f"{state}_pgd2"])
                np.testing.assert_array_equal(arrays["ids"], examples["ids"])
        np.testing.assert_array_equal(arrays[f"{state}_union"], robust[0] & robust[1] & robust[2])


def test_the_files_have_the_union_and_each_norm_beside_it(united):
    folder, arrays = united
    content = json.loads((folder / "union.json").read_bytes())["best"]
    assert list(content["by"]) == ["Linf 0.1, PGD-2", "L2 0.5, PGD-2", "Linf 0.3, PGD-2"]
    robust = arrays["best_robust"]
    assert content["clean"] == Accuracy.of(arrays["best_clean"]).to_json()
    assert content["union"] == Accuracy.of(robust.all(axis=0)).to_json()
    for number, (title, found) in enumerate(content["by"].items()):
        assert found == Accuracy.of(robust[number]).to_json()
        alone = ~robust[number] & robust[[i for i in range(3) if i != number]].all(axis=0)
        assert content["broken_by_one_alone"][title] == alone.sum()
    page = (folder / "report.html").read_text()
    low, high = content["union"]["interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in page
    assert "does not establish robustness" in page
    assert (folder / "figures" / "union.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_the_run_has_its_union(runs, united, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    shutil.copytree(united[0], run / "union")
    page = report(run).read_text()
    assert "<h2>Union over norms</h2>" in page
    assert "From union/union.json in the run&#39;s folder." in page
    assert 'id="union_0"' in page
    content = json.loads((united[0] / "union.json").read_bytes())
    for state, found in content.items():
        for title, one in found["by"].items():
            accuracy = Accuracy.from_json(one)
            cells = (accuracy.percent, accuracy.interval_in_percent)
            alone = found["broken_by_one_alone"][title]
            row = "".join(f"<td>{cell}</td>" for cell in (*cells, alone))
            assert f'<th scope="row">{state}, {title}</th>{row}</tr>' in page


def test_unions_are_found_within_the_run_and_its_evaluations(runs, united, tmp_path):
    run = dataclasses.replace(read(runs[1]), folder=tmp_path)
    assert not unions.sections(run)
    places = ("union", "evaluation-l2-0.5", "evaluation-l2-0.5/of-three")
    for place in places:
        (tmp_path / place).mkdir()
        shutil.copy(united[0] / "union.json", tmp_path / place)
    (tmp_path / "union" / "far" / "off").mkdir(parents=True)
    shutil.copy(united[0] / "union.json", tmp_path / "union" / "far" / "off")
    found = unions.sections(run)
    assert {one.text[0].split()[1] for one in found} == {f"{one}/union.json" for one in places}
    assert len({one.charts[0].name for one in found}) == 3
    path = tmp_path / "union" / "union.json"
    content = json.loads(path.read_bytes())
    del content["best"]["broken_by_one_alone"]["L2 0.5, PGD-2"]
    for wrong, words in (
        (content, r"has no L2 0\.5, PGD-2 in best\.broken_by_one_alone; expected one"),
        ({}, "has no best or last or weights; expected one of them"),
        ({"middle": {}}, "has 'middle'; expected best or last or weights"),
    ):
        write_json(path, wrong)
        with pytest.raises(UserError, match=rf"union/union\.json: .*{words}"):
            unions.sections(run)


def test_evaluations_that_do_not_belong_together_are_refused(runs, evaluations, tmp_path, capsys):
    def changed(name, **fields):
        folder = tmp_path / name
        shutil.copytree(evaluations[1], folder)
        about = json.loads((folder / "config.json").read_bytes())
        about["config"] |= fields
        write_json(folder / "config.json", about)
        return folder

    fewer, other = changed("fewer"), changed("other")
    for folder, rows in ((fewer, slice(1, None)), (other, slice(None))):
        with np.load(folder / "examples.npz") as file:
            examples = {name: array[rows] for name, array in file.items()}
        if folder == other:
            examples["best_clean"][:2] = ~examples["best_clean"][:2]
        else:
            results = json.loads((folder / "results.json").read_bytes())
            for state in ("best", "last"):
                for found in _accuracies(results[state]["test"]):
                    found["n"] -= 1
            write_json(folder / "results.json", results)
        write_npz(folder / "examples.npz", examples)
    sampled = changed("sampled")
    results = json.loads((sampled / "results.json").read_bytes())
    for state in ("best", "last"):
        results[state]["test"]["autoattack"] = results[state]["test"]["pgd2"]
        results[state]["sample"] = SAMPLE
    write_json(sampled / "results.json", results)
    with np.load(sampled / "examples.npz") as file:
        examples = dict(file)
    for state in ("best", "last"):
        examples[f"{state}_autoattack"] = examples[f"{state}_pgd2"]
    write_npz(sampled / "examples.npz", examples)
    first = str(evaluations[0])
    for given, words in (
        ([first], "got 1 evaluation(s); expected two or more"),
        ([first, first], "is named twice"),
        ([first, str(tmp_path)], "has no config.json; expected the folder of a run"),
        ([first, str(changed("seed", seed=9))], "its config.seed differs from that of"),
        ([first, str(runs[0])], "its config.objective differs from that of"),
        ([first, str(fewer)], "has 448 test images, other ones than the 449 of"),
        ([first, str(other)], "2 of its clean verdicts differ from those of"),
        ([first, str(sampled)], "its last attacks were run on a sample; expected all images"),
        ([str(evaluations[1]), str(changed("twice"))], "its attack is L2 0.5, PGD-2, as in"),
        ([first, str(evaluations[1]), "--output="], "--output is empty"),
    ):
        assert main(given) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bat_jax.report.union: ")
        assert words in line


@pytest.fixture
def attacked(evaluations, tmp_path):
    """Returns a function that copies two evaluations, with AutoAttack on one checkpoint alone."""

    def copied(number, autoattack, bare, sampled):
        folder = tmp_path / f"{autoattack}-{bare}-{sampled}-{number}"
        ignore = shutil.ignore_patterns("checkpoints", "figures")
        shutil.copytree(evaluations[number], folder, ignore=ignore)
        results = json.loads((folder / "results.json").read_bytes())
        with np.load(folder / "examples.npz") as file:
            examples = dict(file)
        verdicts = examples[f"{autoattack}_clean"] & (np.arange(449) % (3 + number) > 0)
        examples[f"{autoattack}_autoattack"] = verdicts
        results[autoattack]["test"]["autoattack"] = Accuracy.of(verdicts).to_json()
        if bare is not None:
            results[bare]["test"] = {"clean": results[bare]["test"]["clean"]}
        if sampled is not None:
            results[sampled]["sample"] = SAMPLE
        write_json(folder / "results.json", results)
        write_npz(folder / "examples.npz", examples)
        return str(folder)

    def both(autoattack, *, bare=None, sampled=None):
        return [copied(number, autoattack, bare, sampled) for number in (0, 1)]

    return both


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("first", "other"), [("best", "last"), ("last", "best")])
def test_each_checkpoint_is_united_under_its_own_strongest_attack(attacked, tmp_path, first, other):
    assert main([*attacked(first), f"--output={tmp_path / 'page'}"]) == 0
    content = json.loads((tmp_path / "page" / "union.json").read_bytes())
    assert list(content[first]["by"]) == ["Linf 0.1, AutoAttack", "L2 0.5, AutoAttack"]
    assert list(content[other]["by"]) == ["Linf 0.1, PGD-2", "L2 0.5, PGD-2"]
    with np.load(tmp_path / "page" / "union.npz") as arrays:
        survivors = arrays[f"{first}_clean"] & (np.arange(449) % 3 > 0) & (np.arange(449) % 4 > 0)
        np.testing.assert_array_equal(arrays[f"{first}_union"], survivors)


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_that_not_every_evaluation_attacked_is_left_out(attacked, tmp_path):
    assert main([*attacked("best", bare="last"), f"--output={tmp_path / 'page'}"]) == 0
    assert list(json.loads((tmp_path / "page" / "union.json").read_bytes())) == ["best"]
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Without the last checkpoint, which not every evaluation attacked." in page
    assert "Not every threat is AutoAttack" not in page


@pytest.mark.usefixtures("undrawn")
def test_a_union_of_fewer_attacks_keeps_its_warning(attacked, tmp_path):
    folders = attacked("best", bare="last")
    path = Path(folders[0]) / "results.json"
    results = json.loads(path.read_bytes())
    results["best"]["broken_by"] = {"apgd-ce": 3}
    write_json(path, results)
    assert main([*folders, f"--output={tmp_path / 'page'}"]) == 0
    (found,) = json.loads((tmp_path / "page" / "union.json").read_bytes()).values()
    assert list(found["by"]) == ["Linf 0.1, AutoAttack (apgd-ce)", "L2 0.5, AutoAttack"]
    assert "Not every threat is AutoAttack" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_of_another_version_is_united_with_its_run(evaluations, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(evaluations[1], other)
    content = json.loads((other / "config.json").read_bytes())
    config = content["config"]
    content["format"] = 1
    config["model"]["lowering"] = "automatic"
    del config["train"]["ema"], config["objective"]["awp"], config["programs"]
    config["data"]["tested"] = 449
    write_json(other / "config.json", content)
    run = tmp_path / "run"
    shutil.copytree(evaluations[0], run, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    content = json.loads((run / "config.json").read_bytes())
    content["config"]["data"]["tested"] = 449
    write_json(run / "config.json", content)
    assert main([str(run), str(other), f"--output={tmp_path / 'page'}"]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "of the held-out training images (n = 449" in page


def test_a_sample_on_the_last_checkpoint_and_no_common_attack_are_refused(
    attacked, tmp_path, capsys
):
    best, last = attacked("best", bare="last"), attacked("last", bare="best")
    for folders, words in (
        (attacked("last", sampled="last"), "its last attacks were run on a sample; expected all"),
        ([best[0], last[1]], "have no attacked checkpoint in common; expected one: name attacks"),
    ):
        assert main([*folders, f"--output={tmp_path / 'page'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def _accuracies(test):
    """Yields every accuracy of a state."""
    for found in test.values():
        if "n" in found:
            yield found
        else:
            yield from found.values()


@pytest.mark.slow
def test_evaluations_of_a_run_are_united(runs, tmp_path):
    config = configs.evaluation()
    config.run = str(runs[1])
    config.evaluation.attacks = ("apgd-ce",)
    config.evaluation.subset = 48
    config.evaluation.batch_size = 24
    config.checkpoints = ("best",)
    folders = []
    for norm, epsilon in (("linf", 0.1), ("l2", 0.5)):
        config.attack.norm, config.attack.epsilon = norm, epsilon
        folders.append(str(evaluate_run(config, tmp_path / norm)[1]))
    assert main([*folders, f"--output={tmp_path / 'union'}"]) == 0
    content = json.loads((tmp_path / "union" / "union.json").read_bytes())
    (found,) = content.values()
    assert list(found["by"]) == [
        "Linf 0.1, AutoAttack (apgd-ce)",
        "L2 0.5, AutoAttack (apgd-ce)",
    ]
    assert found["union"]["accuracy"] <= min(one["accuracy"] for one in found["by"].values())
