"""The arguments of a module's own command, whose errors are one line."""

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser for `python -m NAME`, which exits with one line and status 2 on a wrong argument."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the program."""
        sys.exit(self.failed(f"{message}; --help lists the arguments", 2))

    def failed(self, message: str, status: int) -> int:
        """Prints why the command failed, after the module's name; returns the exit status."""
        name = self.prog.removeprefix("python -m ").split()[0]
        print(f"{name}: {message}", file=sys.stderr)
        return status
