"""The findings on twenty classes of Tiny ImageNet, on two cores.

    python launch.py --config=configs/tiny_imagenet_findings_cpu.py --dry_run \
        --config.data.path=tiny-imagenet-200-subset.zip
    python launch.py --config=configs/tiny_imagenet_findings_cpu.py \
        --config.data.path=tiny-imagenet-200-subset.zip

Every tenth class of a file in the official layout that has the first 50 training and the first 10
validation images of each class: 900 training images, 100 held out, which choose the best state, and
200 test images, with AutoAttack on the best state of every method. With the official zip, the 900
are drawn from 9,900 images, and there are 1,000 test images. The network resizes images to 32x32
pixels; attacks change all 64x64. With so few test images, only differences of several points can be
detected: --dry_run states them. The regime is that of configs/cifar100_findings_cpu.py, to be
checked on the held-out images first. The same command resumes after an interruption. Hardware: two
CPU cores. Expected: not measured.
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist_findings, small_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_findings(fashion_mnist_findings())
    config.data.name = "tiny_imagenet"
    config.data.classes = tuple(range(0, 200, 10))
    config.data.validation = 100
    config.data.subset = 900
    config.model.resize = 32
    config.model.width = 12
    config.evaluation.subset = 0
    config.evaluation.batch_size = 100
    config.evaluation.track.images = 100
    config.findings.expected_robust = 0.2
    return config
