"""Reports on finished runs: `python -m bat_jax.report RUN [RUN ...]`.

For one run, writes `report.html` and `figures/` into its folder; for several, a comparison into
`comparison`. --output names another folder. Exit status: 0 done, 1 a file cannot be read or
written, 2 wrong input.
"""

import errno
import logging
import sys

from bat_jax.errors import UserError
from bat_jax.report import compare, report
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.quiet import quiet


def main(arguments: list[str] | None = None) -> int:
    """Writes the report and prints its path."""
    parser = Parser("python -m bat_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--output", help="the page's folder (default: the run's, or comparison for several runs)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    try:
        if options.output == "":
            raise UserError("--output is empty; expected a folder")
        with quiet():
            if len(options.runs) == 1:
                path = report(options.runs[0], options.output)
            else:
                path = compare(options.runs, options.output or "comparison")
    except UserError as error:
        return parser.failed(str(error), 2)
    except OSError as error:
        what = f"{error.filename or options.output or options.runs[0]}: {error.strerror or error}"
        return parser.failed(f"{what}{_advice(error)}", 1)
    print(f"report: {path}")
    return 0


def _advice(error: OSError) -> str:
    """Returns advice if the page could not be written."""
    written = (
        *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT),
        *(errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG),
    )
    return "; name another folder with --output" if error.errno in written else ""


if __name__ == "__main__":
    sys.exit(main())
