"""The arguments of a module's own command, whose errors are one line."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from bat_jax import environment
from bat_jax.errors import UserError, in_short, is_out_of_memory


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

    def outcome(
        self,
        work: Callable[[], object],
        about: object,
        *,
        failures: tuple[type[Exception], ...] = (),
        advice: Callable[[OSError], str] = lambda error: "",
    ) -> int:
        """Runs the work of the command, and describes its errors in one line.

        Args:
          work: what the command does.
          about: what an error of the system is about, unless it names a file.
          failures: further errors that mean that a file cannot be read or written.
          advice: what to do about an error of the system, after a semicolon.

        Returns:
          The exit status: 0 done, 1 a file cannot be read or written or memory runs out, 2 a wrong
          input, 130 stopped by Ctrl-C.
        """
        try:
            work()
            sys.stdout.flush()
        except UserError as error:
            return self.failed(str(error), 2)
        except failures as error:
            return self.failed(str(error), 1)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and environment.has_lost_reader():
                return 1
            reason = f"{error.filename or about}: {error.strerror or error}"
            return self.failed(f"{reason}{advice(error)}", 1)
        except KeyboardInterrupt:
            return self.failed("stopped; run the same command again", 128 + signal.SIGINT)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            remedy = "end other programs on the device, or use one with more memory"
            return self.failed(f"out of memory ({in_short(error)}); {remedy}", 1)
        return 0
