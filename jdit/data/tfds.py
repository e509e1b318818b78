# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets without TensorFlow: random access through ArrayRecord files."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jdit.data.base import Record
from jdit.data.images import center_crop, flatten


@dataclass(frozen=True)
class TFDS:
    """A split of a data set that TFDS has prepared as array_record.

    name: a name such as "cifar10" (with `data_dir`, TFDS's default if None), or the
        folder of a prepared version (the one with dataset_info.json).
    split: as in TFDS, e.g. "train", "train[:90%]".
    size: images are cropped and resized by `center_crop`; None keeps them, and needs
        images of one fixed shape.
    image_key, label_key, caption_key: names of features; label and caption may be None.
    download: fetch and prepare what is missing, never from Google's bucket.

    Images keep their channels: 1 or 3, and 4 become 3 on white.

    Raises FileNotFoundError if the data are not there, ValueError for features or a
    split that are not there or do not fit, or (when it is read) a broken example.
    """

    name: str
    split: str = "train"
    size: int | None = None
    image_key: str = "image"
    label_key: str | None = "label"
    caption_key: str | None = None
    data_dir: str | None = None
    download: bool = False

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        if Path(self.name, "dataset_info.json").is_file():
            return tfds.builder_from_directory(self.name)
        try:
            builder = tfds.builder(
                self.name, data_dir=self.data_dir, file_format="array_record"
            )
        except tfds.core.registered.DatasetNotFoundError as error:
            raise FileNotFoundError(
                f"name is {self.name!r}, which is neither a folder with a "
                "dataset_info.json nor a data set that TFDS knows"
            ) from error
        if self.download:
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
        return builder

    @functools.cached_property
    def _features(self) -> Any:
        features = self._builder.info.features
        for key in (self.image_key, self.label_key, self.caption_key):
            if key is not None and key not in features:
                raise ValueError(
                    f"{self.name!r} has no feature {key!r}; it has {sorted(features)}"
                )
        return features

    @property
    def sample_shape(self) -> tuple[int, ...]:
        *shape, channels = self._features[self.image_key].shape
        channels = 1 if channels == 1 else 3
        if self.size is not None:
            return (self.size, self.size, channels)
        if None in shape:
            raise ValueError(
                f"size is None, but images of {self.name!r} have shape {tuple(shape)}; "
                "give the size to crop and resize them to"
            )
        return (*shape, channels)

    @property
    def classes(self) -> tuple[str, ...] | None:
        if self.label_key is None:
            return None
        return tuple(self._features[self.label_key].names)

    def source(self) -> "TFDSSource":
        shape = self.sample_shape
        try:
            data = self._builder.as_data_source(split=self.split)
        except (AssertionError, FileNotFoundError, KeyError, ValueError) as error:
            splits = sorted(self._builder.info.splits)
            if splits:
                raise ValueError(
                    f"split is {self.split!r}, but {self.name!r} has {splits}"
                ) from error
            raise FileNotFoundError(
                f"{self.name!r} is not prepared in {self._builder.data_dir!r}; pass "
                "download=True, or prepare it with file_format='array_record'"
            ) from error
        return TFDSSource(self, data, shape)


class TFDSSource:
    """The examples of a TFDS data source, under this library's names."""

    def __init__(self, dataset: TFDS, data: Any, shape: tuple[int, ...]):
        self.dataset, self.data, self.shape = dataset, data, shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        dataset = self.dataset
        try:
            example = self.data[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"example {index} of {dataset.name!r} cannot be read: {error}"
            ) from error
        x_0 = np.asarray(example[dataset.image_key])
        if x_0.shape[-1] == 4 or (dataset.size and x_0.shape != self.shape):
            image = Image.fromarray(x_0[..., 0] if x_0.shape[-1] == 1 else x_0)
            image = image if x_0.shape[-1] == 1 else flatten(image)
            if dataset.size:
                image = center_crop(image, dataset.size)
            x_0 = np.asarray(image).reshape(self.shape)
        record: Record = {"x_0": x_0}
        if dataset.label_key is not None:
            record["label"] = np.int32(example[dataset.label_key])
        if dataset.caption_key is not None:
            text = example[dataset.caption_key]
            record["caption"] = text.decode() if isinstance(text, bytes) else str(text)
        return record

    def __repr__(self) -> str:
        """The same wherever the files lie."""
        info, dataset = self.dataset._builder.info, self.dataset
        keys = (dataset.image_key, dataset.label_key, dataset.caption_key)
        return (
            f"TFDS({info.full_name}, split={dataset.split!r}, size={dataset.size}, "
            f"keys={keys})[{len(self)}]"
        )
