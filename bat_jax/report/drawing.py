"""The parts of Matplotlib that figures use, imported regardless of MPLBACKEND.

Notebooks export MPLBACKEND. Matplotlib cannot be imported if that back end is not installed, but
figures are saved here without a back end.
"""

import os

_BACKEND = os.environ.pop("MPLBACKEND", None)

# E402: these come after the variable is out of the environment, which they read.
import matplotlib  # noqa: E402
from matplotlib import font_manager  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.registry import backend_registry  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

if _BACKEND is not None:
    os.environ["MPLBACKEND"] = _BACKEND
    # The user's own figures keep their back end.
    if backend_registry.is_valid_backend(_BACKEND):
        matplotlib.rcParams["backend"] = _BACKEND

__all__ = [
    "Axes",
    "Figure",
    "LogNorm",
    "NullFormatter",
    "Text",
    "font_manager",
    "matplotlib",
]
