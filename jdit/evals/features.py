# SPDX-License-Identifier: Apache-2.0
"""From images to features to scores, in one pass over a stream of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jdit.data import to_float
from jdit.evals.kernel import squared_mmd
from jdit.evals.manifold import density_coverage, precision_recall
from jdit.evals.statistics import Points, Statistics, checked, frechet_distance

Images = np.ndarray | Iterable[np.ndarray]
"""An array `n h w c`, or a stream of such batches: float in [-1, 1], or uint8.

Videos, `n t h w c`, for a net that reads them."""


@runtime_checkable
class Features(Protocol):
    """A feature function: float32 images `b h w c` in [-1, 1] to features `b d`.

    Of videos `b t h w c` for one of videos, such as `jdit.evals.I3D`.

    For `jdit eval` it may also have: `params` and `resize`, which the protocol names;
    fields `path` and `resize` that --weights and --resize set; `load()`, which gives
    the net to use; `all(images)`, everything that ADM's scores are made of;
    `scores(fake, real)` of two `Measured`, the scores that are named after it; and
    `texts(texts)`, features of prompts in the same space.

    Jitted by whoever makes it. It is only ever called with one batch size, so it
    compiles once. What it makes of the values (resizing, scaling) is its own affair.
    """

    def __call__(self, images: Float[np.ndarray, "b *t h w c"]) -> Any: ...


def extract(
    features: Features, images: Images, batch: int = 256
) -> Iterator[Float[np.ndarray, "n d"]]:
    """The features of a stream of images, as a stream; uint8 is mapped to [-1, 1].

    Batches are cut, and the last is filled up, to `batch` images, and the filling is
    dropped. Raises ValueError for what is neither `n h w c` nor `n t h w c`, and for
    features that are NaN or change their dimension, at the batch where it happens.
    """
    dimension = None
    for array in [images] if isinstance(images, np.ndarray) else images:
        array = np.asarray(array)
        if array.ndim not in (4, 5):
            raise ValueError(
                f"images have shape {array.shape}, but n h w c is needed, or n t h w c "
                "of videos"
            )
        for start in range(0, len(array), batch):
            part = array[start : start + batch]
            part = to_float(part) if part.dtype == np.uint8 else part
            part = np.asarray(part, np.float32)
            fill = np.repeat(part[-1:], batch - len(part), 0)
            values = checked(features(np.concatenate([part, fill])))[: len(part)]
            if dimension not in (None, values.shape[1]):
                raise ValueError(
                    f"features changed from {dimension} to {values.shape[1]} dimensions"
                )
            dimension = values.shape[1]
            yield values


def gathered(
    parts: Iterable[np.ndarray], rows: int = 2048
) -> Iterator[Float[np.ndarray, "n d"]]:
    """Parts of at least so many rows: joining moments costs `d^2`, however few."""
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= rows:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


@dataclass(frozen=True)
class Reference:
    """What generated data are compared with.

    statistics: enough for the Frechet distance, e.g. of an ADM reference file.
    features: `n d`, needed by the other scores; None if there are only statistics.
    """

    statistics: Statistics
    features: Float[np.ndarray, "n d"] | None = None

    @classmethod
    def of(cls, images: Images, features: Features, batch: int = 256) -> "Reference":
        """The reference of real images. Raises ValueError if there are none."""
        parts = list(extract(features, images, batch))
        if not parts:
            raise ValueError("the stream of real images is empty")
        values = np.concatenate(parts)
        return cls(Statistics.of(values), values)


def compare(real: Points, fake: Points) -> dict[str, float]:
    """The scores that need the features themselves.

    kid: `squared_mmd` over all features; precision, recall: k = 3; density, coverage:
    k = 5.
    """
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    return {
        "kid": squared_mmd(real, fake),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def evaluate(
    images: Images, features: Features, reference: Reference, batch: int = 256
) -> dict[str, float]:
    """Score a stream of generated images: "frechet", and `compare`'s scores.

    Images are seen once and not kept. Their features are kept only if the reference
    has features to compare them with; without, memory does not grow with the stream.

    Raises ValueError for an empty stream, NaN features, or too few images for a score.
    """
    statistics, kept = Statistics(), []
    for values in gathered(extract(features, images, batch)):
        statistics = statistics.update(values)
        if reference.features is not None:
            kept.append(values)
    if not statistics.count:
        raise ValueError("the stream of generated images is empty")
    scores = {"frechet": frechet_distance(statistics, reference.statistics)}
    if reference.features is not None:
        scores |= compare(reference.features, np.concatenate(kept))
    return scores
