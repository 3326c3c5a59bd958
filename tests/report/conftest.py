"""Two short finished runs on real digits, with made-up estimates."""

import pytest

from bat_jax.jobs import train_and_evaluate
from tests.estimates import write_digits_estimates
from tests.training.conftest import tiny


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folders of a BAT run and of a PGD-AT run."""
    folder = tmp_path_factory.mktemp("reported")
    estimates = str(write_digits_estimates(folder / "memorization.npz"))
    fields = {"memorization.estimates": estimates, "train.epochs": 4}
    for objective in ("bat", "pgd_at"):
        train_and_evaluate(tiny(objective, **fields), folder / objective)
    return folder / "bat", folder / "pgd_at"
