"""Every test looks for data in its own folders and never waits for a network."""

import pytest

from bat_jax.data import fashion_mnist, network


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """The default place for archives, empty; returns it."""
    folder = tmp_path / "data-folder"
    folder.mkdir()
    monkeypatch.setenv("BAT_JAX_DATA", str(folder))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no-such-package")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Makes every URL unreachable at once; returns the lists of requested URLs."""
    asked = []

    def unreachable(urls, *, seconds=8.0):
        asked.append(list(urls))
        return "there is no network" if asked[-1] else None

    monkeypatch.setattr(network, "unreachable", unreachable)
    return asked
