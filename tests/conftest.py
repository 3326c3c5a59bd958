"""Eight CPU devices, strict promotion, and run-time checks of every annotated shape."""

import gc
import os
from pathlib import Path

# Tracing makes many objects that stay. Python looks through them often, a twentieth of the time.
gc.set_threshold(50_000, 20, 20)

# Tests and the processes they start share what they compile, and so does the next run of the suite.
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# The command sets its own flags if there are none, which a running process ignores:
# runs in this process and in others are compared bit by bit.
os.environ.setdefault("XLA_FLAGS", "")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

# Not bat_jax.training.state and bat_jax.memorization.history: JAX rebuilds the train state with the
# leaves of a transformation, which may be shapes or NumPy arrays. Not bat_jax.data.dataset, which
# checks users' arrays itself and has its own messages.
install_import_hook(
    [
        "bat_jax.attacks",
        "bat_jax.data.cifar",
        "bat_jax.data.device",
        "bat_jax.data.fashion_mnist",
        "bat_jax.data.images",
        "bat_jax.data.tiny_imagenet",
        "bat_jax.runtime.distributed",
        "bat_jax.evaluation",
        "bat_jax.findings",
        "bat_jax.keys",
        "bat_jax.losses",
        "bat_jax.kernels",
        "bat_jax.memorization.aggregates",
        "bat_jax.memorization.agreement",
        "bat_jax.memorization.estimates",
        "bat_jax.memorization.estimator",
        "bat_jax.memorization.matching",
        "bat_jax.memorization.proxies",
        "bat_jax.memorization.ranking",
        "bat_jax.memorization.released",
        "bat_jax.memorization.store",
        "bat_jax.memorization.typicality",
        "bat_jax.models",
        "bat_jax.report",
        "bat_jax.evaluation.runs",
        "bat_jax.methods",
        "bat_jax.training.step",
    ],
    "beartype.beartype",
)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _promotion_stays_strict():
    """Restores strict promotion, which programs within a test may relax."""
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the charts of pages empty, because drawing them takes longer than a tiny run."""
    monkeypatch.setattr("bat_jax.report.page.render", lambda chart: _empty())


def sketched(chart):
    """Draws a chart as `bat_jax.report.style.render` does, but writes no pictures."""
    from bat_jax.report.drawing import Figure

    chart.draw(Figure())
    return _empty()


def _empty():
    from bat_jax.report.style import Drawn

    return Drawn(b"<svg/>", b"<svg/>", b"", frozenset())


# Files whose tests share runs or compiled steps, and are tested by one worker.
_TOGETHER = {
    "report": (
        *("report/test_report.py", "report/test_transfer.py", "report/test_curve.py"),
        *("report/test_union.py", "report/test_pictures.py"),
    ),
    "steps": (
        "training/test_step.py",
        "methods/test_methods.py",
        "training/test_history.py",
        "training/test_recipe.py",
        "training/test_accumulation.py",
        "methods/test_awp.py",
        "methods/test_grad_align.py",
        "methods/test_temporal_ensembling.py",
        "data/test_augment.py",
    ),
}

# Tests of what stands on the core: `make test` leaves them to `make test-more`.
_MORE = (
    "attacks/test_autoattack_resume.py",
    "attacks/test_autoattack_sample.py",
    "attacks/test_autoattack_search.py",
    "attacks/test_autoattack_warnings.py",
    "attacks/test_bracketing.py",
    "attacks/test_chosen.py",
    "attacks/test_fast.py",
    "attacks/test_l1.py",
    "attacks/test_plus.py",
    "attacks/test_radii.py",
    "attacks/test_rand.py",
    "attacks/test_union.py",
    "data/test_corruptions.py",
    "data/test_extra.py",
    "findings",
    "interop",
    "jobs/test_evaluate_weights.py",
    "jobs/test_robust_memorization.py",
    "memorization/test_proxies.py",
    "methods/test_awp.py",
    "methods/test_grad_align.py",
    "methods/test_temporal_ensembling.py",
    "report",
    "test_docs.py",
    "test_examples.py",
    "training/test_collapse.py",
    "training/test_cost.py",
    "training/test_large_images.py",
    "training/test_recipe.py",
)


def pytest_collection_modifyitems(items):
    """Marks the tests of `_MORE`."""
    folder = Path(__file__).parent
    more = [folder / name for name in _MORE]
    for item in items:
        if any(item.path.is_relative_to(path) for path in more):
            item.add_marker("more")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Returns the scheduler of `--dist loadfile`, which keeps these files together too."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            groups = [name for name, files in _TOGETHER.items() if file.endswith(files)]
            return groups[0] if groups else file

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None
