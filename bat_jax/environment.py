"""Checks the environment before the program starts: packages and JAX's variables.

Nothing here imports JAX before its environment variables are checked.
"""

import os
import select
import sys

from bat_jax.errors import UserError

# Packages whose pip name differs from the module name.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


def missing(error: ModuleNotFoundError) -> UserError:
    """Returns the error for a package that is not installed, with the command to install it.

    Raises:
      ModuleNotFoundError: the module belongs to this package, so the program is at fault.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", "bat_jax"):
        raise error
    return UserError(
        f"{package} is not installed; pip install {_DISTRIBUTIONS.get(package, package)}"
    )


def has_lost_reader() -> bool:
    """Returns whether the reader of the output, such as `head`, has exited.

    Then nothing more is written to it: Python's exit would fail to.
    """
    try:
        output = sys.stdout.fileno()
    except OSError:  # It is not a file, as in a notebook.
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def check() -> None:
    """Imports JAX, which reads its environment variables.

    Raises:
      UserError: JAX is not installed, or rejects a variable.
    """
    count = os.environ.get("JAX_NUM_CPU_DEVICES")
    if count is not None and not (count.isdecimal() and int(count) > 0):
        raise UserError(
            f"JAX_NUM_CPU_DEVICES is {count!r}; expected the number of CPU devices, at least 1:"
            " correct it, or unset it"
        )
    try:
        import jax  # noqa: F401 (its import reads and checks the variables)
    except ModuleNotFoundError as error:
        raise missing(error) from error
    except ValueError as error:
        raise UserError(
            f"JAX rejects an environment variable ({error}); correct it, or unset it"
        ) from error
