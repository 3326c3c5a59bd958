"""The findings on 1,000 images of ten classes of CIFAR-100, on two cores.

    python launch.py --config=configs/cifar100_findings_cpu.py --dry_run
    python launch.py --config=configs/cifar100_findings_cpu.py

Every tenth class in alphabetical order, 1,000 training images drawn at random, about 100 of each
class, and 500 held out, which choose the best state; all 1,000 test images, with AutoAttack on the
best state of every method. The regime was chosen on held-out training images from pgd_at alone (one
seed, eps 8/255): a small_cnn of width 12 ends at 98.7 % on the training images under PGD-7, and at
27.5 % on 400 held-out images under PGD-20 (clean 53.8 %); width 16 at 99.8 and 28.8 % (clean 56.3
%), in 1.7 times the FLOPs. The rest is as in configs/fashion_mnist_findings_cpu.py, with the
options of BAT that configs/fashion_mnist_bat_search.py chose (`bat_searched`), but without harmful
images: no test images are left to choose them. FAB-T and Square attack a sample of what APGD
leaves. The same command resumes after an interruption. Hardware: two CPU cores. Expected: 138
minutes, 5 for the run of a method and 1 for a removal. With three seeds, the regime misses its
check: pgd_at ends at 94.8 % of its training images under PGD-20 (84.7 to 100), and 95 are asked.
562 of the 1,000 training images are atypical, so a removal halves the training set. Best
state of pgd_at clean 54.7 %, AutoAttack 31.3 %, of bat 53.2 and 32.6 %, of trades 56.9 and 34.8 %,
means of three seeds (docs/results/findings.md).
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist_findings, small_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = small_findings(fashion_mnist_findings())
    config.data.name = "cifar100"
    config.data.classes = tuple(range(0, 100, 10))
    config.data.validation = 500
    config.model.width = 12
    config.evaluation.batch_size = 250
    config.evaluation.track.images = 250
    config.findings.seeds = (0, 1, 2)
    config.findings.looks = (3, 5)
    config.findings.expected_robust = 0.3
    return config
