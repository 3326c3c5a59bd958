"""Results of other commands that a run's folder holds."""

from bat_jax.runtime.storage import AnyPath


def paths(folder: AnyPath, name: str) -> list[AnyPath]:
    """Returns the files of a name in a run's folder, in its subfolders and in its evaluations'."""
    patterns = (name, f"*/{name}", f"evaluation*/*/{name}")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def source(folder: AnyPath, path: AnyPath) -> str:
    """Returns a sentence that names the file of a section."""
    return f"From {path.relative_to(folder)} in the run's folder."
