"""The weights of a file are evaluated like a run's, and results also have RobustBench's form."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load, save

from bat_jax import config as configs
from bat_jax import data, models
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.protocol import Outcome
from bat_jax.data import corruptions
from bat_jax.data.corruptions.__main__ import make
from bat_jax.errors import UserError
from bat_jax.evaluation import robustbench, runs
from bat_jax.evaluation.records import Evaluation, table
from bat_jax.interop import export_weights, import_weights
from bat_jax.jobs import evaluate_weights
from bat_jax.jobs import weights as jobs_weights
from bat_jax.jobs.weights import _fit_training_images
from bat_jax.report import single

NORMALIZATION = {"mean": (0.25,), "std": (0.5,)}


def evaluation(file, changes=None):
    config = configs.evaluation()
    config.weights = str(file)
    config.architecture = "small_cnn"
    config.data.name = "digits"
    config.evaluation.num_steps = 2
    config.evaluation.losses = ("cross_entropy",)
    config.evaluation.subset = 48
    config.evaluation.batch_size = 24
    config.parallel.devices = 1
    config.update_from_flattened_dict(changes or {})
    return config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a network for digits with random weights, and its model and variables."""
    model = models.create("small_cnn", 10, width=2, **NORMALIZATION)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    path = tmp_path_factory.mktemp("weights") / "published.safetensors"
    export_weights(path, "small_cnn", variables, **NORMALIZATION)
    return path, model, variables


@pytest.fixture(scope="module")
def evaluated(weights, tmp_path_factory):
    """Results and folder of an evaluation whose attacks find nothing."""

    def find_nothing(engine, attack, images, labels, targets, keys, scale=None):
        return Outcome(images.copy(), np.zeros(len(images), bool), np.zeros(len(images), bool))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run", find_nothing)
        patch.chdir(tmp_path_factory.mktemp("here"))
        config = evaluation(weights[0])
        config.evaluation.attacks = robustbench.STANDARD
        make("digits", None, Path("digits-c"), seed=0)
        config.evaluation.corruptions.path = "digits-c"
        config.evaluation.corruptions.names = ("contrast", "pixelate")
        results, workdir = evaluate_weights(config)
        return results, workdir.resolve()


def test_accuracies_are_those_of_the_model(weights, evaluated):
    _, model, variables = weights
    results, workdir = evaluated
    assert workdir.parts[-2:] == ("runs", "published-linf-0.03137")
    assert set(results) == {"weights", "seconds", "attack_seconds"}
    found = runs.read(workdir)
    assert found.config["model"]["name"] == "small_cnn"
    assert found.config["model"]["mean"] == [0.25]
    test = data.load("digits").test
    rows = np.searchsorted(test.ids, found.examples["ids"])
    logits = jax.jit(model.apply)(variables, test.images[rows] / np.float32(255))
    is_correct = np.argmax(logits, axis=-1) == test.labels[rows]
    np.testing.assert_array_equal(found.examples["weights_clean"], is_correct)
    assert results["weights"]["test"]["autoattack"]["n"] == 48


@pytest.mark.parametrize(
    ("examples", "expected"), [(1128, (1000, 128)), (1127, (1, 128)), (50, (1, 49))]
)
def test_a_small_data_set_is_not_too_small_to_be_evaluated_on(examples, expected):
    settings = configs.default()
    _fit_training_images(settings, examples)
    assert (settings.data.validation, settings.train.batch_size) == expected
    configs.check(settings, trains=False)


def test_results_are_also_in_the_form_of_robustbench(evaluated):
    results, workdir = evaluated
    accuracy = f"{100 * results['weights']['test']['clean']['accuracy']:.2f}"
    assert json.loads((workdir / "robustbench.json").read_text()) == {
        **dict.fromkeys(("link", "name", "authors", "venue", "additional_data", "reported")),
        "number_forward_passes": 1,
        "dataset": "digits",
        "architecture": "small_cnn",
        "eps": "8/255",
        "clean_acc": accuracy,
        "autoattack_acc": accuracy,
        "footnote": "On 48 of 449 test images.",
    }


def test_any_training_image_may_make_a_test_image_atypical(weights, tmp_path, monkeypatch):
    given = []

    def seen(experiment, states, workdir, *, seconds):
        given.append(experiment)
        return {}

    monkeypatch.setattr(jobs_weights, "evaluate", seen)
    evaluate_weights(evaluation(weights[0]), tmp_path / "run")
    (experiment,) = given
    ids = np.union1d(experiment.train.ids, experiment.left_out)
    np.testing.assert_array_equal(ids, np.sort(data.load("digits").train.ids))


def test_corrupted_images_are_classified_by_corruption_and_severity(weights, evaluated):
    _, model, variables = weights
    results, workdir = evaluated
    found = results["weights"]["corruptions"]
    assert list(found["by"]) == ["contrast", "pixelate"]
    test = data.load("digits").test
    run = runs.read(workdir)
    rows = np.searchsorted(test.ids, run.examples["ids"])
    versions = np.load(workdir.parents[1] / "digits-c" / "contrast.npy")
    third = versions.reshape(5, len(test), 8, 8, 1)[2, rows]
    logits = np.asarray(jax.jit(model.apply)(variables, third / np.float32(255)))
    is_correct = np.argmax(logits, axis=-1) == test.labels[rows]
    verdicts = run.examples["weights_corruption_contrast"]
    np.testing.assert_array_equal(verdicts[:, 2], is_correct)
    assert found["by"]["contrast"]["3"]["accuracy"] == is_correct.mean()
    assert found["by"]["contrast"]["mean"]["accuracy"] == pytest.approx(verdicts.mean())
    both = [found["by"][name]["mean"]["accuracy"] for name in found["by"]]
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(both))
    assert found["mean"]["n"] == 48
    titles = [section.title for section in single._page(run).sections]
    assert "Corruptions" in titles
    assert "weights corruptions, mean" in table(results)


def test_only_the_standard_attacks_give_robustbench_a_robust_accuracy():
    accuracy = {"accuracy": 0.123456, "n": 3, "interval": [0, 1]}
    found = Evaluation.from_json({"test": {"clean": accuracy, "autoattack": accuracy}})

    def info(attacks, epsilon=0.031, norm="linf", dataset="", **options):
        return robustbench.model_info(
            found,
            dataset=dataset,
            architecture="",
            norm=norm,
            epsilon=epsilon,
            attacks=attacks,
            **{"images": 3, **options},
        )

    assert info(robustbench.STANDARD)["autoattack_acc"] == "12.35"
    assert info(robustbench.STANDARD)["footnote"] is None
    assert info(("apgd-ce",))["autoattack_acc"] is None
    assert [info((), e)["eps"] for e in (8 / 255, 0.031, 0.5)] == ["8/255", "0.031", "0.5"]
    assert info((), 1.0, "l2")["eps"] == "1"
    some = "test images of 10 of its classes"
    assert info((), kind=some)["footnote"] == f"On 3 {some}."
    assert info((), kind=some, images=4)["footnote"] == f"On 3 of 4 {some}."
    # An archive with a part of the test set is not the published one.
    assert info((), dataset="cifar10")["footnote"] == "On 3 of 10,000 test images."
    assert info((), dataset="cifar10", kind=some)["footnote"] == f"On 3 {some}."
    names = [
        robustbench.architecture_text(name, depth=depth, widening=widening)
        for name, depth, widening in (
            ("dm_wide_resnet", 70, 16),
            ("resnet50", 50, None),
            ("dm_preact_resnet18", 18, None),
            ("mypkg.resnet:create", None, None),
        )
    ]
    assert names == ["WideResNet-70-16", "ResNet-50", "PreActResNet-18", "mypkg.resnet:create"]


@pytest.mark.parametrize(("names", "is_whole"), [(corruptions.NAMES, True), (("fog",), False)])
def test_the_accuracy_on_corruptions_is_that_of_all_kinds(names, is_whole):
    accuracy = {"accuracy": 0.5, "n": 3, "interval": [0, 1]}
    levels = {**{str(level): accuracy for level in range(1, 6)}, "mean": accuracy}
    found = Evaluation.from_json(
        {
            "test": {"clean": accuracy},
            "corruptions": {"mean": accuracy, "by": dict.fromkeys(names, levels)},
        }
    )
    info = robustbench.model_info(
        found, dataset="", architecture="", norm="linf", epsilon=0.1, attacks=(), images=3
    )
    assert ("corruptions_acc" in info) == is_whole


def test_attacks_that_few_classes_exclude_are_missing_for_robustbench():
    accuracy = {"accuracy": 0.5, "n": 3, "interval": [0, 1]}

    def robust(*ran):
        content = {"test": {"clean": accuracy, "autoattack": accuracy}}
        info = robustbench.model_info(
            Evaluation.from_json({**content, "broken_by": dict.fromkeys(ran, 0)}),
            dataset="",
            architecture="",
            norm="linf",
            epsilon=0.031,
            attacks=robustbench.STANDARD,
            images=3,
        )
        return info["autoattack_acc"]

    assert robust(*robustbench.STANDARD) == "50.00"
    assert robust("apgd-ce", "fab-t", "square") is None
    assert robust("apgd-ce", "apgd-dlr", "fab-t", "square") is None


def test_states_of_a_run_have_the_form_of_robustbench_where_it_is_defined():
    accuracy = {"accuracy": 0.5, "n": 3, "interval": [0, 1]}
    exact = {"test": {"clean": accuracy, "autoattack": accuracy}}
    sample = {"attacks": ["square"], "images": 2, "drawn": 1, "broken": 0, "interval": [0, 1]}
    results = {"best": exact, "last": {**exact, "sample": sample}, "seconds": 1.0}

    def written(results, attacks=robustbench.STANDARD, norm="l2"):
        return robustbench.files(
            results,
            dataset="digits",
            architecture="ResNet-18",
            norm=norm,
            epsilon=0.5,
            attacks=attacks,
            images=3,
        )

    (found,) = written(results).items()
    assert found[0] == "robustbench_best.json"
    assert found[1]["autoattack_acc"] == "50.00"
    assert found[1]["architecture"] == "ResNet-18"
    assert not written(results, attacks=("apgd-ce",))
    assert not written(results, norm="l1")
    assert not written({"last": {"test": {"clean": accuracy}}})
    assert set(written({"weights": exact}, attacks=())) == {"robustbench.json"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_attacks_search_in_the_type_of_the_config(weights, tmp_path, monkeypatch, dtype):
    given = []

    def attack(logits_fn, images, labels, key, *, search_fn, **options):
        given.extend((logits_fn, search_fn, images[:2]))
        raise KeyboardInterrupt

    monkeypatch.setattr("bat_jax.jobs.final.autoattack", attack)
    changes = {
        "evaluation.search_dtype": dtype,
        "evaluation.attacks": ("apgd-ce",),
        "evaluation.losses": (),
    }
    with pytest.raises(KeyboardInterrupt):
        evaluate_weights(evaluation(weights[0], changes), tmp_path / "out")
    logits_fn, search_fn, images = given
    # The verdicts are those of float32.
    assert "bf16" not in str(jax.make_jaxpr(logits_fn)(images))
    if dtype == "float32":
        assert search_fn is None
    else:
        assert "bf16" in str(jax.make_jaxpr(search_fn)(images))


def test_the_page_speaks_of_weights_and_not_of_training(evaluated):
    page = single._page(runs.read(evaluated[1]))
    assert page.summary.startswith("Weights of a file, test images: clean ")
    assert set(page.facts) == {"Data", "Model", "Attack", "Run on", "Code"}


def test_the_results_of_other_weights_are_not_mixed(weights, evaluated, tmp_path, monkeypatch):
    path = tmp_path / "other.safetensors"
    tensors = load(weights[0].read_bytes())
    metadata = {name: json.dumps(value) for name, value in NORMALIZATION.items()}
    path.write_bytes(save(tensors | {"fc2.bias": tensors["fc2.bias"] + 1}, metadata))
    config = evaluation(path)
    config.evaluation.attacks = robustbench.STANDARD
    config.evaluation.corruptions.path = "digits-c"
    config.evaluation.corruptions.names = ("contrast", "pixelate")
    monkeypatch.chdir(evaluated[1].parents[1])
    with pytest.raises(UserError, match=r"holds a run on other data \(weights differ\)"):
        evaluate_weights(config, evaluated[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vgg16"}, "architecture: 'vgg16' is unknown; expected one of"),
        ({"architecture": None}, "config.architecture is not set; expected that of the weights"),
        ({"data.name": None}, "config.data.name is not set; expected the data set"),
        ({"run": "runs/x"}, "expected only one of them"),
        ({"weights": "absent"}, "absent: No such file or directory; expected a safetensors file"),
        ({"architecture": "resnet18"}, "lacks bn1.bias"),
        ({"evaluation.corruptions.path": "absent"}, "absent: is not a folder; expected that of"),
        (
            {"evaluation.corruptions.names": ("fog",)},
            "corruptions.names is .'fog',. without config",
        ),
        ({"weights": None, "run": "x"}, "config.architecture is .small_cnn.; expected no value"),
    ],
)
def test_wrong_weights_end_in_one_line(changes, message, weights, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        evaluate_weights(evaluation(weights[0], changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("channels", "classes", "message"),
    [
        (1, 7, r"fc2.bias is float32 of shape \(7,\); expected floats of shape \(10,\) for"),
        (3, 10, "takes images of 3 channels; expected 1, as digits has"),
    ],
)
def test_weights_for_other_data_are_refused(channels, classes, message, tmp_path):
    model = models.create("small_cnn", classes, width=2)
    image = jax.ShapeDtypeStruct((1, 8, 8, channels), np.float32)
    model = model.clone(mean=(0.0,) * channels, std=(1.0,) * channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), dict(shapes))
    path = tmp_path / "weights.safetensors"
    export_weights(path, "small_cnn", variables, mean=model.mean, std=model.std)
    with pytest.raises(UserError, match=message):
        evaluate_weights(evaluation(path))


def test_half_precision_and_prefixes_are_reported(weights, tmp_path, caplog):
    tensors = load(weights[0].read_bytes())
    path = tmp_path / "half.safetensors"
    halves = {f"module.{name}": value.astype(np.float16) for name, value in tensors.items()}
    path.write_bytes(save(halves))
    with caplog.at_level("INFO", logger="bat_jax"):
        import_weights(path, "small_cnn", 10, **NORMALIZATION)
    assert f"{path}: dropped the prefix module. from its names" in caplog.text
    assert "has weights in float16, read as float32" in caplog.text
