"""What the tests of trained members share."""

import jax
import pytest


@pytest.fixture
def standard_promotion():
    """Optax's schedules mix integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield
