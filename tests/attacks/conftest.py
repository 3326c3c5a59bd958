"""Attacks on one device, unless a test names others."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _one_device():
    """Hides all devices but one, because a step on eight costs as much as several on one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield
