"""A search among the options of BAT on Fashion-MNIST, on held-out images alone.

    python launch.py --config=configs/fashion_mnist_bat_search.py --dry_run
    python launch.py --config=configs/fashion_mnist_bat_search.py

The setting of configs/fashion_mnist_findings.py. `data.tested` puts 2,000 held-out training images
in place of the test set, which the search never reads; 1,000 others choose `best`. Nine options
vary at once in 24 variants (docs/findings.md, "A search among the options of BAT"); the rule there
names the winner, which is to be confirmed with new seeds, on the test sets of other data sets. The
same command resumes after an interruption. Hardware: two CPU cores. Measured: 63 minutes.

`weight_only` and `discrimination_only` stand beside the design, because at `alpha` 0 or `beta_dl` 0
other options have no effect. Left out are `gate` all, with which at most two test images changed,
and the similarity `dot`: at these temperatures its gradient is up to 200 times that of `cosine`,
and the loss became NaN at the fourth step (docs/method.md, section 5).
"""

from ml_collections import ConfigDict

from bat_jax.settings import fashion_mnist_findings


def get_config() -> ConfigDict:
    """Returns the config."""
    config = fashion_mnist_findings()
    config.data.tested = 2000
    config.evaluation.subset = 0
    config.evaluation.attacks = ()
    config.evaluation.track.images = 200

    config.findings.seeds = (100, 101)  # Other findings confirm the winner with seeds from 0.
    config.findings.methods = ("pgd_at", "bat")
    config.findings.tracked = ("pgd_at",)
    config.findings.removed = ()
    config.findings.autoattack = ()
    config.findings.variants = ConfigDict(
        {"weight_only": {"beta_dl": 0.0}, "discrimination_only": {"alpha": 0.0}}
    )
    config.findings.factors = ConfigDict(
        {
            "gate": ("misclassified", "memorized"),
            "confidence": ("adversarial", "clean"),
            "alpha": (1.0, 4.0),
            "normalize": ("sum", "none"),
            # The end of the warm-up of epsilon, in place of the first decay of the learning rate.
            "start_epoch": (40.0, 10.0),
            "beta_dl": (0.2, 1.0),
            "temperature": (0.1, 0.5),
            "denominator": ("all", "negatives"),
            "pooling": ("sum", "mean"),
        }
    )
    return config
