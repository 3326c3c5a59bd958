"""Whether harmful images can be chosen, asked before the ensembles that choose them."""

import numpy as np
from ml_collections import ConfigDict

from bat_jax import memorization
from bat_jax.errors import UserError
from bat_jax.findings import removal
from bat_jax.findings.plan import ensemble
from bat_jax.memorization.matching import matched
from bat_jax.training.building import build
from bat_jax.training.experiment import Experiment


def check_harmful(config: ConfigDict, experiment: Experiment) -> None:
    """Raises a UserError if the data show that harmful images cannot be chosen, before any run.

    Args:
      config: of the findings.
      experiment: one of their runs.
    """
    settings = config.findings
    if not settings.harmful:
        return
    if settings.robust_estimates is None:
        scored = build(ensemble(config, section="robust_ensemble")).dataset.test.ids
    else:
        estimates = matched(memorization.load(settings.robust_estimates), experiment.dataset)
        removal.check(estimates)
        scored = estimates.test_ids
    if not len(np.setdiff1d(scored, experiment.test_images().ids)):
        raise UserError(
            f"config.evaluation.subset is {config.evaluation.subset}, which tests on all of the"
            f" {len(scored)} test images with an influence; expected fewer with"
            " config.findings.harmful: the others choose the harmful images"
        )
