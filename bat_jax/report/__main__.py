"""Reports on finished runs: `python -m bat_jax.report RUN [RUN ...]`.

One run: `report.html` and `figures/` in its own folder. Several: a comparison of them, in the
folder that --output names. Exit status: 0 done, 2 a wrong input.
"""

import argparse
import logging
import sys

from bat_jax.errors import UserError
from bat_jax.report import compare, report


def main(arguments: list[str] | None = None) -> int:
    """Writes the report and prints where it is."""
    parser = argparse.ArgumentParser("python -m bat_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--output", default="comparison", help="where a comparison goes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        if len(options.runs) == 1:
            path = report(options.runs[0])
        else:
            path = compare(options.runs, options.output)
    except UserError as error:
        print(f"bat_jax.report: {error}", file=sys.stderr)
        return 2
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
