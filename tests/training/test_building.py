"""Every wrong input ends in one line that names it, before anything is written."""

import jax
import numpy as np
import pytest

from bat_jax.data import Split, device, from_arrays, load
from bat_jax.errors import UserError
from bat_jax.jobs import train_and_evaluate
from bat_jax.runtime.files import write_npz
from bat_jax.training import images
from bat_jax.training.building import build
from tests.estimates import write_digits_estimates


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("objective.name", "madry", ["'madry'", "bat, gairat, grad_align, mart, pgd_at"]),
        ("model.name", "vgg", ["'vgg'", "small_cnn"]),
        ("model.name", "resnet18", ["resnet18 cannot take images of 8x8"]),
        ("model.stem", "imagenet", ["'imagenet'", "cifar"]),
        ("model.dtype", "float16", ["model.dtype", "bfloat16"]),
        ("data.name", "imagenot", ["imagenot", "cifar100"]),
        ("data.path", "/nowhere/at/all", ["/nowhere/at/all"]),
        ("objective.bat.gate", "typical", ["objective.bat.gate", "misclassified"]),
        ("objective.bat.gate", "memorized", ["memorization.estimates"]),
        ("objective.bat.temperature", 0.0, ["temperature"]),
        ("parallel.devices", 99, ["parallel.devices", "99", "8 cpu"]),
        ("attack.epsilon", -1.0, ["attack.epsilon", "-1.0"]),
        ("attack.norm", "l1", ["attack.norm", "linf or l2"]),
        ("train.batch_size", 5000, ["batch_size", "5000", "256 training images"]),
        ("data.validation", 5000, ["data.validation", "5000"]),
        ("data.subset", 1340, ["validation is 32 and", "subset 1340; expected together at most"]),
        ("train.schedule.name", "step", ["schedule.name", "one_cycle"]),
        ("train.ema", 1.0, ["train.ema"]),
        ("train.optimizer.weight_decay", float("nan"), ["weight_decay", "finite"]),
        ("train.schedule.boundaries", ("a",), ["boundaries"]),
        ("model.mean", (0.5, 0.5), ["model.mean", "1 number"]),
        ("model.std", (0.0,), ["model.std", "above 0"]),
        ("evaluation.attacks", ("square", "square"), ["evaluation.attacks", "each value once"]),
        ("evaluation.attacks", ("deepfool",), ["evaluation.attacks", "apgd-ce"]),
        ("evaluation.step_size", -1.0, ["evaluation.step_size"]),
        ("data.crop_padding", 8, ["data.crop_padding is 8", "less than 8", "digits"]),
        ("train.epochs", 2**30, ["train.epochs is 1073741824", "4 steps each", "2147483647"]),
        ("model.width", 10**6, ["model.width is 1000000", "parameters", "lower it"]),
        ("memorization.estimates", "/nowhere.npz", ["/nowhere.npz", "no such file"]),
    ],
)
def test_a_wrong_field_is_named(tiny_config, tmp_path, field, value, words):
    data = {"data.name": "fashion_mnist"} if field == "data.path" else {}
    config = tiny_config("bat", **data, **{"model.name": "small_cnn"})
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as caught:
        train_and_evaluate(config, tmp_path / "run")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["train.batch_size", "evaluation.batch_size"])
def test_a_batch_the_devices_cannot_share_is_refused(tiny_config, tmp_path, field):
    config = tiny_config("bat", **{field: 60, "parallel.devices": 8})
    with pytest.raises(UserError, match=rf"config\.{field} is 60, which 8 devices"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_weight_that_never_applies_is_reported(tiny_config, caplog):
    build(tiny_config("bat", **{"train.schedule.boundaries": (5.0,)}))
    assert "start at epoch 5, are never used" in caplog.text


def test_an_l2_attack_that_reaches_any_image_is_refused(tiny_config):
    fields = {"attack.norm": "l2", "attack.epsilon": 8.5}
    with pytest.raises(UserError, match=r"config\.attack\.epsilon is 8\.5; expected at most 8 "):
        build(tiny_config(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.schedule.boundaries": (2.0, 5.0)}, "the learning rate never decays"),
        ({"train.schedule.name": "one_cycle"}, "takes 8 step(s): the first has a learning rate of"),
        ({"train.schedule.warmup_epochs": 3.0}, "the learning rate, which warms up over 3, never"),
        ({"attack.warmup_epochs": 3.0}, "epsilon, which warms up over 3, never reaches its value"),
    ],
)
def test_a_schedule_beyond_the_training_gives_a_warning(tiny_config, caplog, fields, words):
    build(tiny_config("pgd_at", **fields))
    (message,) = caplog.messages
    assert words in message
    # A run that is only read has been trained already.
    build(tiny_config("pgd_at", **fields), trains=False)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"train.schedule.boundaries": ()},
        {"train.schedule.name": "cosine"},
        {"train.schedule.name": "one_cycle", "train.epochs": 5},
    ],
)
def test_a_schedule_within_the_training_gives_no_warning(tiny_config, caplog, fields):
    build(tiny_config("pgd_at", **fields))
    assert not caplog.messages


def test_other_estimates_make_a_different_run(tiny_config, tmp_path):
    dataset = build(tiny_config()).dataset
    config = tiny_config("bat", **{"memorization.estimates": str(tmp_path / "m.npz")})
    digests = set()
    for value in (0.0, 1.0):
        memorization = np.full(len(dataset.train), value)
        write_npz(tmp_path / "m.npz", estimates_of(dataset, tr_mem=memorization))
        digests.add(build(config).digests()["estimates"])
    assert len(digests) == 2


def test_a_set_that_does_not_fit_is_refused_with_its_size(tiny_config, monkeypatch):
    experiment = build(tiny_config())
    monkeypatch.setattr(device, "free_bytes", lambda _: 10_000)
    with pytest.raises(UserError, match=r"256 images need 0\.000 GiB on every device"):
        experiment.train_data()
    assert device.free_bytes(jax.devices()[0]) == 10_000


def estimates_of(dataset, **changes):
    """Returns the arrays of an estimates file in the released layout."""
    arrays = {
        "tr_labels": dataset.train.labels,
        "tt_labels": dataset.test.labels,
        "tr_ids": dataset.train.ids,
        "tt_ids": dataset.test.ids,
        "tr_mem": np.linspace(0, 1, len(dataset.train)),
    }
    return {**arrays, **changes}


def test_estimates_of_other_labels_are_refused(tiny_config, tmp_path):
    dataset = build(tiny_config()).dataset
    path = tmp_path / "memorization.npz"
    labels = dataset.train.labels.copy()
    labels[7] = (labels[7] + 1) % 10
    write_npz(path, estimates_of(dataset, tr_labels=labels))
    with pytest.raises(UserError, match=r"memorization\.npz: train example .* has label"):
        build(tiny_config("bat", **{"memorization.estimates": str(path)}))


def test_estimates_of_other_examples_are_refused(tiny_config, tmp_path):
    dataset = build(tiny_config()).dataset
    path = tmp_path / "memorization.npz"
    write_npz(path, estimates_of(dataset, tr_ids=dataset.train.ids + 10_000))
    with pytest.raises(UserError, match="is not in digits"):
        build(tiny_config("bat", **{"memorization.estimates": str(path)}))


def test_estimates_reach_the_gate_by_id(tiny_config, tmp_path):
    plain = build(tiny_config())
    dataset, path = plain.dataset, tmp_path / "memorization.npz"
    first_rows = np.asarray(plain.order(plain.config.seed, 0))[0]
    # Of the first batch, and of no other images.
    is_memorized = np.isin(dataset.train.ids, plain.train.ids[first_rows[:40]])
    tr_mem = np.where(is_memorized, 0.9, 0.3) + np.linspace(0, 0.1, len(dataset.train))
    arrays = estimates_of(dataset, tr_mem=tr_mem)
    # In another order than the data set's, and not of every example: they are joined by id.
    shuffled = np.random.default_rng(0).permutation(len(dataset.train))
    some = shuffled[: len(shuffled) * 3 // 4]
    for name in ("tr_labels", "tr_ids", "tr_mem"):
        arrays[name] = arrays[name][some]
    write_npz(path, arrays)
    fields = {
        "memorization.estimates": str(path),
        "memorization.threshold": 0.5,
        "objective.bat.gate": "memorized",
        # So large a factor makes a weight of 0 of any confidence in a wrong class.
        "objective.bat.alpha": 1e6,
        "objective.bat.beta_dl": 0.0,
        "objective.bat.start_epoch": 0.0,
    }
    experiment = build(tiny_config("bat", **fields))
    data, root = experiment.train_data(), experiment.root()
    by_id = dict(zip(arrays["tr_ids"], arrays["tr_mem"], strict=True))
    expected = np.array([by_id.get(i, np.nan) for i in experiment.train.ids])
    np.testing.assert_allclose(data.memorization, expected, rtol=1e-6)
    order = experiment.order(experiment.config.seed, 0)
    is_down = expected[first_rows] > 0.5
    _, metrics = experiment.train_step(experiment.initial_state(), data, order, root)
    np.testing.assert_allclose(metrics["weighted_down"], np.mean(is_down), rtol=1e-6)
    np.testing.assert_allclose(metrics["weight"], 1 - np.mean(is_down), rtol=1e-6)


def test_a_set_of_one_class_is_refused(tiny_config):
    one = from_arrays(np.zeros((20, 8, 8, 1), np.uint8), np.zeros(20, int), name="one")
    with pytest.raises(UserError, match="one: has one class; expected two or more"):
        build(tiny_config("pgd_at"), dataset=one)


def test_all_training_images_are_trained_on_without_a_copy(tiny_config):
    config = tiny_config("pgd_at", **{"data.validation": 0, "data.subset": 0})
    dataset = load("digits")
    validation, train = images.hold_out(config, dataset)
    assert train is dataset.train
    assert len(validation) == 0


def test_validation_and_training_images_are_disjoint_and_drawn_by_the_seed(tiny_config):
    splits = {}
    for seed in (0, 1):
        experiment = build(tiny_config("bat", seed=seed))
        splits[seed] = experiment
        assert not set(experiment.train.ids) & set(experiment.validation.ids)
        assert len(experiment.train) == 256
        assert len(experiment.validation) == 32
    assert set(splits[0].validation.ids) != set(splits[1].validation.ids)


def test_held_out_images_can_stand_in_for_the_test_set(tiny_config):
    real = build(tiny_config())
    searched = build(tiny_config(**{"data.tested": 100}))
    tested = set(searched.dataset.test.ids)
    assert len(tested) == len(searched.test_images()) == 100
    assert tested <= set(real.dataset.train.ids)
    assert not tested & {*searched.train.ids, *searched.validation.ids}
    assert len(searched.train) == len(real.train)
    with pytest.raises(UserError, match=r"config\.data\.tested is 99999; expected fewer than"):
        build(tiny_config(**{"data.tested": 99999}))


def test_fields_that_a_model_from_outside_does_not_read_are_named(tiny_config, caplog):
    build(tiny_config(**{"model.width": 4, "model.dtype": "bfloat16"}))
    (message,) = caplog.messages
    assert "does not read config.model.width, config.model.dtype" in message


def test_images_are_normalised_by_their_own_statistics(tiny_config):
    experiment = build(tiny_config(**{"model.name": "small_cnn"}))
    images = experiment.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(experiment.model.mean[0], images.mean(), rtol=1e-9)
    np.testing.assert_allclose(experiment.model.std[0], images.std(), rtol=1e-9)


def test_given_statistics_spare_those_of_the_images(tiny_config, monkeypatch):
    def refuse(_):
        raise AssertionError("the images are read")

    monkeypatch.setattr(images, "_statistics", refuse)
    config = tiny_config(**{"model.mean": (0.25,), "model.std": (0.5,)})
    assert images.normalization(config, two_images()) == ((0.25,), (0.5,))


def two_images():
    return Split(np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int32), np.arange(2))


def test_excluded_images_are_left_out_and_named_in_the_digests(tiny_config, tmp_path):
    whole = build(tiny_config())
    path = tmp_path / "ids.txt"
    out = whole.train.ids[:5]
    path.write_text("\n".join(map(str, out)))
    fewer = build(tiny_config(**{"data.exclude": str(path)}))
    np.testing.assert_array_equal(fewer.train.ids, whole.train.ids[5:])
    np.testing.assert_array_equal(fewer.validation.ids, whole.validation.ids)
    assert "exclude" in fewer.digests()
    path.write_text(f"{out[0]}")
    assert build(tiny_config(**{"data.exclude": str(path)})).digests() != fewer.digests()


def test_ids_that_are_no_training_images_change_no_test_image_to_atypical(tiny_config, tmp_path):
    estimates, path = write_digits_estimates(tmp_path / "memorization.npz"), tmp_path / "ids.txt"
    fields = {"memorization.estimates": str(estimates)}
    whole = build(tiny_config(**fields))
    # Of each class, only the first image influences test images.
    path.write_text("\n".join(map(str, whole.dataset.train.ids[:200])))
    fewer = build(tiny_config(**fields, **{"data.exclude": str(path)}))
    assert len(fewer.train) < len(whole.train)
    found, expected = (each.typicality().test_atypical for each in (fewer, whole))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("content", ["3\nthree\n", "99999\n", None])
def test_a_wrong_file_of_ids_is_refused(tiny_config, tmp_path, content):
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"config\.data\.exclude .*ids\.txt: "):
        build(tiny_config(**{"data.exclude": str(path)}))


def test_a_run_with_other_excluded_images_needs_another_folder(tiny_config, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("0\n")
    config = tiny_config("bat", **{"data.exclude": str(path), "train.steps": 1})
    train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"other data \(exclude differ"):
        train_and_evaluate(tiny_config("bat", **{"train.steps": 1}), tmp_path / "run")


def test_runs_of_two_seeds_share_their_images_on_request(tiny_config):
    def ids(**fields):
        return set(build(tiny_config(**fields)).train.ids.tolist())

    assert ids(seed=1) != ids(seed=2)
    assert ids(seed=1, **{"data.seed": 7}) == ids(seed=2, **{"data.seed": 7})


def test_accuracy_by_typicality_needs_estimates(tiny_config):
    with pytest.raises(UserError, match=r"evaluation\.track\.images is 5"):
        build(tiny_config(**{"evaluation.track.images": 5}))


def test_excluded_ids_are_read_from_plain_files_only(tiny_config):
    config = tiny_config(**{"data.exclude": "/dev/zero"})
    with pytest.raises(
        UserError, match=r"data\.exclude /dev/zero: is not a regular file; expected a"
    ):
        build(config)
