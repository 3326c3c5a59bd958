"""The verdicts of a long evaluation, saved after every batch and resumable."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from bat_jax.attacks.classifier import HostImages
from bat_jax.errors import UserError
from bat_jax.runtime import arrays
from bat_jax.runtime.files import write_npz, written_whole
from bat_jax.runtime.storage import AnyPath, is_remote

# Values of `Verdicts.broken_by` other than attack numbers.
STANDING = -1
CLEAN_ERROR = -2


class Verdicts:
    """The verdicts on all images so far.

    Attributes:
      broken_by: the number of the attack that broke the image, `CLEAN_ERROR` or `STANDING`.
      is_nan: whether its logits were NaN, clean or attacked.
      flat: per attack, whether a gradient was zero.
      seconds: per attack, the wall time so far.
      adversarial: x', or x for robust images; None if not kept.
      attack: the number of the current attack.
      batches: how many batches of the current attack are done.
      drawn: how many images of a random sample the current and all following attacks were run on,
        beyond those batches.
    """

    def __init__(
        self,
        clean_logits: Float[np.ndarray, "images classes"],
        is_correct: Bool[np.ndarray, " images"],
        num_attacks: int,
        adversarial: HostImages | None,
    ) -> None:
        self._clean_logits = clean_logits
        self.broken_by = np.where(is_correct, STANDING, CLEAN_ERROR).astype(np.int8)
        self.is_nan = np.isnan(clean_logits).any(axis=1)
        self.flat = np.zeros((num_attacks, len(is_correct)), bool)
        self.seconds = np.zeros(num_attacks)
        self.adversarial = adversarial
        self.attack = 0
        self.batches = 0
        self.drawn = 0

    def left_for(self, attack: int) -> Int[np.ndarray, " rows"]:
        """Returns the images that were not broken when an attack began."""
        return np.flatnonzero((self.broken_by == STANDING) | (self.broken_by >= attack))


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

    def resume(self, verdicts: Verdicts, images: HostImages) -> None:
        """Resumes from an existing file, or prepares a new one.

        Raises:
          UserError: the file is of another evaluation or another model, or is not a verdict file;
            or images would be kept in a bucket.
        """
        keeps_images = verdicts.adversarial is not None
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
            self._read(verdicts)
        if keeps_images:
            verdicts.adversarial = self._open_images(images)

    def write(self, verdicts: Verdicts) -> None:
        """Writes all verdicts so far."""
        if isinstance(verdicts.adversarial, np.memmap):
            verdicts.adversarial.flush()
        content = {
            "settings": np.array(json.dumps(self._settings)),
            "clean_logits": verdicts._clean_logits,
            "broken_by": verdicts.broken_by,
            "is_nan": verdicts.is_nan,
            "flat": verdicts.flat,
            "seconds": verdicts.seconds,
            "progress": np.array([verdicts.attack, verdicts.batches]),
        }
        if verdicts.drawn:
            content["drawn"] = np.array(verdicts.drawn)
        write_npz(self._path, content)

    def _read(self, verdicts: Verdicts) -> None:
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
        self._check(saved, verdicts)
        clean_logits, expected = saved["clean_logits"], verdicts._clean_logits
        scale = max(1.0, float(np.max(np.abs(np.nan_to_num(clean_logits)))))
        if not np.allclose(clean_logits, expected, 0, 1e-3 * scale, equal_nan=True):
            raise UserError(
                f"{self._path}: holds verdicts of another model, for its clean logits differ: name"
                " another path, or remove the file to begin again"
            )
        verdicts.broken_by, verdicts.is_nan = saved["broken_by"], saved["is_nan"]
        verdicts.flat = saved["flat"]
        # Files of earlier versions lack it.
        verdicts.seconds = saved.get("seconds", verdicts.seconds)
        verdicts.attack, verdicts.batches = (int(number) for number in saved["progress"])
        verdicts.drawn = int(saved.get("drawn", 0))
        population = len(verdicts.left_for(verdicts.attack))
        if verdicts.drawn > population:
            raise self._damaged(f"drawn is {verdicts.drawn}; expected at most {population}")

    def _check(self, saved: Mapping[str, np.ndarray], verdicts: Verdicts) -> None:
        """Rejects arrays that an evaluation of these images cannot have written."""
        num_attacks = len(verdicts.flat)
        # By name: an array of the expected type and shape, and the range of its values.
        layout: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {
            "clean_logits": (verdicts._clean_logits, None),
            "broken_by": (verdicts.broken_by, (CLEAN_ERROR, num_attacks - 1)),
            "is_nan": (verdicts.is_nan, None),
            "flat": (verdicts.flat, None),
            "progress": (np.zeros(2, np.int64), (0, max(num_attacks, len(verdicts.is_nan)))),
        }
        if "seconds" in saved:
            layout["seconds"] = (verdicts.seconds, (0, np.finfo(np.float64).max))
        if "drawn" in saved:
            layout["drawn"] = (np.zeros((), np.int64), (1, len(verdicts.is_nan)))
        for name, (like, limits) in layout.items():
            array = saved.get(name)
            if array is None:
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


def batch_size_of(path: AnyPath) -> int | None:
    """Returns the batch size of the evaluation that a file holds, None if there is no file.

    Raises:
      UserError: the file is not a verdict file.
    """
    if not path.exists():
        return None
    found = _settings(path, _arrays(path)).get("batch_size")
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
