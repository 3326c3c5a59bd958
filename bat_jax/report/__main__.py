"""Reports on finished runs: `python -m bat_jax.report RUN [RUN ...]`.

For one run, writes `report.html` and `figures/` into its folder; for several, a comparison into
`comparison`. --output names another folder. Exit status: 0 done, 1 a file cannot be read or
written, 2 wrong input.
"""

import sys

from bat_jax.report import compare, report
from bat_jax.report.command import finish, output_folder
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.storage import AnyPath


def main(arguments: list[str] | None = None) -> int:
    """Writes the report and prints its path."""
    parser = Parser("python -m bat_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--output", help="the page's folder (default: the run's, or comparison for several runs)"
    )
    options = parser.parse_args(arguments)

    def write() -> AnyPath:
        output = None if options.output is None else output_folder(options.output)
        if len(options.runs) == 1:
            return report(options.runs[0], output)
        return compare(options.runs, output or "comparison")

    return finish(parser, write, options.output or options.runs[0])


if __name__ == "__main__":
    sys.exit(main())
