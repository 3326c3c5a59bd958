"""Reports: figures and one HTML file for a run, for findings, or for several runs side by side.

python -m bat_jax.report RUN [RUN ...]
"""

from bat_jax.evaluation.runs import read_about
from bat_jax.report import findings, memorization, single
from bat_jax.report.comparison import compare
from bat_jax.runtime.storage import AnyPath, as_path


def report(folder: str | AnyPath, output: str | AnyPath | None = None) -> AnyPath:
    """Writes `report.html` and `figures/` of a finished run of any job.

    Args:
      folder: of the run.
      output: the folder to write to; by default that of the run.

    Returns:
      Where the page is.

    Raises:
      UserError: it is no run, it is not finished, or one of its files is damaged.
      OSError: a file cannot be read or written for a reason of the system.
    """
    folder = as_path(folder)
    writers = {"findings": findings.report, "memorization": memorization.report}
    write = writers.get(read_about(folder)["config"]["job"], single.report)
    return write(folder, folder if output is None else as_path(output))


__all__ = ["compare", "report"]
