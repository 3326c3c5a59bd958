"""Reports: figures and one HTML file for a run, for findings, or for several runs side by side.

python -m bat_jax.report RUN [RUN ...]
"""

import json

from bat_jax.report import findings, memorization, single
from bat_jax.report.comparison import compare
from bat_jax.runtime.storage import AnyPath, as_path


def report(folder: str | AnyPath) -> AnyPath:
    """Writes `report.html` and `figures/` into the folder of a finished run of any job.

    Returns:
      Where the page is.

    Raises:
      UserError: it is no run, or not finished.
    """
    folder = as_path(folder)
    try:
        job = json.loads((folder / "config.json").read_bytes())["config"]["job"]
    except (OSError, ValueError, KeyError, TypeError):
        job = "train"  # Whose reader tells what is wrong.
    writers = {"findings": findings.report, "memorization": memorization.report}
    return writers.get(job, single.report)(folder)


__all__ = ["compare", "report"]
