# SPDX-License-Identifier: Apache-2.0
"""What is kept of a stream of images: moments and features."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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

    features, probabilities: float32, a part each. Moments are those of features that
    are rounded so, too.
    """

    pool: Statistics = field(default_factory=Statistics)
    spatial: Statistics | None = None
    features: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)

    def add(self, values: Values) -> None:
        """One more part of the stream."""
        features = values.pool.astype(np.float32)
        self.pool = self.pool.update(features)
        self.features.append(features)
        if values.spatial is not None:
            spatial = values.spatial.astype(np.float32)
            self.spatial = (self.spatial or Statistics()).update(spatial)
        if values.logits is not None:
            logits = values.logits.astype(np.float32)
            self.probabilities.append(_softmax(logits).astype(np.float32))

    def measured(self) -> Measured:
        """All of it. Raises ValueError if nothing was seen."""
        if not self.features:
            raise ValueError("the stream of images is empty")
        features, probabilities = (
            _whole(parts) if parts else None
            for parts in (self.features, self.probabilities)
        )
        return Measured(self.pool, self.spatial, features, probabilities)


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


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
