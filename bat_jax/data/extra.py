"""Extra training images of an .npz file, such as samples of a generative model.

Source of the layout and of the mixing: Gowal et al., Improving Robustness using Generated Data,
arXiv:2110.09468.
"""

import numpy as np
from jaxtyping import Int

from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.mapped import Mapped
from bat_jax.errors import UserError
from bat_jax.runtime.arrays import Expected, read
from bat_jax.runtime.storage import as_path

# Extra images have no place in the source's order.
_NO_ID = -1
_WHAT = "extra training images: `image`, uint8 NHWC, and `label`, class indices"


def load(path: str, dataset: Dataset) -> Split:
    """Returns the extra images of a file, all with the id -1.

    Labels are those of the whole data set. If `dataset` has only some of its classes, images of
    other classes are left out and labels are renumbered.

    Args:
      path: an .npz file with `image`, uint8 `[extra, height, width, channels]`, and `label`,
        integers `[extra]`.
      dataset: the data set that training uses.

    Raises:
      UserError: the file is missing or cannot be read, or an array is not as described.
    """
    classes = dataset.classes
    expected = {
        "image": Expected("uint8", ("extra", *dataset.image_shape)),
        "label": Expected(
            "integers",
            ("extra",),
            low=0,
            high=dataset.num_classes - 1 if classes is None else np.iinfo(np.int32).max,
        ),
    }
    try:
        arrays = read(as_path(path), expected, _WHAT)
        images, labels = arrays["image"], arrays["label"]
        if classes is not None:
            is_one = labels[:, None] == np.asarray(classes)
            kept = is_one.any(axis=1)
            images, labels = images[kept], is_one[kept].argmax(axis=1)
        if not len(labels):
            of = "" if classes is None else " of the classes in config.data.classes"
            raise UserError(f"{path}: holds no images{of}; expected at least one")
    except UserError as error:
        raise UserError(f"config.data.extra {error}") from None
    return Split(images, labels.astype(np.int32), np.full(len(labels), _NO_ID, np.int64))


def joined(images: Split, extra: Split) -> Split:
    """Returns a split with the extra images after the others.

    Raises:
      UserError: the images stay in their file, because they are too large for memory.
    """
    if isinstance(images.images, Mapped):
        raise UserError(
            f"config.data.extra is set, and the {len(images.images)} training images stay in their"
            " file, because they are too large for memory; expected a set that fits, or no extra"
            " images"
        )
    return Split(
        np.concatenate([images.images, extra.images]),
        np.concatenate([images.labels, extra.labels]),
        np.concatenate([images.ids, extra.ids]),
    )


def places(batch_size: int, extra: int) -> Int[np.ndarray, " batch_size"]:
    """Returns, for each position of a batch, the row that goes there; extra rows come last.

    Extra images are spread evenly over the batch, so that devices that share it get equal parts.
    """
    ends = np.arange(1, batch_size + 1) * extra // batch_size
    is_extra = np.diff(ends, prepend=0) == 1
    found = np.empty(batch_size, np.int64)
    found[is_extra] = batch_size - extra + np.arange(extra)
    found[~is_extra] = np.arange(batch_size - extra)
    return found
