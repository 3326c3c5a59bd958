"""Tiny ImageNet for TensorFlow Datasets, prepared and read without TensorFlow.

Importing this module registers the builder. With tiny-imagenet-200.zip or the folder extracted from
it in `manual_dir`:

    import tensorflow_datasets as tfds
    import bat_jax.data.tiny_imagenet_builder

    builder = tfds.builder("tiny_imagenet", file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="/where/the/zip/is")
    )
    train = tfds.data_source("tiny_imagenet", split="train")
    train[0]["image"], train[0]["label"], train[0]["id"]

`bat_jax.data.load("tfds:tiny_imagenet")` does all of this and returns the same images, labels and
ids as `load("tiny_imagenet")`, under a name of its own and without the names of the class folders.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from bat_jax.data import tiny_imagenet
from bat_jax.data.dataset import Split


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """The images, labels and ids of `bat_jax.data.tiny_imagenet.read` as TFDS splits.

    Images are written as PNG, which is lossless: Pillow, OpenCV and TensorFlow decode the same
    pixels, unlike from the JPEGs of the source.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Fetch {tiny_imagenet.OFFICIAL.url} and put it there."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tiny ImageNet: 200 classes, 500 training and 50 validation images each.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(np.int64),
                    "image": tfds.features.Image(shape=tiny_imagenet.SHAPE, encoding_format="png"),
                    "label": tfds.features.ClassLabel(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        dataset = tiny_imagenet.read(Path(dl_manager.manual_dir))
        self.info.features["label"].names = list(dataset.class_names)
        return {
            "train": self._generate_examples(dataset.train),
            "validation": self._generate_examples(dataset.test),
        }

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for image, label, number in zip(
            np.asarray(split.images), split.labels, split.ids, strict=True
        ):
            png = io.BytesIO()
            # Higher levels cost time and hardly shrink photographs of this size.
            Image.fromarray(image).save(png, format="PNG", compress_level=1)
            yield (
                int(number),
                {"id": number, "image": png.getvalue(), "label": int(label)},
            )
