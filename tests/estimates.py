"""A made-up estimates file for digits: 10 atypical training and 100 atypical test images."""

import numpy as np

from bat_jax.data import load
from bat_jax.runtime.files import write_npz


def write_digits_estimates(path):
    digits = load("digits")
    train, test = digits.train, digits.test
    blocks = {}
    for label in range(10):
        rows = np.flatnonzero(train.labels == label)
        columns = np.flatnonzero(test.labels == label)
        influence = np.zeros((len(rows), len(columns)))
        # The first training example of each class is atypical and influences the first ten images.
        influence[0, :10] = 0.5
        blocks[f"tr_classidx_{label}"] = rows
        blocks[f"tt_classidx_{label}"] = columns
        blocks[f"infl_matrix_class{label}"] = influence
    memorization = np.zeros(len(train))
    memorization[[blocks[f"tr_classidx_{label}"][0] for label in range(10)]] = 0.9
    write_npz(
        path,
        {
            "tr_labels": train.labels,
            "tt_labels": test.labels,
            "tr_ids": train.ids,
            "tt_ids": test.ids,
            "tr_mem": memorization,
            **blocks,
        },
    )
    return path
