# SPDX-License-Identifier: Apache-2.0
"""Images as they are drawn, each by its number alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int, UInt8

from jdit.data import to_uint8
from jdit.sample import image_keys

LABELS = 2**32 - 1
"""Folded into the seed for labels, so that they do not share the images' keys."""


class Draw(Protocol):
    """Generate images for labels: float `b *t h w c` in [-1, 1].

    The model, its parameters and how it samples are closed over. Image i of the batch
    depends on the seed, on its number `first + i` and on its label alone, so that a set
    may be drawn in batches of any size.
    """

    def __call__(self, seed: int, labels: Int[np.ndarray, " b"], first: int) -> Any: ...


@dataclass(frozen=True)
class Drawn:
    """Images, or videos, as they are drawn, as bytes: as if they had been saved.

    labels: one an image. shape: of each, `h w c` or `t h w c`. seed: of all.
    rounding: to the "nearest" byte, or "down".
    """

    draw: Draw
    labels: Int[np.ndarray, " n"]
    shape: tuple[int, ...]
    seed: int = 0
    rounding: str = "nearest"

    @property
    def count(self) -> int:
        return len(self.labels)

    def stream(
        self, start: int, batch: int
    ) -> Iterator[UInt8[np.ndarray, "b *t h w c"]]:
        """From image `start` on.

        Raises ValueError for images of another number or shape, and for NaN, saying in
        which image.
        """
        for first in range(start, self.count, batch):
            labels = self.labels[first : first + batch]
            x = np.asarray(self.draw(self.seed, labels, first))
            if x.shape != (len(labels), *self.shape):
                raise ValueError(
                    f"draw gave images of shape {x.shape}, but "
                    f"{(len(labels), *self.shape)} is needed"
                )
            finite = np.isfinite(x).all(tuple(range(1, x.ndim)))
            if not finite.all():
                raise ValueError(
                    f"image {first + int(np.argmin(finite))} of seed {self.seed} has "
                    "NaN or infinite values"
                )
            yield to_uint8(x) if self.rounding == "nearest" else rounded_down(x)


def together(draw: Draw) -> Draw:
    """A draw of several processes, each of which draws its share of every batch.

    All must call it together, with the same arguments; all get all images.
    """
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return draw

    def shared(seed: int, labels: Int[np.ndarray, " b"], first: int) -> Any:
        share = -(-len(labels) // count)
        filled = np.resize(labels, count * share)  # what is too much is dropped
        at = index * share
        x = np.asarray(draw(seed, filled[at : at + share], first + at))
        every = multihost_utils.process_allgather(x)
        return every.reshape(-1, *x.shape[1:])[: len(labels)]

    return shared


def rounded_down(x: np.ndarray) -> UInt8[np.ndarray, "b h w c"]:
    """Values in [-1, 1] to bytes as REPA's and RAE's code does: the fraction is cut."""
    value = (np.asarray(x, np.float32) + 1) / 2 * np.float32(255)
    return np.clip(value, 0, 255).astype(np.uint8)


def asked_labels(
    scheme: str, classes: int, count: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Label i depends on the seed and on i alone, as image i does."""
    if scheme == "balanced":
        return np.arange(count, dtype=np.int32) % classes
    keys = image_keys(jax.random.fold_in(jax.random.key(seed), LABELS), count)
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))
    return np.asarray(jax.jit(draw)(keys), np.int32)
