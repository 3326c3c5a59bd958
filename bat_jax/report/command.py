"""What the commands that write a page have in common."""

import errno
import logging
import sys
from collections.abc import Callable

from bat_jax.errors import UserError
from bat_jax.runtime.parser import Parser
from bat_jax.runtime.quiet import quiet
from bat_jax.runtime.storage import AnyPath, as_path
from bat_jax.training.trouble import CheckpointError

# Errors of writing a page.
_OF_WRITING = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT),
    *(errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG),
)


def finish(
    parser: Parser, write: Callable[[], AnyPath], output: str, *, what: str = "report"
) -> int:
    """Writes a page and prints its path.

    Args:
      parser: of the command, which names it in errors.
      write: writes the page, and returns its path.
      output: what an error of the system is about, unless it names a file.
      what: the name of the page in front of its path.

    Returns:
      The exit status: 0 done, 1 a file cannot be read or written or memory runs out, 2 a wrong
      input, 130 stopped by Ctrl-C.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)

    def work() -> None:
        with quiet():
            path = write()
        print(f"{what}: {path}")

    def advice(error: OSError) -> str:
        return "; name another folder with --output" if error.errno in _OF_WRITING else ""

    return parser.outcome(work, output, failures=(CheckpointError,), advice=advice)


def output_folder(output: str | AnyPath) -> AnyPath:
    """Returns the folder of a page.

    Raises:
      UserError: it has no name.
    """
    if str(output) == "":
        raise UserError("--output is empty; expected a folder")
    return as_path(output)
