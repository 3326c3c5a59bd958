"""Weights go to PyTorch and back, with the logits that PyTorch computes."""

import fcntl
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bat_jax import config as configs
from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.interop import export_weights, import_weights
from bat_jax.interop.__main__ import main
from bat_jax.runtime import workdir as workdirs
from bat_jax.training.building import build
from bat_jax.training.checkpoints import Checkpoints
from tests.golden import interop_draws

# The cases that tests/golden/make_interop.py wrote.
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "interop.json").read_text())
NUM_CLASSES = 10
# Each takes a second or more; the other cases cover the same blocks.
SLOW = (
    "preact_resnet18 with raw shortcuts",
    "wide_resnet16_3",
    "dm_wide_resnet16_3",
    "dm_preact_resnet34",
)
SLOW_EXPORTS = (
    *SLOW,
    "preact_resnet18 without bn",
    "preact_resnet18 without bn, with activated shortcuts",
    "resnet50",
)


def cases(*slow):
    return [pytest.param(case, marks=pytest.mark.slow) if case in slow else case for case in GOLDEN]


def drawn(case):
    return {
        name: interop_draws.tensor(name, tuple(shape))
        for name, shape in GOLDEN[case]["tensors"].items()
    }


def read(path, case, **settings):
    golden = GOLDEN[case]
    known = {name: golden[name] for name in ("mean", "std", "stem", "shortcut") if name in golden}
    settings = known | settings
    return import_weights(path, golden["model"], NUM_CLASSES, **settings)


def filled(model, image_shape):
    """Returns random variables, which are faster to draw than to initialise."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), dict(shapes))


@pytest.fixture
def saved(tmp_path):
    """Returns the path of a file of tensors."""

    def save(tensors, metadata=None):
        path = tmp_path / "weights.safetensors"
        save_file(tensors, path, metadata)
        return path

    return save


@pytest.mark.parametrize("case", cases(*SLOW))
def test_imported_weights_give_the_logits_of_pytorch(case, saved):
    golden = GOLDEN[case]
    model, variables = read(saved(drawn(case)), case)
    channels = len(golden["mean"])
    images = interop_draws.image_batch(golden["side"], channels)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, np.float32(golden["logits"]), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN)
def test_networks_of_pytorch_with_random_weights_have_equal_logits(case, saved, monkeypatch):
    """Like the golden logits, for other weights, where PyTorch is installed."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "golden")
    import make_interop

    name, width, side, channels, stem, *free = make_interop.CASES[case]
    torch.manual_seed(1)
    network = make_interop.network(
        name, width, side, channels, stem, NUM_CLASSES, **(free[0] if free else {})
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    tensors = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    images = np.random.default_rng(1).random((4, side, side, channels), np.float32)
    expected = make_interop.logits_of(network, images, GOLDEN[case]["mean"], GOLDEN[case]["std"])
    model, variables = read(saved(tensors), case)
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    difference = np.abs(logits - expected).max()
    print(f"{case}: logits to {np.abs(expected).max():.3g}, differ by {difference:.2g}")
    assert difference < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("case", cases(*SLOW_EXPORTS))
def test_exported_weights_are_what_pytorch_loads(case, saved, tmp_path):
    """The golden logits are of a network that loaded these tensors strictly."""
    golden = GOLDEN[case]
    imported = read(saved(drawn(case)), case)
    path = tmp_path / "exported.safetensors"
    export_weights(
        path,
        golden["model"],
        imported.variables,
        mean=golden["mean"],
        std=golden["std"],
        stem=golden["stem"],
        shortcut=golden.get("shortcut"),
    )
    exported, expected = load_file(path), drawn(case)
    assert exported.keys() == expected.keys()
    for name, value in exported.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "image_shape", "stem"),
    [("small_cnn", (8, 12, 1), "cifar"), ("preact_resnet18", (16, 16, 3), "tiny_imagenet")],
)
def test_a_round_trip_changes_nothing(name, image_shape, stem, tmp_path):
    channels = image_shape[-1]
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.1, 0.2, 0.3)[:channels]
    model = models.create(name, 7, width=3, stem=stem, mean=mean, std=std)
    variables = filled(model, image_shape)
    path = tmp_path / "weights.safetensors"
    export_weights(path, name, variables, mean=mean, std=std, stem=stem)
    imported = import_weights(path, name, 7)
    assert imported.model == model
    jax.tree.map(np.testing.assert_array_equal, imported.variables, variables)


def test_synonyms_prefixes_and_unused_tensors_of_other_repositories_are_read(saved):
    case = "resnet18"
    expected = read(saved(drawn(case)), case).variables
    renamed = {
        f"module.model.{name}".replace("shortcut", "downsample").replace("linear", "fc"): value
        for name, value in drawn(case).items()
        if "num_batches_tracked" not in name
    }
    jax.tree.map(np.testing.assert_array_equal, read(saved(renamed), case).variables, expected)
    case = "wide_resnet28_10"
    expected = read(saved(drawn(case)), case).variables
    unused = {
        f"sub_{name}": value for name, value in drawn(case).items() if name.startswith("block1")
    }
    found = read(saved(drawn(case) | unused), case).variables
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_half_precision_is_read_as_float32(saved):
    halves = {name: value.astype(jnp.bfloat16) for name, value in drawn("small_cnn").items()}
    kernel = read(saved(halves), "small_cnn").variables["params"]["head"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, halves["fc2.weight"].astype(np.float32).T)


@pytest.mark.parametrize(
    ("mean", "std"), [("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std")]
)
def test_normalization_is_read_from_the_buffers_of_a_wrapper(mean, std, saved):
    buffers = {
        mean: np.float32([0.25, 0.5, 0.75]).reshape(1, 3, 1, 1),
        std: np.float32([0.5, 0.25, 0.125]).reshape(1, 3, 1, 1),
    }
    model, _ = import_weights(saved(drawn("resnet18") | buffers), "resnet18", NUM_CLASSES)
    assert (model.mean, model.std) == ((0.25, 0.5, 0.75), (0.5, 0.25, 0.125))


def test_the_file_decides_on_the_shortcut_and_the_end_of_a_preact_resnet(saved):
    def choices(case, **settings):
        model = import_weights(saved(drawn(case)), "preact_resnet18", 10, **settings).model
        return model.shortcut, model.final_norm

    settings = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    assert choices("preact_resnet18", **settings) == ("activated", True)
    assert choices("preact_resnet18 without bn", **settings) == ("raw", False)
    given = settings | {"shortcut": "activated"}
    assert choices("preact_resnet18 without bn", **given) == ("activated", False)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("wide_resnet", {"depth": 16, "widening": 2, "activation": "silu"}),
        ("dm_wide_resnet", {"depth": 10, "widening": 3}),
        ("preact_resnet", {"depth": 10, "final_norm": False}),
        ("dm_preact_resnet", {"depth": 10}),
    ],
)
def test_free_sizes_are_read_from_the_file(name, settings, tmp_path):
    normalization = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    model = models.create(name, 3, width=2, **settings, **normalization)
    path = tmp_path / "weights.safetensors"
    chosen = {key: settings[key] for key in ("shortcut", "activation") if key in settings}
    export_weights(path, name, filled(model, (8, 8, 3)), **normalization, **chosen)
    assert import_weights(path, name, 3).model == model


def test_the_networks_of_deepmind_normalise_by_the_data_set(saved):
    file = saved(drawn("dm_wide_resnet10_1"))
    model, _ = import_weights(file, "dm_wide_resnet", 10, dataset="cifar100")
    assert (model.mean, model.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    with pytest.raises(UserError, match="holds no mean"):
        import_weights(file, "dm_wide_resnet", 10, dataset="digits")
    with pytest.raises(UserError, match="holds no mean"):
        import_weights(saved(drawn("resnet18")), "resnet18", 10, dataset="cifar10")


def test_a_missing_normalization_is_not_guessed(saved):
    with pytest.raises(
        UserError, match=r"holds no mean to normalise images by; expected one: pass mean and std"
    ):
        import_weights(saved(drawn("resnet18")), "resnet18", NUM_CLASSES)
    with pytest.raises(UserError, match=r"mean is \[0.5\]; expected a number for each of 3"):
        read(saved(drawn("resnet18")), "resnet18", mean=[0.5])


def prefixed(prefix, tensors):
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def without(names, case="preact_resnet18"):
    return {name: value for name, value in drawn(case).items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: without("bn.r"), r"lacks bn.running_mean, bn.running_var; expected one network"),
        (
            lambda: without("layer3.1.bn"),
            r"lacks layer3.1.bn1.bias, layer3.1.bn1.running_mean, layer3.1.bn1.running_var and 5",
        ),
        (lambda: without("conv1."), "lacks conv1.weight; expected one network"),
        (
            lambda: drawn("preact_resnet18") | prefixed("ema.", drawn("preact_resnet18")),
            r"also has ema.bn.bias, ema.bn.running_mean, ema.bn.running_var and \d+ more",
        ),
        (lambda: drawn("resnet18"), "also has bn1.bias"),
        (lambda: drawn("wide_resnet28_10"), "lacks layer1.0.bn1.bias"),
        (lambda: drawn("dm_preact_resnet18"), "lacks conv1.weight"),
        (
            lambda: drawn("preact_resnet18") | {"logit_scale": np.ones(1, np.float32)},
            "also has logit_scale; expected one network",
        ),
        (
            lambda: drawn("preact_resnet18") | {"linear.weight": np.ones((5, 32), np.float32)},
            r"linear.weight is float32 of shape \(5, 32\); expected floats of shape \(10, 32\)",
        ),
        (
            lambda: drawn("preact_resnet18") | {"linear.bias": np.ones(10, np.int32)},
            "linear.bias is int32",
        ),
        (
            lambda: drawn("preact_resnet18") | {"conv1.weight": np.ones((4, 3), np.float32)},
            r"conv1.weight has shape \(4, 3\)",
        ),
    ],
)
def test_another_network_is_refused_in_one_line(tensors, message, saved):
    with pytest.raises(UserError, match=message) as caught:
        read(saved(tensors()), "preact_resnet18")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_refused(saved):
    with pytest.raises(UserError, match="'vgg16' is unknown; expected one of small_cnn"):
        import_weights(saved(drawn("resnet18")), "vgg16", NUM_CLASSES)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip archive", None])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights.pt: .*; expected a (whole )?safetensors file"):
        import_weights(path, "resnet18", NUM_CLASSES)


def test_variables_of_another_model_are_not_exported(tmp_path):
    model = models.create("resnet18", 10, width=2)
    variables = filled(model, (8, 8, 3))
    path, normalization = tmp_path / "weights.safetensors", {"mean": (0, 0, 0), "std": (1, 1, 1)}
    with pytest.raises(UserError, match="for preact_resnet18 of width 2"):
        export_weights(path, "preact_resnet18", variables, **normalization)
    with pytest.raises(UserError, match="BatchNorm_0/mean has shape None"):
        export_weights(path, "resnet18", {"params": variables["params"]}, **normalization)
    with pytest.raises(UserError, match="no params/Conv_0/kernel"):
        export_weights(path, "resnet18", variables["params"], **normalization)
    with pytest.raises(UserError, match="std is"):
        export_weights(path, "resnet18", variables, mean=(0, 0, 0), std=(1,))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best, first checkpoint is all 1 except the averages, and whose last is all 2."""
    config = configs.default()
    config.data.name = "digits"
    config.model.name = "small_cnn"
    config.model.width = 2
    config.train.ema = 0.5
    config.parallel.devices = 2
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    experiment = build(config)
    data = {"train": experiment.dataset.train.digest(), "test": experiment.dataset.test.digest()}
    with workdirs.opened(folder):
        workdirs.claim(folder, config, data, defaults=configs.default())
        checkpoints = Checkpoints(
            folder / "checkpoints", keep=2, score=experiment.score, mesh=experiment.mesh
        )
        state = experiment.initial_state()
        for step, accuracy in ((1, 0.75), (2, 0.25)):
            ones = jax.tree.map(jnp.ones_like, state.variables)
            averages = jax.tree.map(lambda leaf, step=step: leaf * np.float32(step), ones)
            checkpoints.save(
                state.replace(step=jnp.full_like(state.step, step), variables=ones, ema=averages),
                seconds=0.0,
                metrics={experiment.score: accuracy},
            )
        checkpoints.close()
    return folder


@pytest.mark.parametrize(("checkpoint", "value"), [("best", 1), ("last", 2)])
def test_a_run_is_exported_from_the_command_line(run, checkpoint, value, tmp_path, capsys):
    """Exports the variables that evaluation uses: here, the moving averages."""
    out = tmp_path / "weights.safetensors"
    main(["export", f"--run={run}", f"--checkpoint={checkpoint}", f"--out={out}"])
    captured = capsys.readouterr()
    assert captured.out == f"weights: {out}\n"
    assert not captured.err
    model, variables = import_weights(out, "small_cnn", 10)
    assert {float(number) for leaf in jax.tree.leaves(variables) for number in leaf.ravel()} == {
        value
    }
    # Of the training images, about 5 of 16 gray levels.
    assert 0.2 < model.mean[0] < 0.4


def test_a_run_is_exported_during_its_training_and_left_unchanged(run, tmp_path):
    def content():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    before = content()
    with (run / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        main(["export", f"--run={run}", f"--out={tmp_path / 'weights.safetensors'}"])
    assert content() == before


def test_a_run_on_other_data_is_not_exported(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = json.loads((folder / "config.json").read_text())
    content["data"]["train"] = "0" * 16
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="2"):
        main(["export", f"--run={folder}", f"--out={tmp_path / 'weights.safetensors'}"])
    assert "was made with training data other than digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"resize": 16}, "config.model.resize is 16, which a file of weights does not hold"),
        (
            {"name": "tests.networks:create", "width": None},
            "its model, tests.networks:create, is from outside the package; expected one of",
        ),
    ],
)
def test_a_run_that_a_file_of_weights_does_not_describe_is_not_exported(
    run, model, words, tmp_path, capsys
):
    out = tmp_path / "weights.safetensors"
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = json.loads((folder / "config.json").read_text())
    content["config"]["model"] |= model
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="2"):
        main(["export", f"--run={folder}", f"--out={out}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not out.exists()


def test_a_folder_without_a_run_ends_with_status_2(tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    with pytest.raises(SystemExit, match="2"):
        main(["export", f"--run={tmp_path}", f"--out={out}"])
    assert "expected the folder of a run" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: command"),
        (["export"], "required: --run, --out"),
        (["export", "--run=a", "--out="], "--out is empty; expected the run"),
        (["export", "--run=", "--out=a"], "--run or --out is empty; expected"),
        (["export", "--run=a", "--out=b", "--checkpoint=first"], "invalid choice: 'first'"),
        (["export", "--run=a", "--out=b", "--depth=3"], "unrecognized arguments: --depth=3"),
        (["import"], "invalid choice: 'import'"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
