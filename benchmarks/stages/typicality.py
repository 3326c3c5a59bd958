"""What released memorization says of a training run on CIFAR-100."""

from pathlib import Path

import numpy as np

from bat_jax.evaluation import runs
from bat_jax.memorization import proxies, released
from stages.stage import Values

CSCORES = "cifar100-cscores-orig-order.npz"
PAIRS = "cifar100_high_infl_pairs_infl0.15_mem0.25.npz"


def of_run(run: Path, folder: Path) -> Values:
    """Compares a run's images with the released files that a folder holds.

    Args:
      run: the folder of a finished run.
      folder: of the C-scores and the high-influence pairs, or of one of them.

    Returns:
      The agreement of the mean training loss with 1 - C-score (Spearman, Pearson and cosine, with
      95 % intervals); the accuracies of the best state on atypical test images, which a training
      image has a high released influence on, and on the others. Nothing for an absent file.
    """
    found: Values = {}
    if (folder / CSCORES).exists():
        scores = released.load_cscores(folder / CSCORES)
        loss = proxies.load(run / proxies.FILE)
        agreement = proxies.compare_values(loss.mean_loss, 1 - scores.scores[loss.ids])
        for name in ("rank_correlation", "pearson", "cosine"):
            measured = getattr(agreement, name)
            found |= {f"loss_{name}": measured.value, f"loss_{name}_interval": measured.interval}
        found["loss_n"] = len(agreement.proxy)
    if (folder / PAIRS).exists():
        pairs = released.load_pairs(folder / PAIRS)
        images = runs.read(run).examples
        is_atypical = np.isin(images["ids"], pairs.test)
        found |= {"atypical_n": int(is_atypical.sum()), "other_n": int((~is_atypical).sum())}
        for name in images:
            if name.startswith("best_"):
                right = images[name]
                found[f"atypical_{name}"] = float(right[is_atypical].mean())
                found[f"other_{name}"] = float(right[~is_atypical].mean())
    return found
