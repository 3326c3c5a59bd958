"""Settings shared by several pages of `configs/`."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from bat_jax import methods
from bat_jax.config import default, findings


def fashion_mnist(objective: str) -> ConfigDict:
    """Returns a short run on Fashion-MNIST: small_cnn, Linf eps 0.1, 6 epochs of PGD-7."""
    config = default()
    config.data.name = "fashion_mnist"
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "small_cnn"
    config.objective.name = objective
    config.attack.epsilon = 0.1
    config.attack.step_size = 0.025
    config.attack.num_steps = 7
    config.evaluation.step_size = 0.01
    config.evaluation.batch_size = 1024
    # AutoAttack takes an hour on two cores. configs/evaluation.py runs it on the finished run; add
    # --config.evaluation.subset=1000 for 1,000 images.
    config.evaluation.attacks = ()
    config.train.epochs = 6
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.boundaries = (4.0, 5.5)
    _select(config)
    return config


def cifar(name: str, objective: str) -> ConfigDict:
    """Returns the paper's setting (docs/method.md, section 6): PreActResNet-18, Linf 8/255."""
    config = default()
    config.data.name = name
    config.objective.name = objective
    config.model.dtype = "bfloat16"
    if objective == "gairat":
        # The authors' schedule: 120 epochs, with weights from the middle on.
        config.train.epochs = 120
        config.train.schedule.boundaries = (60.0, 90.0)
    _select(config)
    return config


def cifar_fast(name: str, objective: str) -> ConfigDict:
    """Returns `cifar` as 30 epochs of one cycle, batch 512: minutes on one accelerator.

    The learning rate rises to 0.4 for 30 % of the training and falls to 0 for the rest: 0.2, the
    peak of Wong et al., arXiv:2001.03994, for batches of 128, times the root of the batch ratio.
    The weights of BAT and GAIRAT apply from epoch 15: halfway, as for every schedule without
    discrete decays. Every third epoch ends with a validation, whose PGD-20 in float32 takes as long
    as half an epoch.
    """
    config = cifar(name, objective)
    config.train.epochs = 30
    config.train.batch_size = 512
    config.train.optimizer.learning_rate = 0.4
    config.train.schedule.name = "one_cycle"
    config.checkpoint.every_epochs = 3
    return config


def cifar100_small(objective: str) -> ConfigDict:
    """Returns a run on ten classes of CIFAR-100 for a CPU core: PreActResNet-18 of width 16."""
    config = default()
    config.data.name = "cifar100"
    config.data.classes = tuple(range(0, 100, 10))  # Every tenth in alphabetical order.
    config.data.validation = 500
    config.model.width = 16
    config.objective.name = objective
    config.attack.num_steps = 7
    config.train.epochs = 10
    config.train.batch_size = 64
    config.train.schedule.name = "one_cycle"
    config.checkpoint.every_epochs = 2
    config.evaluation.losses = ("cross_entropy",)
    # AutoAttack takes longer than the training; configs/evaluation.py runs it on some images.
    config.evaluation.attacks = ()
    config.evaluation.batch_size = 100
    _select(config)
    return config


def cifar_one_step(name: str, objective: str) -> ConfigDict:
    """Returns `cifar` for attacks of one step: 30 epochs of one cycle that watch for collapse."""
    config = cifar(name, objective)
    config.attack.num_steps = 1
    config.train.epochs = 30
    config.train.optimizer.learning_rate = 0.2
    config.train.schedule.name = "one_cycle"
    config.train.schedule.rise = 0.5
    config.train.collapse.watch = True
    return config


def recipe(config: ConfigDict) -> ConfigDict:
    """Turns on the recipe of robust models that are trained on generated images.

    WRN-28-10 with SiLU, label smoothing, Nesterov momentum, one cycle and a moving average of the
    weights: the values of Wang et al., arXiv:2302.04638, for a million generated images, whose file
    `data.extra` names. docs/method.md, section 9, has the differences from the authors' code.

    Args:
      config: the config to change, such as that of `cifar`.
    """
    config.model.name = "dm_wide_resnet"  # Its depth is 28, its widening 10.
    config.attack.batch_norm = "batch"
    config.train.epochs = 400
    config.train.batch_size = 512
    config.train.label_smoothing = 0.1
    config.train.optimizer.learning_rate = 0.2
    config.train.optimizer.nesterov = True
    config.train.optimizer.decay_all = False
    config.train.schedule.name = "one_cycle"
    config.train.schedule.rise = 0.025
    # The average of Gowal et al., arXiv:2010.03593.
    config.train.ema = 0.995
    config.train.ema_warmup = True
    config.train.ema_statistics = "live"
    return config


def tiny_imagenet(objective: str) -> ConfigDict:
    """Returns the setting of `cifar` for the 64x64 images of Tiny ImageNet."""
    config = cifar("tiny_imagenet", objective)
    config.model.stem = "tiny_imagenet"
    return config


def imagenet(objective: str) -> ConfigDict:
    """Returns the recipe of Salman et al., arXiv:2007.08489, for ImageNet at 224 pixels.

    ResNet-50, Linf 4/255, PGD-3 with steps of 2/3 epsilon; 90 epochs with batches of 512, and a
    learning rate of 0.1 that falls tenfold after every 30 epochs. Crops are taken from the stored
    squares, not from the photographs, and held-out training images choose the best checkpoint.
    """
    config = default()
    config.data.name = "folder:imagenet"
    config.data.side = 224
    config.data.validation = 5000
    config.data.crop_padding = 0
    config.data.resized_crop = 0.08
    config.model.name = "resnet50"
    config.model.stem = "imagenet"
    config.model.dtype = "bfloat16"
    # The usual statistics of ImageNet.
    config.model.mean = (0.485, 0.456, 0.406)
    config.model.std = (0.229, 0.224, 0.225)
    config.objective.name = objective
    config.attack.epsilon = 4 / 255
    config.attack.step_size = 8 / 3 / 255
    config.attack.num_steps = 3
    config.train.epochs = 90
    config.train.batch_size = 512
    config.train.optimizer.weight_decay = 1e-4
    config.train.schedule.boundaries = (30.0, 60.0)
    config.checkpoint.every_epochs = 5
    config.evaluation.step_size = 1 / 255
    config.evaluation.subset = 5000  # As many as RobustBench attacks.
    _select(config)
    return config


def with_awp(methods: Mapping[str, float], *, start_epoch: float) -> ConfigDict:
    """Returns arms of the findings that add weight perturbation to methods: `<method>_awp`.

    Args:
      methods: the size of the perturbation by method.
      start_epoch: the epoch from which weights are perturbed; from the start, small networks may
        not leave chance (docs/results/methods.md).
    """
    return ConfigDict(
        {
            f"{name}_awp": {
                "objective": {"name": name, "awp": {"gamma": gamma, "start_epoch": start_epoch}}
            }
            for name, gamma in methods.items()
        }
    )


def cifar_findings(name: str) -> ConfigDict:
    """Returns the findings in the setting of `cifar`, with one schedule and three seeds.

    All baselines, with and without AWP, in the sizes of its paper: 0.01, and 0.005 for methods with
    a divergence (Wu et al., arXiv:2004.05884). Temporal ensembling and GAIRAT's weights begin at
    the same parts of 110 epochs as in their papers, which have 200 and 120.
    """
    config = findings()
    config.data.name = name
    config.model.dtype = "bfloat16"
    config.evaluation.losses = ("cross_entropy",)
    gammas = {
        **dict.fromkeys(("pgd_at", "gairat", "te", "bat"), 0.01),
        **dict.fromkeys(("trades", "mart"), 0.005),
    }
    config.findings.arms = with_awp(gammas, start_epoch=10.0)
    config.findings.methods = ("standard", *gammas, *config.findings.arms)
    config.objective.te.update(start_epoch=49.0, ramp_epochs=33.0)
    config.objective.gairat.start_epoch = 55.0
    config.findings.looks = (3, 5)
    config.findings.balanced = True
    config.evaluation.track.images = 1000
    config.checkpoint.every_epochs = 5
    config.findings.ensemble.train.epochs = 110
    # AutoAttack attacks every run, including the ablation.
    config.findings.autoattack = ("methods", "removal", "variants")
    return config


def fashion_mnist_findings() -> ConfigDict:
    """Returns the findings on 1,000 images of Fashion-MNIST, in the regime chosen for pgd_at.

    1,000 training and 1,000 held-out images, Linf 8/255, 60 epochs of a small_cnn of width 8; the
    docstring of configs/fashion_mnist_findings.py has the choice.
    """
    config = findings()
    config.data.name = "fashion_mnist"
    config.data.validation = 1000
    config.data.subset = 1000
    config.data.crop_padding = 0
    config.data.flip = False

    config.model.name = "small_cnn"
    config.model.width = 8

    config.attack.epsilon = 8 / 255
    config.attack.step_size = 2 / 255
    config.attack.num_steps = 7
    # Without the rise of epsilon, MART did not train with one seed of three.
    config.attack.warmup_epochs = 10.0

    config.train.epochs = 60
    config.train.batch_size = 100
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.boundaries = (40.0, 52.0)

    config.evaluation.step_size = 1 / 255
    config.evaluation.batch_size = 500
    config.evaluation.losses = ("cross_entropy",)
    # AutoAttack dominates the cost; every run is tested on the same 1,000 images.
    config.evaluation.subset = 1000
    config.evaluation.attacked = ("best",)
    config.evaluation.track.images = 500
    config.evaluation.track.num_steps = 20
    config.checkpoint.every_epochs = 6

    # On 2,000 images: those trained on and those held out. With this few members, influences have
    # standard errors of up to 0.08; at 0.15, two in three atypical test images would be by chance.
    config.memorization.members = 200
    config.memorization.threshold = 0.25
    config.findings.ensemble.train.epochs = 12
    config.findings.ensemble.train.optimizer.learning_rate = 0.05
    return config


def small_findings(config: ConfigDict, start_epoch: float = 10.0) -> ConfigDict:
    """Returns findings that spend two cores where the questions are, with five seeds.

    BAT, and BAT as searched on Fashion-MNIST (docs/results/bat_search.md), against two baselines;
    with AWP against TRADES with it; the removal of all atypical images, against random ones of the
    same classes. Three more seeds can be added. FAB-T and Square, most of the cost, attack a
    sample of what APGD leaves.

    Args:
      config: the findings to change.
      start_epoch: from which AWP and the searched options of BAT count.
    """
    config.findings.seeds = (0, 1, 2, 3, 4)
    config.findings.looks = (5, 8)
    arms = with_awp({"trades": 0.005, "bat": 0.01}, start_epoch=start_epoch)
    searched = {"start_epoch": start_epoch, "temperature": 0.5}
    arms.bat_searched = {"objective": {"name": "bat", "bat": searched}}
    arms.bat_searched_awp = arms.bat_awp.copy_and_resolve_references()
    arms.bat_searched_awp.objective.bat = searched
    config.findings.arms = arms
    config.findings.methods = (
        "pgd_at",
        "trades",
        "bat",
        "bat_searched",
        "trades_awp",
        "bat_searched_awp",
    )
    config.findings.tracked = ("pgd_at",)
    config.findings.removed = (1.0,)
    config.findings.balanced = True
    config.findings.variants = ConfigDict()
    config.evaluation.tolerance = 0.01
    return config


def small_memorization(name: str) -> ConfigDict:
    """Returns an ensemble of `small_cnn` for CPU: all training images, none augmented."""
    config = default()
    config.job = "memorization"
    config.data.name = name
    config.data.validation = 0
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "small_cnn"
    config.objective.name = "standard"
    config.train.optimizer.learning_rate = 0.05
    config.train.schedule.name = "one_cycle"
    return config


def memorization(name: str) -> ConfigDict:
    """Returns the ResNet-18 ensemble that CIFAR-100 and Tiny ImageNet share."""
    config = default()
    config.job = "memorization"
    config.data.name = name
    config.data.validation = 0

    config.model.name = "resnet18"
    config.model.dtype = "bfloat16"

    config.objective.name = "standard"

    config.train.epochs = 50
    config.train.batch_size = 256
    config.train.optimizer.learning_rate = 0.2
    config.train.schedule.name = "one_cycle"

    config.evaluation.batch_size = 1000

    config.memorization.members = 4000
    return config


def _select(config: ConfigDict) -> None:
    """Sets the validation accuracy that suits the method."""
    config.evaluation.select_by = methods.find(config.objective.name).select_by
