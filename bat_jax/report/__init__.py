"""Writes reports: figures and one HTML file for a run, for findings or for a comparison of runs.

python -m bat_jax.report RUN [RUN ...]
"""

from bat_jax.evaluation.runs import read_about
from bat_jax.report import findings, memorization, single
from bat_jax.report.comparison import compare
from bat_jax.runtime.storage import AnyPath, as_path


def report(folder: str | AnyPath, output: str | AnyPath | None = None) -> AnyPath:
    """Writes `report.html` and `figures/` for a finished run of any job.

    Args:
      folder: the run's folder.
      output: the folder to write to; by default the run's own.

    Returns:
      The path of the page.

    Raises:
      UserError: the folder holds no finished run, or one of its files is damaged.
      OSError: a system error prevented reading or writing a file.
    """
    folder = as_path(folder)
    writers = {"findings": findings.report, "memorization": memorization.report}
    write = writers.get(read_about(folder)["config"]["job"], single.report)
    return write(folder, folder if output is None else as_path(output))


__all__ = ["compare", "report"]
