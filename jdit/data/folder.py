# SPDX-License-Identifier: Apache-2.0
"""A folder of images: a class for each subfolder, or a caption beside each image."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jdit.data.base import Record, checksum
from jdit.data.images import center_crop, flatten

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class ImageFolder:
    """PNG, JPEG and WebP images under a folder, in one of three layouts.

        cat/001.png  dog/a/7.jpg     the first subfolder is the class; names sorted
        x/1.png  x/1.txt             every image has its caption beside it (UTF-8)
        1.png  2.png                 neither: images alone

    Every image is turned as its EXIF says, put on white where it is transparent, made
    RGB, and cropped and resized by `center_crop`. Hidden files are skipped; the order
    is that of the relative paths.

    Raises FileNotFoundError for a missing folder; ValueError for one without images, a
    mixture of layouts, or (when it is read) an image that cannot be decoded.
    """

    path: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}, but it must be at least 1")

    @functools.cached_property
    def _files(self) -> tuple[Path, ...]:
        root = Path(self.path)
        if not root.is_dir():
            raise FileNotFoundError(
                f"path is {self.path!r}, but there is no such folder"
            )
        files = [
            file.relative_to(root)
            for file in root.rglob("*")
            if file.suffix.lower() in _SUFFIXES and file.is_file()
        ]
        visible = [f for f in files if not any(p.startswith(".") for p in f.parts)]
        if not visible:
            raise ValueError(
                f"path {self.path!r} has no images; looked for "
                f"{', '.join(sorted(_SUFFIXES))} in it and its subfolders"
            )
        return tuple(sorted(visible, key=lambda file: file.parts))

    @functools.cached_property
    def _captions(self) -> tuple[str, ...] | None:
        texts = [Path(self.path, file).with_suffix(".txt") for file in self._files]
        there = [text.is_file() for text in texts]
        if not any(there):
            return None
        if not all(there):
            missing = texts[there.index(False)].name
            raise ValueError(
                f"path {self.path!r} has {sum(there)} captions for {len(there)} "
                f"images, but each image needs one; {missing!r} is missing"
            )
        return tuple(text.read_text(encoding="utf-8").strip() for text in texts)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    @property
    def classes(self) -> tuple[str, ...] | None:
        depths = {len(file.parts) > 1 for file in self._files}
        if self._captions is not None or depths == {False}:
            return None
        if depths == {True, False}:
            loose = next(file for file in self._files if len(file.parts) == 1)
            raise ValueError(
                f"path {self.path!r} mixes images in subfolders (classes) with images "
                f"outside of them, such as {str(loose)!r}"
            )
        return tuple(sorted({file.parts[0] for file in self._files}))

    def source(self) -> "ImageFiles":
        columns: dict[str, Any] = {}
        if self._captions is not None:
            columns["caption"] = self._captions
        if (classes := self.classes) is not None:
            number = {name: i for i, name in enumerate(classes)}
            columns["label"] = [np.int32(number[file.parts[0]]) for file in self._files]
        return ImageFiles(Path(self.path), self._files, columns, self.size)


class ImageFiles:
    """Image files with their conditions; decoded when read."""

    def __init__(
        self, root: Path, files: tuple[Path, ...], columns: dict[str, Any], size: int
    ):
        self.root, self.files, self.columns, self.size = root, files, columns, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.root / self.files[index]
        try:
            with Image.open(path) as file:
                image = flatten(ImageOps.exif_transpose(file))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"image {str(path)!r} cannot be read: {error}") from error
        conditions = {key: column[index] for key, column in self.columns.items()}
        return {"x_0": np.asarray(center_crop(image, self.size)), **conditions}

    def __repr__(self) -> str:
        """The same wherever the folder lies."""
        names = [file.as_posix() for file in self.files]
        marks = "".join(
            f", {key}#{checksum(list(map(str, column))):08x}"
            for key, column in self.columns.items()
        )
        return (
            f"ImageFolder(size={self.size})[{len(self)} images#{checksum(names):08x}"
            f"{marks}]"
        )
