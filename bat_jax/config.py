"""The fields of a config, each with its default, its legal values and its meaning.

A config file starts from `default()` and changes the fields of its experiment. Fields that only one
choice reads are in a section named after it: `objective.trades` is for the objective `trades`.
`check` rejects invalid values before anything starts.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bat_jax import agreement, fields
from bat_jax.fields import (
    Choice,
    Either,
    Flag,
    Integer,
    Open,
    Real,
    Schema,
    Several,
    Text,
    optional,
)

__all__ = [
    "check",
    "default",
    "evaluation",
    "findings",
]

PARTS = ("methods", "removal", "variants")
"""The groups of runs of the job `findings`."""

# The range of JAX's keys: larger seeds would alias others.
_LARGEST_SEED = 2**32 - 1
# PGD steps: each is a forward and a backward pass, so that more would never finish.
_MOST_STEPS = 100_000
# The subsets of a million members fill 6 GB for 50,000 images.
_MOST_MEMBERS = 1_000_000
# Far beyond any training, and still within float32 when converted to steps.
_MOST_EPOCHS_OF_WARMUP = 1e6
_EPOCHS = 110
_LEARNING_RATE = 0.1
_SEED = Integer(0, high=_LARGEST_SEED)
_STATES = Several(("best", "last"), Choice("best", ("best", "last")), unique=True)

_DATA: dict[str, fields.Field] = {
    # digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, tiny_imagenet_superclasses,
    # tfds:<name> or folder:<path>.
    "name": Text("cifar100"),
    # The archive or folder to read; by default the places listed in docs/data.md.
    "path": Text(None),
    # For folder:<path>, resize images of any sizes to squares of this many pixels a side, before
    # training; by default all must have one size.
    "side": Integer(None, low=1, high=4096),
    # For folder:<path>, the folder that keeps the decoded images for later runs, by default the
    # one of the images; none keeps nothing.
    "cache": Text(None),
    # Use only these classes, labels or names, with labels renumbered in this order; one number k
    # selects the first k classes. By default all.
    "classes": Several(None, Either(None, Integer(0), Text("name")), unique=True, least=1),
    # The seed that draws the held-out images, the subset and `evaluation.subset`; by default
    # config.seed. Set it to share these images among runs of several seeds.
    "seed": optional(_SEED),
    # The number of training images to hold out; they select the best checkpoint.
    "validation": Integer(1000),
    # Train on this many of the others, drawn by the seed; 0 means all.
    "subset": Integer(0),
    # Test on this many training images, held out by the seed, in place of the test images: for
    # searches, which must not use those. By default on the test images.
    "tested": Integer(0),
    # A file of ids, one per line, of training images to leave out; none by default.
    "exclude": Text(None),
    # An .npz file of further training images, with `image` (uint8) and `label`; none by default.
    "extra": Text(None),
    # The share of extra images in each batch; the number of batches per epoch does not change.
    "extra_fraction": Real(0.7, above=0, below=1),
    # device or host: where the training images are. From the host, batches travel ahead of the
    # steps. By default on the devices if they fit; the results are the same.
    "placement": Choice(None, ("device", "host")),
    # Random crops after padding each side by this many pixels, fewer than the image has; 0 means
    # no crops.
    "crop_padding": Integer(4),
    # Random crops of at least this share of the image's area, resized to the image's size, instead
    # of crops after padding; 0.08 is usual for ImageNet. By default none.
    "resized_crop": Real(None, above=0, high=1),
    # Random horizontal flips.
    "flip": Flag(True),
    # Replace a random box of every image of a batch by that of another one, and mix their targets
    # by area.
    "cutmix": Flag(False),
}

_MODEL: dict[str, fields.Field] = {
    # small_cnn, resnet18, resnet50, preact_resnet18, dm_preact_resnet18, wide_resnet28_10,
    # wide_resnet34_10, or preact_resnet, dm_preact_resnet, wide_resnet or dm_wide_resnet, whose
    # depth is free.
    "name": Text("preact_resnet18"),
    # Channels of the first layer; by default the published number.
    "width": Integer(None, low=1),
    # The number of layers: 10, 18 or 34 for (dm_)preact_resnet, by default 18; 6 n + 4 for
    # (dm_)wide_resnet, by default 28.
    "depth": Integer(None, low=1, high=1000),
    # The factor that multiplies the channels of the stages of (dm_)wide_resnet, by default 10.
    "widening": Integer(None, low=1),
    # For preact_resnet and preact_resnet18: the input of the convolutions in shortcuts, activated
    # (the default) or raw; and whether batch norm and activation precede the pooling.
    "shortcut": Choice(None, ("activated", "raw")),
    "final_norm": Flag(True),
    # relu or silu; models named dm_ have SiLU.
    "activation": Choice("relu", ("relu", "silu")),
    # cifar or tiny_imagenet: the first convolution of the residual networks. For images of about
    # 224 pixels, resnet18 and resnet50 may have the published one: imagenet.
    "stem": Choice("cifar", ("cifar", "tiny_imagenet", "imagenet")),
    # The side in pixels to which images are resized before the first layer, on the device; attacks
    # change them before that. By default images keep their size.
    "resize": Integer(None, low=8, high=1024),
    # Compute the activations within residual blocks again in backward passes, to save memory.
    "remat": Flag(False),
    # The type of the computation, float32 or bfloat16; parameters and evaluation are float32.
    "dtype": Choice("float32", ("float32", "bfloat16")),
    # Whether batch norm uses the statistics of the global batch, or those of each device's share.
    "sync_batch_norm": Flag(True),
    # The normalisation of each channel; by default by the statistics of the training images.
    "mean": Several(None, Real(0.0), least=1),
    "std": Several(None, Real(1.0, above=0), least=1),
}

_ATTACK: dict[str, fields.Field] = {
    # The attack in training; evaluation uses its norm and epsilon. The objective chooses the loss.
    # l1 is for evaluations by AutoAttack alone.
    "norm": Choice("linf", ("linf", "l2", "l1")),
    # On the scale of images in [0, 1]; the command line also takes fractions such as 8/255.
    "epsilon": Real(8 / 255, low=0),
    # The size of a step, on the scale of epsilon.
    "step_size": Real(2 / 255, low=0),
    # The number of steps.
    "num_steps": Integer(10, high=_MOST_STEPS),
    # Start from a random point within epsilon rather than from the image.
    "random_start": Flag(True),
    # Radius of the random start, in units of epsilon; above 1 only without projection.
    "start_radius": Real(1.0, low=0, high=100),
    # Keep attacked images within epsilon. False, only for attacks of one step, keeps them in [0, 1]
    # alone, as in N-FGSM.
    "project": Flag(True),
    # Epochs, possibly fractional, in which epsilon rises linearly to its value; without projection,
    # the step size rises too.
    "warmup_epochs": Real(0.0, low=0, high=_MOST_EPOCHS_OF_WARMUP),
    # running or batch: the statistics that batch norm uses in attacks, which never update them.
    "batch_norm": Choice("running", ("running", "batch")),
}

_TRAIN: Schema = {
    # Passes over the training images.
    "epochs": Integer(_EPOCHS, low=1),
    # If set, the number of steps, which replaces the epochs.
    "steps": Integer(None, low=1),
    # Summed over all devices.
    "batch_size": Integer(128, low=1),
    # The number of parts in which each device computes its share of the batch, to save memory.
    "accumulation": Integer(1, low=1),
    # The probability that targets spread evenly over all classes: (1 - s) one-hot + s / classes. It
    # enters cross-entropies, of the loss and of the attack, and no divergence.
    "label_smoothing": Real(0.0, low=0, below=1),
    "optimizer": {
        # The rate that the schedule multiplies.
        "learning_rate": Real(_LEARNING_RATE, low=0),
        # sgd, whose gradient includes the weight decay; adamw, which decays weights separately; or
        # optax:NAME, an optimizer of optax, such as optax:lion or optax:contrib.muon.
        "name": Text("sgd"),
        # For optax:NAME, its other arguments, such as {"b1": 0.9}. Weight decay and its mask, if it
        # takes them, are those below; else decay is part of the gradient, as for sgd.
        "options": Open({}),
        # For adamw, the decay of the mean gradient.
        "momentum": Real(0.9, low=0, below=1),
        # For adamw, the decay of the mean squared gradient.
        "second_momentum": Real(0.999, low=0, below=1),
        # For sgd, Nesterov's form of the momentum.
        "nesterov": Flag(False),
        # The factor of weight decay.
        "weight_decay": Real(5e-4, low=0),
        # Whether norms and biases decay too.
        "decay_all": Flag(True),
        # The largest norm of the gradient over all parameters; larger gradients are scaled down.
        "clip_norm": Real(None, above=0),
        # Multiply the updates of the i-th of n layers by layer_decay^(n - 1 - i). The layers are
        # all parts of the model's params, by name, from the input to the logits.
        "layer_decay": Real(1.0, above=0, high=1),
        "layers": Several((), Text("name"), unique=True),
    },
    "schedule": {
        # piecewise, cosine or one_cycle.
        "name": Choice("piecewise", ("piecewise", "cosine", "one_cycle")),
        # For piecewise: the epochs at which the learning rate is multiplied by the factor.
        "boundaries": Several((100.0, 105.0), Real(0.0, low=0), unique=True),
        "factor": Real(0.1, low=0),
        # For one_cycle: the fraction of training in which the learning rate rises, from 0.
        "rise": Real(0.3, low=0, high=1),
        # For piecewise and cosine: the epochs, possibly fractional, in which the learning rate
        # rises linearly to the schedule's.
        "warmup_epochs": Real(0.0, low=0, high=_MOST_EPOCHS_OF_WARMUP),
    },
    # The first epoch, counted from 0, whose final parameters enter an equal average (SWA), which
    # evaluation then uses with recomputed batch statistics. By default no average.
    "swa_start_epoch": Integer(None),
    # Decay of a moving average of parameters and batch statistics, which evaluation then uses; 0
    # means no average.
    "ema": Real(0.0, low=0, below=1),
    # Let the decay of the moving average rise: min(ema, (1 + t) / (10 + t)) at step t, counted
    # from 0.
    "ema_warmup": Flag(False),
    # averaged or live: the batch statistics that go with averaged parameters.
    "ema_statistics": Choice("averaged", ("averaged", "live")),
    "collapse": {
        # Watch for a collapse of robustness, which attacks of one step can cause: report it in the
        # log and the records, and keep the last good checkpoint.
        "watch": Flag(False),
        # A state has collapsed if its validation accuracy under PGD is below this fraction of the
        # highest so far, and also below this fraction of that under FGSM, or no better than
        # guessing, or clean accuracy is at most twice that of guessing (with two classes, 75 %).
        # Nothing counts as a collapse before PGD leaves clearly more than guessing.
        "below": Real(0.5, above=0, below=1),
        # How many times to go back to the last good state, each time with the step size of the
        # attack multiplied by the factor.
        "retries": Integer(0, high=100),
        "factor": Real(0.5, above=0, below=1),
    },
    # Steps between records of metrics.jsonl.
    "log_every": Integer(50, low=1),
}

_PGD: dict[str, fields.Field] = {
    # Steps and step size of the PGD attack on the test set and on the validation images.
    "num_steps": Integer(20, low=1, high=_MOST_STEPS),
    "step_size": Real(2 / 255, above=0),
}

_TEST: dict[str, fields.Field] = {
    # Losses that PGD maximises on the test set: cross_entropy (`pgd20`), margin (`pgd20_margin`).
    "losses": Several(
        ("cross_entropy", "margin"), Choice("margin", ("cross_entropy", "margin")), unique=True
    ),
    # AutoAttack's attacks, in order: apgd-ce, apgd-dlr, apgd-t, fab-t, square. With none, results
    # show robustness to PGD only.
    "attacks": Several(
        ("apgd-ce", "apgd-t", "fab-t", "square"),
        Choice("apgd-ce", ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")),
        unique=True,
    ),
    # Run fab-t and square, which then come last, on a random sample of the images that withstand
    # the other attacks, until the interval of robust accuracy is at most this wide: 0.003 is 0.3
    # points. By default every attack is run on all images.
    "tolerance": Real(None, above=0, below=1),
    # The precision in which AutoAttack searches. Only what the float32 network misclassifies too is
    # broken. bfloat16 is faster on accelerators, not on CPU.
    "search_dtype": Choice("float32", ("float32", "bfloat16")),
    # The states that AutoAttack attacks: best, last. It takes most of an evaluation's time.
    "attacked": _STATES,
    # Report accuracies per class or per superclass (the 20 coarse labels of CIFAR-100) too.
    "by": Several((), Choice("class", ("class", "superclass")), unique=True),
    # Test on this many of the test images, drawn by the seed; 0 means all.
    "subset": Integer(0),
    # Summed over all devices.
    "batch_size": Integer(512, low=1),
}

_CORRUPTIONS: Schema = {
    # Also report accuracy on the corrupted test images in this folder: CIFAR-10-C, CIFAR-100-C,
    # Tiny-ImageNet-C, or one that `python -m bat_jax.data.corruptions` made. By default none.
    "path": Text(None),
    # The corruptions to evaluate, by default the 15 of the published mean.
    "names": Several(None, Text("fog"), unique=True, least=1),
}

_SCORES: Schema = {
    # pgd or clean: the accuracy on validation images that selects the best checkpoint.
    "select_by": Choice("pgd", ("pgd", "clean")),
    "track": {
        # At every checkpoint, record clean and PGD accuracy on this many typical and this many
        # atypical images of the training set and of the test set; 0 records none.
        "images": Integer(0),
        # The steps of that PGD.
        "num_steps": Integer(10, low=1, high=_MOST_STEPS),
    },
}

_TYPICALITY: dict[str, fields.Field] = {
    # An estimates file (memorization.npz or the released layout). Evaluation then also reports
    # typical and atypical test images, and the gate `memorized` reads the file.
    "estimates": Text(None),
    # Examples with a memorization above it are atypical. Memorization is a difference of two
    # probabilities.
    "threshold": Real(0.15, low=-1, high=1),
}

_ENSEMBLE: dict[str, fields.Field] = {
    # The rest is for the job `memorization`, which makes estimates. The number of models to train;
    # raise it to extend a finished run.
    "members": Integer(1000, low=1, high=_MOST_MEMBERS),
    # The fraction of the training images that each model is trained on.
    "ratio": Real(0.7, above=0, below=1),
    # correct or probability (of the label): the score of a model on an image.
    "statistic": Choice("correct", ("correct", "probability")),
    # difference, the paper's: that of the mean scores. margin: the same difference for the
    # statistic correct, estimated from the members' margins with a smaller error.
    "estimator": Choice("difference", ("difference", "margin")),
    # clean, adversarial (under the PGD attack of `evaluation`) or both: the images that models are
    # scored on. With both, a run estimates memorization and influence twice.
    "inputs": Choice("clean", ("clean", "adversarial", "both")),
    # Score models on this many of the test images, drawn by the seed; 0 means all.
    "test_images": Integer(0),
    # class (pairs of the same class), full or none.
    "influence": Choice("class", ("class", "full", "none")),
}

# The number of devices to use; 0 means all.
_DEVICES = Integer(0)

_CONVOLUTION = Choice(None, ("xla", "cpu", "patches", "batch_last"))
# The forms of compiled programs, by default chosen for the back end, the model and the job;
# --dry_run prints the choice.
_PROGRAMS: Schema = {
    # The convolutions of the training pass, of attacks in training, and of evaluation.
    "training": _CONVOLUTION,
    "attack": _CONVOLUTION,
    "evaluation": _CONVOLUTION,
    # Unroll the steps of PGD instead of looping.
    "unroll": Flag(None),
    # Whether the members on a device train by map (one after another) or vmap (all at once); and
    # how many a device holds at a time, by default as many as fit.
    "execution": Choice(None, ("map", "vmap")),
    "members_at_once": Integer(None, low=1),
}

_OBJECTIVE: Schema = {
    # The method: standard, pgd_at, trades, mart, gairat, te, grad_align, bat, or
    # package.module:Class. Each has a section of fields, which its module in bat_jax/methods
    # explains.
    "name": Text("bat"),
    # Adversarial weight perturbation, for every method (docs/method.md, section 7).
    "awp": {
        # Size of the perturbation relative to the norm of each kernel; 0 means none.
        "gamma": Real(0.0, low=0, high=1),
        # Epoch from which weights are perturbed.
        "start_epoch": Real(0.0, low=0),
    },
}

_DEFAULT: Schema = {
    # train or memorization; the configs of `evaluation()` and `findings()` have their own job.
    "job": Choice(
        "train",
        ("train", "memorization"),
        hint=": the jobs evaluation and findings have configs of their own, such as"
        " configs/evaluation.py and configs/digits_findings.py",
    ),
    # The seed of every random draw.
    "seed": _SEED,
    "data": _DATA,
    "model": _MODEL,
    "objective": _OBJECTIVE,
    "attack": _ATTACK,
    "train": _TRAIN,
    "evaluation": {**_PGD, **_TEST, **_SCORES, "corruptions": _CORRUPTIONS},
    "memorization": {**_TYPICALITY, **_ENSEMBLE},
    "checkpoint": {
        # Epochs between checkpoints; each is scored on the validation images.
        "every_epochs": Integer(1, low=1),
        # The number of last checkpoints to keep, besides the best.
        "keep": Integer(2, low=1),
    },
    "parallel": {"devices": _DEVICES},
    "programs": _PROGRAMS,
}

_EVALUATION: Schema = {
    # The job of these configs.
    "job": Choice("evaluation", ("evaluation",)),
    # The run's folder.
    "run": Text(None),
    # In place of a run: a safetensors file, and its architecture (docs/interop.md).
    "weights": Text(None),
    "architecture": Text(None),
    # The states of the run to evaluate: best, last.
    "checkpoints": Several(("best", "last"), _STATES.each, unique=True, least=1),
    # These have the meaning that they have in a training config; by default the run's values.
    "data": {name: optional(_DATA[name]) for name in ("path", "exclude", "name", "side", "cache")},
    # For weights: properties of the model that the file does not contain.
    "model": {name: optional(_MODEL[name]) for name in ("mean", "std", "stem", "shortcut")},
    "attack": {name: optional(_ATTACK[name]) for name in ("norm", "epsilon")},
    "evaluation": {
        **{name: optional(field) for name, field in {**_PGD, **_TEST}.items()},
        "attacked": _STATES,  # Every state that is evaluated.
        "search_dtype": _TEST["search_dtype"],  # Never the run's own.
        "tolerance": _TEST["tolerance"],  # Never the run's own: by default the verdict is exact.
        "corruptions": _CORRUPTIONS,
    },
    "memorization": {name: optional(field) for name, field in _TYPICALITY.items()},
    "parallel": {"devices": optional(_DEVICES)},
}

_METHOD = Text("bat")

_FINDINGS: Schema = {
    **_DEFAULT,
    # The job of these configs.
    "job": Choice("findings", ("findings",)),
    "findings": {
        # Every run is made once per seed; `data.seed` draws the same images for all of them.
        "seeds": Several((0, 1, 2), _SEED, unique=True, least=1),
        # The numbers of seeds at which the results will be looked at, ascending, if seeds are to be
        # added to finished findings (docs/findings.md). By default once, with all seeds.
        "looks": Several((), Integer(3, low=3), unique=True),
        # Finding (c): bat is compared with each of the others.
        "methods": Several(
            ("standard", "pgd_at", "trades", "mart", "gairat", "bat"),
            _METHOD,
            unique=True,
            least=1,
        ),
        # Further runs that `methods` may name: name -> differences from this config by section,
        # such as {"objective": {"name": "trades", "awp": {"gamma": 0.005}}}. Runs of bat with AWP
        # are compared with other methods with AWP, and those without with those without.
        "arms": Open({}),
        # Finding (a): these track accuracy by typicality during training (`evaluation.track`).
        "tracked": Several(("standard", "pgd_at"), _METHOD, unique=True),
        # Finding (b): pgd_at without these fractions of the atypical training images, against
        # pgd_at without as many random ones.
        "removed": Several((0.5, 1.0), Real(1.0, above=0, high=1), unique=True),
        # Whether the random ones have as many images of each class as the atypical ones.
        "balanced": Flag(False),
        # Finding (b) by influence: pgd_at without the most harmful training images of each class,
        # as many as these fractions of its atypical ones, against equally many merely atypical or
        # random ones of the same classes.
        "harmful": Several((), Real(0.5, above=0, high=0.5), unique=True),
        # For `harmful`: an estimates file of influence under attack, whose members trained on
        # adversarial images and were scored on them (memorization.inputs). By default an ensemble
        # makes it, whose differences from this config are those of `robust_ensemble`.
        "robust_estimates": Text(None),
        "robust_ensemble": Open(
            {
                "objective": {"name": "pgd_at"},
                "memorization": {"inputs": "adversarial"},
                "train": {
                    "epochs": _EPOCHS,
                    "optimizer": {"learning_rate": _LEARNING_RATE},
                    "schedule": {"name": "one_cycle", "warmup_epochs": 0.0},
                },
            }
        ),
        # The ablation of BAT: name -> fields of objective.bat.
        "variants": Open(
            {
                "weight_only": {"beta_dl": 0.0},
                "discrimination_only": {"alpha": 0.0},
                "alpha_4": {"alpha": 4.0},
                "gate_all": {"gate": "all"},
                "gate_memorized": {"gate": "memorized"},
            }
        ),
        # A designed search among options of BAT: name -> its default and its other level, of fields
        # of objective.bat. Adds 24 variants of all of them (docs/findings.md).
        "factors": Open({}),
        # The runs that AutoAttack attacks: methods, removal, variants. The others are attacked by
        # PGD only.
        "autoattack": Several(("methods",), Choice("methods", PARTS), unique=True),
        # The changes to this config, by section, for the ensemble that estimates memorization; not
        # used if `memorization.estimates` names a file.
        "ensemble": Open(
            {
                "objective": {"name": "standard"},
                "train": {
                    "epochs": _EPOCHS,
                    "optimizer": {"learning_rate": _LEARNING_RATE},
                    "schedule": {"name": "one_cycle", "warmup_epochs": 0.0},
                },
            }
        ),
        # Memorization can occur if pgd_at fits this fraction of its training images under attack.
        "regime": Real(0.95, low=0, high=1),
        # The results.json of finished findings, whose spread over seeds predicts, in --dry_run,
        # which differences the seeds can detect.
        "pilot": Text(None),
        # The fraction of test images that are expected to withstand the attacks, for the time of
        # AutoAttack in --dry_run; by default the pilot's robust accuracy, or 1.
        "expected_robust": Real(None, low=0, high=1),
    },
}


def default() -> ConfigDict:
    """Returns the whole config, with the training defaults of the paper's benchmarks."""
    return fields.section(_with_methods(_DEFAULT)).lock()


def evaluation() -> ConfigDict:
    """Returns the config of the job `evaluation`: a run, and changes to its own config.

    Fields that are not set keep the run's values. The config can name a file of weights in place of
    a run; then unset fields have the defaults of a training run.
    """
    return fields.section(_EVALUATION).lock()


def findings() -> ConfigDict:
    """Returns the config of the job `findings`: a training config, and the runs to derive from it.

    The runs differ in seed, method and, for some, the training images left out; they are trained
    and evaluated like any other run.
    """
    return fields.section(_with_methods(_FINDINGS)).lock()


def check(config: ConfigDict, *, trains: bool = True) -> None:
    """Checks every field of a config of any job, then fields that must agree with one another.

    Names of data sets and models, and sizes that depend on the data or the devices, are checked
    elsewhere.

    Args:
      config: of any job.
      trains: whether a training config is to train, rather than to describe what is evaluated.

    Raises:
      UserError: a field is wrong; the message names the first one.
    """
    schema = schema_of(config)
    fields.check(config, schema)
    agreement.check(config, trains=trains)


def defaults_of(config: ConfigDict) -> ConfigDict:
    """Returns the defaults of a config's fields, including those of its method."""
    defaults = findings() if "findings" in config else default()
    from bat_jax import methods

    defaults.objective.name = config.objective.name
    methods.complete(defaults)
    return defaults


def schema_of(config: Mapping[str, Any]) -> Schema:
    """Returns the schema of a config, inferred from its sections."""
    if "run" in config:
        return _EVALUATION
    return _with_methods(_FINDINGS if "findings" in config else _DEFAULT)


def known() -> tuple[ConfigDict, Schema]:
    """Returns the fields of all jobs except those of methods, and their schema.

    Unlike methods, this does not import JAX, so that a wrong field fails immediately.
    """
    schema = {**_EVALUATION, **_FINDINGS, "job": Text("train")}
    return fields.section(schema).lock(), schema


def _with_methods(schema: Schema) -> Schema:
    """Returns a schema whose section `objective` has the sections of the methods."""
    # Imported here, because methods import JAX, which most wrong command lines do not need.
    from bat_jax import methods

    return {**schema, "objective": {**_OBJECTIVE, **methods.sections()}}
