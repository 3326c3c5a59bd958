"""The fields of a config, each with its default and its meaning.

A config file starts from `default()` and changes what its experiment is about. Fields that are
left out of a choice's reading say so: `objective.trades` is read by the objective `trades` alone.
"""

from ml_collections import ConfigDict, config_dict


def default() -> ConfigDict:
    """Returns the whole config, with the training defaults of the paper's benchmarks."""
    config = ConfigDict()

    # What to do: train, memorization, evaluation (that of `evaluation()`), or findings (that of
    # `findings()`).
    config.job = "train"
    # Every random draw follows from it.
    config.seed = 0

    config.data = data = ConfigDict()
    # digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, tfds:<name> or folder:<path>.
    data.name = "cifar100"
    # The archive or folder to read; by default the places that docs/data.md names.
    data.path = config_dict.placeholder(str)
    # What draws the held-out images, the subset and `evaluation.subset`; by default config.seed.
    # Runs of several seeds that are to see the same images share it.
    data.seed = config_dict.placeholder(int)
    # How many training images to hold out; they choose the best checkpoint.
    data.validation = 1000
    # Train on this many of the others, drawn by the seed; 0 is all of them.
    data.subset = 0
    # A file of ids, one a line, of training images to leave out of these; none by default.
    data.exclude = config_dict.placeholder(str)
    # Random crops after padding by so many pixels on every side; 0 is none.
    data.crop_padding = 4
    # Random horizontal flips.
    data.flip = True

    config.model = model = ConfigDict()
    # small_cnn, resnet18, preact_resnet18, wide_resnet28_10 or wide_resnet34_10.
    model.name = "preact_resnet18"
    # Channels of the first layer; by default the published number.
    model.width = config_dict.placeholder(int)
    # cifar or tiny_imagenet: the first convolution of the residual networks.
    model.stem = "cifar"
    # float32 or bfloat16, of the computation; parameters and evaluation are float32.
    model.dtype = "float32"
    # How convolutions are lowered: automatic, xla, patches or batch_last; by default what suits the
    # model, the job and the back end.
    model.lowering = config_dict.placeholder(str)
    # Batch norm takes the statistics of the global batch, not of each device's share.
    model.sync_batch_norm = True
    # What images are normalised by, per channel; by default those of the training images.
    model.mean = config_dict.placeholder(tuple)
    model.std = config_dict.placeholder(tuple)

    config.objective = objective = ConfigDict()
    # standard, pgd_at, trades, mart, gairat or bat.
    objective.name = "bat"
    objective.trades = ConfigDict({"beta": 6.0})
    objective.mart = ConfigDict({"beta": 5.0})
    objective.gairat = gairat = ConfigDict()
    gairat.lam = -1.0
    # Epoch from which weights apply; by default the first decay of the learning rate, or half the
    # training where the schedule has no steps.
    gairat.start_epoch = config_dict.placeholder(float)
    objective.bat = bat = ConfigDict()
    # The weight, section 4 of docs/method.md.
    bat.alpha = 1.0
    # misclassified, all or memorized (by the file memorization.estimates).
    bat.gate = "misclassified"
    # adversarial or clean: the images on which a wrong class's confidence is read.
    bat.confidence = "adversarial"
    # sum or none.
    bat.normalize = "sum"
    # As for gairat; it concerns the weight alone.
    bat.start_epoch = config_dict.placeholder(float)
    # The discrimination loss, section 5: its weight, and its form.
    bat.beta_dl = 0.2
    bat.temperature = 0.1
    bat.similarity = "cosine"  # cosine or dot
    bat.denominator = "all"  # all or negatives
    bat.pooling = "sum"  # sum or mean

    config.attack = attack = ConfigDict()
    # The attack in training; evaluation uses its norm and epsilon. The objective chooses the loss.
    attack.norm = "linf"  # linf or l2
    attack.epsilon = 8 / 255
    attack.step_size = 2 / 255
    attack.num_steps = 10
    attack.random_start = True
    # running or batch: the statistics of batch norm while the attack runs; never updated by it.
    attack.batch_norm = "running"
    # Write the steps out instead of looping; by default only on CPU, and where convolutions are
    # XLA's own.
    attack.unroll = config_dict.placeholder(bool)

    config.train = train = ConfigDict()
    train.epochs = 110
    # Stop after so many steps instead, if given.
    train.steps = config_dict.placeholder(int)
    # Over all devices.
    train.batch_size = 128
    # Parts in which each device computes its share of the batch, one after another, to save memory.
    train.accumulation = 1
    train.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 0.1
    optimizer.momentum = 0.9
    optimizer.nesterov = False
    optimizer.weight_decay = 5e-4
    # Whether norms and biases decay too.
    optimizer.decay_all = True
    train.schedule = schedule = ConfigDict()
    # piecewise, cosine or one_cycle.
    schedule.name = "piecewise"
    # For piecewise: the epochs at which the learning rate is multiplied by the factor.
    schedule.boundaries = (100.0, 105.0)
    schedule.factor = 0.1
    # For one_cycle: the part of training in which the learning rate rises.
    schedule.rise = 0.3
    # Decay of a moving average of parameters and batch statistics, which is then what is
    # evaluated; 0 is none.
    train.ema = 0.0
    # Steps between records of metrics.jsonl.
    train.log_every = 50

    config.evaluation = evaluation = ConfigDict()
    # Steps and step size of the PGD attack on the test set and on the validation images.
    evaluation.num_steps = 20
    evaluation.step_size = 2 / 255
    # Losses that PGD maximises on the test set: cross_entropy (`pgd20`), margin (`pgd20_margin`).
    evaluation.losses = ("cross_entropy", "margin")
    # AutoAttack's attacks, in order; none leaves it out, and then nothing is said of robustness
    # beyond PGD: apgd-ce, apgd-dlr, apgd-t, fab-t, square.
    evaluation.attacks = ("apgd-ce", "apgd-t", "fab-t", "square")
    # Which states AutoAttack attacks: best, last. It takes most of an evaluation's time.
    evaluation.attacked = ("best", "last")
    # Test on so many of the test images, drawn by the seed; 0 is all of them.
    evaluation.subset = 0
    # Over all devices.
    evaluation.batch_size = 512
    # pgd or clean: the accuracy on validation images that chooses the best checkpoint.
    evaluation.select_by = "pgd"
    # With every checkpoint, record clean and PGD accuracy on so many typical and so many atypical
    # images of the training and of the test set, under so many steps; 0 images is no such record.
    evaluation.track = ConfigDict({"images": 0, "num_steps": 10})

    config.memorization = memorization = ConfigDict()
    # An estimates file (memorization.npz or the released layout); evaluation is then also reported
    # on the typical and atypical test images, and the gate `memorized` reads it.
    memorization.estimates = config_dict.placeholder(str)
    # Above it an example is atypical.
    memorization.threshold = 0.15
    # What follows is of the job `memorization`, which makes estimates: how many models to train.
    # A finished run takes up again where this is raised.
    memorization.members = 1000
    # The part of the training images that each is trained on.
    memorization.ratio = 0.7
    # correct or probability (of the label): what a model is scored by on every image.
    memorization.statistic = "correct"
    # clean or adversarial: the images it is scored on.
    memorization.inputs = "clean"
    # class (pairs of the same class), full or none.
    memorization.influence = "class"
    # How members of a device train, map (one after another) or vmap; how many a device takes at a
    # time. By default what suits the back end, and as many as fit.
    memorization.execution = config_dict.placeholder(str)
    memorization.members_at_once = config_dict.placeholder(int)

    config.checkpoint = checkpoint = ConfigDict()
    # Epochs between checkpoints; each is scored on the validation images.
    checkpoint.every_epochs = 1
    # How many of the last to keep, beside the best.
    checkpoint.keep = 2

    config.parallel = ConfigDict()
    # How many devices to use; 0 is all of them.
    config.parallel.devices = 0

    return config.lock()


def evaluation() -> ConfigDict:
    """Returns the config of the job `evaluation`: a run, and what to change of its own config.

    A field that is not set keeps the run's own value.
    """
    config = ConfigDict()
    config.job = "evaluation"
    # The run's folder.
    config.run = config_dict.placeholder(str)
    # Which of its states: best, last.
    config.checkpoints = ("best", "last")
    # Fields as in the run's own config, there explained.
    config.data = data = ConfigDict({"path": config_dict.placeholder(str)})
    data.exclude = config_dict.placeholder(str)
    config.attack = attack = ConfigDict()
    attack.norm = config_dict.placeholder(str)
    attack.epsilon = config_dict.placeholder(float)
    config.evaluation = settings = ConfigDict()
    settings.num_steps = config_dict.placeholder(int)
    settings.step_size = config_dict.placeholder(float)
    settings.losses = config_dict.placeholder(tuple)
    settings.attacks = config_dict.placeholder(tuple)
    settings.attacked = ("best", "last")  # Every state that is evaluated.
    settings.subset = config_dict.placeholder(int)
    settings.batch_size = config_dict.placeholder(int)
    config.memorization = memorization = ConfigDict()
    memorization.estimates = config_dict.placeholder(str)
    memorization.threshold = config_dict.placeholder(float)
    config.parallel = ConfigDict({"devices": config_dict.placeholder(int)})
    return config.lock()


def findings() -> ConfigDict:
    """Returns the config of the job `findings`: a training config, and which runs to make of it.

    Every run has the fields of this config but for its seed, its method and, for some, the training
    images left out; its `best` is chosen and its test made as for any run.
    """
    config = default().unlock()
    config.job = "findings"
    config.findings = settings = ConfigDict()
    # Every run is made once a seed; `data.seed` draws the same images for all of them.
    settings.seeds = (0, 1, 2)
    # Finding (c): these are compared, bat with each other one.
    settings.methods = ("standard", "pgd_at", "trades", "mart", "gairat", "bat")
    # Finding (a): these record accuracy by typicality as they train (`evaluation.track`).
    settings.tracked = ("standard", "pgd_at")
    # Finding (b): pgd_at without these parts of the atypical training images, against pgd_at
    # without as many random ones.
    settings.removed = (0.5, 1.0)
    # The ablation of BAT: name -> fields of objective.bat.
    settings.variants = ConfigDict(
        {
            "weight_only": {"beta_dl": 0.0},
            "discrimination_only": {"alpha": 0.0},
            "alpha_4": {"alpha": 4.0},
            "gate_all": {"gate": "all"},
            "gate_memorized": {"gate": "memorized"},
        }
    )
    # Which runs AutoAttack attacks: methods, removal, variants. The others meet PGD alone.
    settings.autoattack = ("methods",)
    # The ensemble that estimates memorization, unless `memorization.estimates` names a file: what
    # differs from this config, by section.
    settings.ensemble = ConfigDict(
        {
            "objective": {"name": "standard"},
            "train": {
                "epochs": config.train.epochs,
                "optimizer": {"learning_rate": config.train.optimizer.learning_rate},
                "schedule": {"name": "one_cycle"},
            },
        }
    )
    # Memorization is possible where pgd_at fits this part of its training images, under attack.
    settings.regime = 0.95
    return config.lock()
