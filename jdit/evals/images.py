# SPDX-License-Identifier: Apache-2.0
"""Images that were saved before, as bytes, in a stream that starts anywhere."""

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jdit.data import to_uint8
from jdit.evals.adm import npz_images, npz_shape
from jdit.evals.statistics import Statistics
from jdit.interop.download import file_hash
from jdit.interop.torch_fidelity import load_moments

RECORDS = (".array_record", ".arrayrecord")


class Stored(Protocol):
    """Images, or videos, of one size, in a fixed order."""

    @property
    def count(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, channels; of videos the frames before."""
        ...

    def hash(self) -> str:
        """The SHA-256 of what is stored."""
        ...

    def stream(
        self, start: int, batch: int
    ) -> Iterator[UInt8[np.ndarray, "b *t h w c"]]: ...


@dataclass(frozen=True)
class Npz:
    """`arr_0` of an .npz, bytes `n h w c`, as ADM's evaluator and DiT's code store it.

    Or `n t h w c`, of videos.

    ValueError for another array.
    """

    path: Path

    @property
    def count(self) -> int:
        return npz_shape(self.path)[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return npz_shape(self.path)[1:]

    def hash(self) -> str:
        return file_hash(self.path)

    def stream(
        self, start: int, batch: int
    ) -> Iterator[UInt8[np.ndarray, "b *t h w c"]]:
        return npz_images(self.path, batch, start)


@dataclass(frozen=True)
class Floats(Npz):
    """`x_0` of an .npz, as `jdit sample --out x.npz` writes it.

    Images in [-1, 1] are bytes in a stream, as if they had been saved as such; latents
    have no bytes, but `values`.
    """

    @property
    def count(self) -> int:
        return npz_shape(self.path, "x_0")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return npz_shape(self.path, "x_0")[1:]

    def values(self, start: int, batch: int) -> Iterator[np.ndarray]:
        """As they are in the file."""
        return npz_images(self.path, batch, start, "x_0")

    def stream(
        self, start: int, batch: int
    ) -> Iterator[UInt8[np.ndarray, "b *t h w c"]]:
        if len(self.shape) not in (3, 4) or self.shape[-1] not in (1, 3):
            raise ValueError(
                f"x_0 of {self.path} is {self.shape}, which are no images: decode "
                "latents first"
            )
        for x in self.values(start, batch):  # a model may draw a little too far
            yield rounded(x, f"x_0 of {self.path}", 3)


@dataclass(frozen=True)
class Moments:
    """Moments as torch-fidelity caches them: "mu" and "sigma" in a torch file, .pt."""

    path: Path

    def hash(self) -> str:
        return file_hash(self.path)

    def statistics(self) -> Statistics:
        return load_moments(self.path)


class _Encoded:
    """Images that are decoded one by one."""

    count: int

    def content(self, index: int) -> tuple[str, bytes]:
        raise NotImplementedError

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        name, data = self.content(index)
        return _decoded(io.BytesIO(data), name)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        return self.image(0).shape

    def hash(self) -> str:
        digest = hashlib.sha256()
        for index in range(self.count):
            digest.update(hashlib.sha256(self.content(index)[1]).digest())
        return digest.hexdigest()

    def stream(self, start: int, batch: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        for first in range(start, self.count, batch):
            part = []
            for index in range(first, min(first + batch, self.count)):
                part.append(self.image(index))
                if part[-1].shape != self.shape:
                    raise ValueError(
                        f"{self.content(index)[0]} is of shape {part[-1].shape}, but "
                        f"the first image is {self.shape}: all must be alike"
                    )
            yield np.stack(part)


@dataclass(frozen=True)
class Pictures(_Encoded):
    """The .png files right in a folder, by name. ValueError for one without."""

    path: Path

    @functools.cached_property
    def files(self) -> list[Path]:
        found = sorted(f for f in self.path.iterdir() if f.suffix.lower() == ".png")
        if not found:
            raise ValueError(f"{self.path} holds no .png images")
        return found

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.files)

    def content(self, index: int) -> tuple[str, bytes]:
        return str(self.files[index]), self.files[index].read_bytes()


@dataclass(frozen=True)
class Records(_Encoded):
    """An array_record file whose records are encoded images (PNG)."""

    path: Path

    @functools.cached_property
    def _records(self) -> Any:
        from grain.sources import ArrayRecordDataSource

        return ArrayRecordDataSource(str(self.path))

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self._records)

    def content(self, index: int) -> tuple[str, bytes]:
        return f"record {index} of {self.path}", self._records[index]


def stored(path: str | Path) -> Npz | Pictures | Records | None:
    """The images at a path, or None for a path of another kind."""
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no .npz: {error}") from error
        drawn = "x_0.npy" in names and "arr_0.npy" not in names
        return Floats(path) if drawn else Npz(path)
    if path.suffix in RECORDS and path.is_file():
        return Records(path)
    if path.is_dir() and any(f.suffix.lower() == ".png" for f in path.iterdir()):
        return Pictures(path)
    return None


def rounded(
    images: np.ndarray, name: str = "images", most: float = 1.001
) -> UInt8[np.ndarray, "..."]:
    """Floats in [-1, 1] as bytes, to nearest; cut off outside.

    Raises ValueError for values that are not finite, or beyond `most`.
    """
    if not np.isfinite(images).all():
        raise ValueError(f"{name} hold NaN or infinite values")
    low, high = float(images.min()), float(images.max())
    if low < -most or high > most:
        raise ValueError(
            f"{name} lie in [{low:.4g}, {high:.4g}], but floats must be in [-1, 1]"
        )
    return to_uint8(images)


def _decoded(file: IO[bytes], name: str) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(file) as image:
            kept = image if image.mode in ("L", "RGB") else image.convert("RGB")
            array = np.asarray(kept)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} is no image: {error}") from error
    return array[..., None] if array.ndim == 2 else array
