"""The config pages that come with this package, found by name.

They are the files of `configs/`, which lies beside `bat_jax` in a checkout and is installed inside
it as `bat_jax.configs`.
"""

import difflib
from pathlib import Path

from bat_jax.errors import UserError


def folder() -> Path:
    """Returns the folder of the pages."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Returns the names of all pages, sorted."""
    return sorted(page.stem for page in folder().glob("[!_]*.py"))


def find(name: str) -> Path:
    """Returns the file of the page of that name, such as `digits_bat`.

    Raises:
      UserError: the page does not exist.
    """
    known = names()
    if name in known:
        return folder() / f"{name}.py"
    near = difflib.get_close_matches(Path(name).stem, known, n=3)
    raise UserError(
        f"--config: no file and no page {name!r}; expected the path of a config file or a page's"
        f" name: {', '.join(near or known)}"
    )
