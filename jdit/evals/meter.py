# SPDX-License-Identifier: Apache-2.0
"""What is kept of a stream of images: moments and features, saved as it goes."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float

from jdit.evals.features import Images, extract, gathered
from jdit.evals.statistics import Statistics


@dataclass(frozen=True)
class Measured:
    """What is kept of a set of images: never the images.

    pool, spatial: moments, for FID and sFID; `spatial` is None in a file that has none.
    features: pooled, float32, for precision and recall; None if only moments are known.
    probabilities: float32, for the Inception score; None for a reference.
    """

    pool: Statistics
    spatial: Statistics | None = None
    features: Float[np.ndarray, "n d"] | None = None
    probabilities: Float[np.ndarray, "n k"] | None = None

    def save(self, path: str | Path, **more: str) -> None:
        """Write the moments as ADM names them: mu, sigma, mu_s, sigma_s.

        pytorch-fid reads the file too. Counts are beside them, and texts, `more`,
        which both ignore.
        """
        fields = self.pool.fields()
        if self.spatial is not None:
            fields |= self.spatial.fields("_s")
        texts = {name: np.asarray(text) for name, text in more.items()}
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **fields, **texts)


class Values(NamedTuple):
    """Features of some images; spatial ones and logits only if they are Inception's."""

    pool: Float[np.ndarray, "n d"]
    spatial: Float[np.ndarray, "n s"] | None = None
    logits: Float[np.ndarray, "n k"] | None = None


def read(net: Any, images: Images, batch: int = 64) -> Iterator[Values]:
    """The features of a stream, in parts of at least 2,048 rows.

    net: a feature function; with a method `all`, as `InceptionPool` has, everything
        is read in one pass. Raises what `extract` and the net raise.
    """
    widths: list[int] = []

    def joined(images: np.ndarray) -> np.ndarray:
        if not hasattr(net, "all"):
            return np.asarray(net(images))
        pool, spatial, logits = map(np.asarray, net.all(images))
        widths[:] = [pool.shape[1], pool.shape[1] + spatial.shape[1]]
        return np.concatenate([pool, spatial, logits], 1)

    for values in gathered(extract(joined, images, batch)):
        yield Values(*np.split(values, widths, 1))


@dataclass
class Meter:
    """What was seen of a stream so far. Added to in the same parts, the same bits.

    count: images. features, probabilities: float32, a part each; saved: of how many
    parts a file was written.
    """

    count: int = 0
    pool: Statistics = field(default_factory=Statistics)
    spatial: Statistics | None = None
    features: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    saved: int = 0

    def add(self, values: Values) -> None:
        """One more part of the stream."""
        self.count += len(values.pool)
        self.pool = self.pool.update(values.pool)
        if values.spatial is not None:
            self.spatial = (self.spatial or Statistics()).update(values.spatial)
        self.features.append(values.pool.astype(np.float32))
        if values.logits is not None:
            self.probabilities.append(_softmax(values.logits).astype(np.float32))

    def measured(self) -> Measured:
        """All of it. Raises ValueError if nothing was seen."""
        if not self.count:
            raise ValueError("the stream of images is empty")
        features, probabilities = (
            _whole(parts) if parts else None
            for parts in (self.features, self.probabilities)
        )
        return Measured(self.pool, self.spatial, features, probabilities)

    def save(self, folder: Path) -> None:
        """Write what is new, whole or not at all: a process may be killed meanwhile.

        The moments are written anew, features one file a part; the file of the moments
        says which parts belong to it, and a part it does not name does not count.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(self.saved, len(self.features)):
            arrays = {"features": self.features[i]}
            if self.probabilities:
                arrays["probabilities"] = self.probabilities[i]
            _write(folder / f"part-{i:05d}.npz", **arrays)
        self.saved = len(self.features)
        fields = self.pool.fields()
        if self.spatial is not None:
            fields |= self.spatial.fields("_s")
        _write(folder / "state.npz", parts=np.asarray(self.saved), **fields)

    @classmethod
    def load(cls, folder: Path) -> "Meter":
        """What `save` left, or an empty one. Raises ValueError for damaged files."""
        state = folder / "state.npz"
        if not state.is_file():
            return cls()
        try:
            with np.load(state, allow_pickle=False) as file:
                parts, two = int(file["parts"]), "mu_s" in file.files
            pool = Statistics.load(state)
            spatial = Statistics.load(state, "_s") if two else None
            meter = cls(pool.count or 0, pool, spatial, saved=parts)
            for i in range(parts):
                with np.load(folder / f"part-{i:05d}.npz", allow_pickle=False) as file:
                    meter.features.append(file["features"])
                    if "probabilities" in file.files:
                        meter.probabilities.append(file["probabilities"])
        except (OSError, KeyError, EOFError, ValueError, BadZipFile) as error:
            raise ValueError(
                f"{folder} is damaged ({error}): delete it to begin again"
            ) from error
        return meter


def measure_in(
    folder: Path,
    stream: Callable[[int], Iterator[np.ndarray]],
    count: int,
    net: Any,
    *,
    batch: int = 64,
    every: int = 32,
    seen: Callable[[int], object] = lambda count: None,
) -> Measured:
    """Measure a stream that may be stopped at any moment, and goes on where it was.

    The state is kept in `folder` after every part. Cut into the same parts, the result
    is the same to the bit however often it was stopped.

    stream: images from number i on, in batches; count: how many it gives.
    batch: of the net. every: batches of the stream that are a part.
    seen: told the number of images after each batch.

    Raises ValueError for a stream of another length, and what `extract` raises.
    """
    meter = Meter.load(folder)
    images = stream(meter.count) if meter.count < count else iter(())

    def told(part: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        done = meter.count
        seen(done)
        for array in part:
            yield array
            done += len(array)
            seen(done)

    for first in images:
        part = told(chain([first], islice(images, every - 1)))
        meter.add(_joined(list(read(net, part, batch))))
        meter.save(folder)
    if meter.count != count:
        raise ValueError(f"the stream gave {meter.count} images, not {count}")
    return meter.measured()


def _joined(parts: list[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    pool, *rest = zip(*parts, strict=True)
    others = (None if c[0] is None else np.concatenate(c) for c in rest)
    return Values(np.concatenate(pool), *others)


def _whole(parts: list[np.ndarray]) -> np.ndarray:
    """All rows in one array, of which the parts are views from then on.

    Each part is let go of as it is copied: a set may be half a gigabyte, twice is much.
    """
    rows = sum(map(len, parts))
    whole = np.empty((rows, *parts[0].shape[1:]), parts[0].dtype)
    at = 0
    for i, part in enumerate(parts):
        whole[at : at + len(part)] = part
        parts[i] = whole[at : at + len(part)]
        at += len(part)
    return whole


def _write(path: Path, **arrays: np.ndarray) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
