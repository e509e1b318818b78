# SPDX-License-Identifier: Apache-2.0
"""What a data set is, its values on the way in and out, and its random numbers."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]
"""One example, or a batch of them stacked: "x_0" and its conditions, all on the host.

"x_0" is uint8 (an image, h w c) or float32 (already scaled); "label" is int32;
"caption" is a string, or an array of strings in a batch."""


@runtime_checkable
class Source(Protocol):
    """Random access to examples, as Grain wants it. `repr` is the same in every run.

    A source may also have `gather(indices) -> Record`, which reads a whole batch at
    once: arrays in memory need it, as Python's cost per example is 20 us and up.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Dataset(Protocol):
    """A data set is its own configuration: a frozen dataclass that can be opened.

    sample_shape: shape of "x_0" as the model sees it, (height, width, channels).
    classes: the names of labels 0, 1, ...; None if there are no labels.

    A data set may also have `transforms`, a tuple that `pipeline` runs before its own.
    """

    @property
    def sample_shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    def source(self) -> Source: ...


class ArraySource:
    """Examples that are rows of arrays in memory or memory-mapped.

    name: what `repr` shows, beside shapes and checksums (of all rows up to 256 MiB, of
        64 rows beyond).
    """

    def __init__(self, name: str, columns: Mapping[str, NDArray[Any]]):
        self.name, self.columns = name, dict(columns)
        lengths = {key: len(value) for key, value in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{name} has columns of different lengths, {lengths}; all must be equal"
            )
        if not lengths or not next(iter(lengths.values())):
            raise ValueError(f"{name} is empty; a data set needs at least one example")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        return {key: value[index] for key, value in self.columns.items()}

    def gather(self, indices: NDArray[np.int64]) -> Record:
        return {key: value[indices] for key, value in self.columns.items()}

    def __repr__(self) -> str:
        parts = (
            f"{key}={value.dtype}{list(value.shape)}#{checksum(_some(value)):08x}"
            for key, value in self.columns.items()
        )
        return f"{self.name}[{', '.join(parts)}]"


def _some(value: NDArray[Any]) -> NDArray[Any]:
    if value.nbytes <= 1 << 28:
        return value
    return value[np.linspace(0, len(value) - 1, 64).astype(int)]


def checksum(value: NDArray[Any] | Sequence[str]) -> int:
    """CRC-32 of an array's bytes, or of a list of strings."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUT":
        return zlib.crc32(np.ascontiguousarray(value))
    return zlib.crc32("\0".join(map(str, value)).encode())


def to_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes 0 ... 255 to float32 in [-1, 1]: `x / 127.5 - 1`."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: Any) -> NDArray[np.uint8]:
    """Values in [-1, 1] to bytes, rounded and clipped: the inverse of `to_float`."""
    value = (np.asarray(image, np.float32) + 1) * np.float32(127.5)
    return np.clip(np.rint(value), 0, 255).astype(np.uint8)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 16)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: int, *counters: Any) -> NDArray[np.uint64]:
    """64 random bits per example: a hash of the seed and of every counter.

    Each counter (an epoch, an index, ...) is an integer or an array of them; they are
    broadcast. The bits depend on nothing else, so an example gets the same ones in any
    batch, process, thread or version of NumPy.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mix(np.atleast_1d(np.asarray(seed, np.int64)).astype(np.uint64) + golden)
    for counter in counters:
        words = np.atleast_1d(np.asarray(counter, np.int64)).astype(np.uint64)
        state = _mix(state + (words + np.uint64(1)) * golden)
    return state


def uniforms(key: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The keys as numbers in [0, 1), 53 bits each."""
    return (key >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(key: NDArray[np.uint64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers for each key, `b *shape`, by Box and Muller."""
    count = int(np.prod(shape))
    counter = np.arange(2 * count, dtype=np.uint64) + np.uint64(1)
    u = uniforms(_mix(key[:, None] + counter * np.uint64(0x9E3779B97F4A7C15)))
    radius = np.sqrt(-2 * np.log1p(-u[:, :count]))
    value = radius * np.cos(2 * np.pi * u[:, count:])
    return value.astype(np.float32).reshape(len(key), *shape)
