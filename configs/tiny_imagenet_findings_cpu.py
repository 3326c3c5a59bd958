"""The findings on ten superclasses of Tiny ImageNet, on two cores.

    python launch.py --config=configs/tiny_imagenet_findings_cpu.py --dry_run \
        --config.data.path=tiny-imagenet-200-subset.zip
    python launch.py --config=configs/tiny_imagenet_findings_cpu.py \
        --config.data.path=tiny-imagenet-200-subset.zip

3,000 images of ten superclasses of Tiny ImageNet, each with ten of its classes, and 500 held out,
which choose the best state; 1,000 test images, with AutoAttack on the best
state of every method. The first 50 training images of each class will do. The network resizes
images to 32x32 pixels; attacks change all 64x64. Otherwise as configs/cifar100_findings_cpu.py. The
same command resumes after an interruption. Hardware: two CPU cores. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist_findings, small_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_findings(fashion_mnist_findings(), start_epoch=3.0)
    config.data.name = "tiny_imagenet_superclasses"
    config.data.validation = 500
    config.data.subset = 3000

    config.model.resize = 32
    config.model.width = 16

    config.attack.epsilon = 2 / 255
    config.attack.step_size = 1 / 255
    config.attack.num_steps = 3
    config.attack.warmup_epochs = 3.0

    config.train.epochs = 22
    config.train.schedule.boundaries = (15.0, 19.0)
    config.checkpoint.every_epochs = 2

    config.evaluation.step_size = 0.25 / 255
    config.evaluation.batch_size = 250
    config.evaluation.track.images = 250

    config.findings.ensemble = {**config.findings.ensemble, "model": {"width": 12}}
    config.findings.ensemble.train.epochs = 7
    config.findings.seeds = (0, 1, 2)
    config.findings.looks = (3, 5)
    config.findings.expected_robust = 0.15
    return config
