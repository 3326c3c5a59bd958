"""Runs the command in this process and returns what it prints."""

import contextlib
import gc
import io
import logging
from pathlib import Path
from typing import NamedTuple

from bat_jax import cli

CONFIGS = Path(__file__).parents[1] / "configs"


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def launch(*arguments):
    """Returns the status and the output of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        # Garbage of earlier tests, such as asyncio's tasks, would report errors to this stderr.
        stack.callback(gc.enable)
        gc.disable()
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        # A new process has no handlers; those here may write to streams that earlier tests closed.
        stack.callback(setattr, logging.root, "handlers", logging.root.handlers)
        logging.root.handlers = []
        status = cli.main([str(argument) for argument in arguments], program="launch.py")
    return Ended(status, out.getvalue(), err.getvalue())


def refused(*arguments):
    """Returns the one line of a wrong input."""
    ended = launch(*arguments)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    *before, last = ended.stderr.splitlines()
    assert not [line for line in before if line.startswith(("launch.py: ", "Traceback"))]
    assert last.startswith("launch.py: ")
    return last.removeprefix("launch.py: ")
