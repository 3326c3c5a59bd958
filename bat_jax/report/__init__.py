"""Reports: figures and one HTML file for a run, or for several side by side.

python -m bat_jax.report RUN [RUN ...]
"""

from bat_jax.report.comparison import compare
from bat_jax.report.single import report

__all__ = ["compare", "report"]
