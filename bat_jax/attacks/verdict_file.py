"""A file with the state of a long evaluation, written after every batch and resumable."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.lib.format import open_memmap

from bat_jax.attacks.classifier import HostImages
from bat_jax.errors import UserError
from bat_jax.runtime import arrays
from bat_jax.runtime.files import write_npz, written_whole
from bat_jax.runtime.storage import AnyPath, as_path, is_remote


class Layout(NamedTuple):
    """The expected form of an array in a file.

    Attributes:
      like: an array of its type and shape.
      limits: the range of its values; None for any.
      is_optional: whether the file may lack it.
    """

    like: np.ndarray
    limits: tuple[float, float] | None = None
    is_optional: bool = False


@runtime_checkable
class Savable(Protocol):
    """The state of an evaluation between two batches.

    Attributes:
      clean_logits: the logits of all clean images; a file with others belongs to another model.
      adversarial: the adversarial images, kept beside the file; None if not kept.
    """

    clean_logits: Float[np.ndarray, "images classes"]
    adversarial: HostImages | None

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what the file holds of the state."""

    def layout(self) -> dict[str, Layout]:
        """Returns the expected form of the arrays, by name."""

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continues from arrays of the expected form.

        Raises:
          ValueError: they contradict each other.
        """


class VerdictFile:
    """A file of verdicts, written atomically after every batch.

    The file also stores the settings and the clean logits, to detect another evaluation or another
    model when resuming. Adversarial images, if kept, are in `<name>.adversarial.npy` beside it,
    whose rows are written before their verdicts.

    Args:
      path: the .npz file.
      settings: everything that the verdicts depend on besides the model.
    """

    def __init__(self, path: AnyPath, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = dict(settings)
        self._images_path = path.with_name(f"{path.stem}.adversarial.npy")

    def resume(self, state: Savable, images: HostImages) -> None:
        """Resumes from an existing file, or prepares a new one.

        Raises:
          UserError: the file is of another evaluation or another model, or is not a verdict file;
            or images would be kept in a bucket.
        """
        keeps_images = state.adversarial is not None
        if keeps_images and is_remote(self._path):
            raise UserError(
                f"{self._path}: adversarial images are kept on a disk only; name a path on one, or"
                " give keep_adversarial=False"
            )
        is_new = not self._path.exists()
        if is_new:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if keeps_images:
                with written_whole(self._images_path) as file:
                    np.save(file, images, allow_pickle=False)
        else:
            self._read(state)
        if keeps_images:
            state.adversarial = self._open_images(images)

    def write(self, state: Savable) -> None:
        """Writes the state."""
        if isinstance(state.adversarial, np.memmap):
            state.adversarial.flush()
        settings = np.array(json.dumps(self._settings))
        content = {"settings": settings, "clean_logits": state.clean_logits, **state.arrays()}
        write_npz(self._path, content)

    def _read(self, state: Savable) -> None:
        saved = _arrays(self._path)
        settings = _settings(self._path, saved)
        different = [
            name
            for name in {**self._settings, **settings}
            if self._settings.get(name) != settings.get(name)
        ]
        if different:
            name = different[0]
            raise UserError(
                f"{self._path}: holds another evaluation ({', '.join(different)} differ; {name} was"
                f" {settings.get(name)} and is {self._settings.get(name)}): name another path, or"
                " remove the file to begin again"
            )
        expected = state.clean_logits
        self._check(saved, {"clean_logits": Layout(expected), **state.layout()})
        clean_logits = saved["clean_logits"]
        scale = max(1.0, float(np.max(np.abs(np.nan_to_num(clean_logits)))))
        if not np.allclose(clean_logits, expected, 0, 1e-3 * scale, equal_nan=True):
            raise UserError(
                f"{self._path}: holds verdicts of another model, for its clean logits differ: name"
                " another path, or remove the file to begin again"
            )
        try:
            state.restore(saved)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _check(self, saved: Mapping[str, np.ndarray], layout: Mapping[str, Layout]) -> None:
        """Rejects arrays that an evaluation of these images cannot have written."""
        for name, (like, limits, is_optional) in layout.items():
            array = saved.get(name)
            if array is None:
                if is_optional:
                    continue
                raise self._damaged(f"{name} is missing")
            if array.shape != like.shape or array.dtype != like.dtype:
                raise self._damaged(
                    f"{name} is {array.dtype} of shape {array.shape}; expected {like.dtype} of"
                    f" shape {like.shape}"
                )
            if limits is not None and not np.all((array >= limits[0]) & (array <= limits[1])):
                raise self._damaged(
                    f"{name} holds {array.min()} to {array.max()}; expected {limits[0]} to"
                    f" {limits[1]}"
                )

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self._path}: {what}: name another path, or remove the file to begin again"
        )

    def _open_images(self, images: HostImages) -> HostImages:
        try:
            kept = open_memmap(self._images_path, mode="r+")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._images_path}: cannot be read; expected the adversarial images that belong"
                f" to {self._path}: remove both to begin again"
            ) from error
        if kept.shape != images.shape or kept.dtype != images.dtype:
            raise UserError(
                f"{self._images_path}: {kept.dtype} of shape {kept.shape}; expected"
                f" {images.dtype} of shape {images.shape}: remove both files to begin again"
            )
        return kept


def batch_size_of(path: str | os.PathLike[str] | None) -> int | None:
    """Returns the batch size of the evaluation that a file holds, None if there is no file.

    Raises:
      UserError: the file is not a verdict file.
    """
    if path is None or not as_path(path).exists():
        return None
    file = as_path(path)
    found = _settings(file, _arrays(file)).get("batch_size")
    return found if isinstance(found, int) and found > 0 else None


def _arrays(path: AnyPath) -> Mapping[str, np.ndarray]:
    with arrays.opened(path, "a file of AutoAttack verdicts") as archive:
        return archive.read_all()


def _settings(path: AnyPath, saved: Mapping[str, np.ndarray]) -> dict[str, Any]:
    try:
        settings = json.loads(str(saved["settings"]))
    except (KeyError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"{path}: not a file of AutoAttack verdicts; expected one to resume, or no file: name"
            " another path"
        )
    return settings


def digest(*arrays: np.ndarray) -> str:
    """Returns a content hash of arrays."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]
