"""Sources and default locations of data sets, and their error messages."""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from bat_jax.errors import UserError

_LOG = logging.getLogger(__name__)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Returns a path with ~ and ~user replaced by home folders."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: begins with ~, but that home folder is unknown; expected an existing path;"
            " write it in full"
        ) from error


def data_folder() -> Path | None:
    """Returns the folder for archives: `$BAT_JAX_DATA`, else ~/.cache/bat_jax/data.

    Without a home folder, as in some containers, the default is None.
    """
    named = os.environ.get("BAT_JAX_DATA")
    if named:
        return expanded(named)
    try:
        return Path("~/.cache/bat_jax/data").expanduser()
    except RuntimeError:
        return None


def data_folder_text(*names: str) -> str:
    """Describes the folder for archives, or a path inside it, for messages."""
    folder = data_folder()
    if folder is None:
        return "/".join(("the folder that BAT_JAX_DATA names (set it: no home folder)", *names))
    return str(folder.joinpath(*names))


@dataclasses.dataclass(frozen=True)
class Official:
    """The archive that the authors of a data set publish.

    Attributes:
      name: the set's name in `bat_jax.data.load`.
      url: the address of the archive.
      size: its size, for messages.
      folder: the folder that it extracts to.
    """

    name: str
    url: str
    size: str
    folder: str

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return self.url.rpartition("/")[2]

    @property
    def again(self) -> str:
        """The remedy for a damaged file."""
        return f"fetch {self.url} again"

    def instruction(self) -> str:
        """Returns the remedy for a missing file."""
        return f"fetch {self.url} ({self.size}) and put it in {data_folder_text()}"

    def find(self, path: Path | None) -> Path | None:
        """Returns the archive or its extracted folder; None if it is not in the default place.

        Args:
          path: the archive, its extracted folder or a folder holding one of them; None looks in
            `data_folder()`.
        """
        if path is not None and path.is_file():
            return path
        place = data_folder() if path is None else path
        if place is None:
            return None
        if (place / self.archive).is_file():
            return place / self.archive
        if (place / self.folder).is_dir():
            return place / self.folder
        return path


def check_labels(
    labels: Integer[np.ndarray, " examples"],
    num_classes: int,
    *,
    where: str,
    remedy: str,
    what: str = "label",
) -> None:
    """Raises a UserError for the first label, called `what`, outside [0, num_classes)."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = outside[0]
        raise UserError(
            f"{where}: example {row} has {what} {labels[row]}; expected 0 to {num_classes - 1};"
            f" {remedy}"
        )


def note_count(where: str, found: int, official: int) -> None:
    """Warns if a set differs in size from the published one, such as an intentional subset.

    Readers raise errors for truncated examples or archives; this covers the other cases.
    """
    if found != official:
        _LOG.warning("%s: %d examples; the published set has %d", where, found, official)
