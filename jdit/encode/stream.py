# SPDX-License-Identifier: Apache-2.0
"""From images on the host to latents on the host, in pieces of one shape.

read ahead, in threads -> bytes -> codec, split over devices -> mean, log variance
                             \\-> and of the mirror image
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jdit.data import Record
from jdit.data.pipeline import read
from jdit.encode.options import Encode
from jdit.evals.devices import over_devices
from jdit.typing import Array, Params

Moments = tuple[Array, Array]
"""The mean and the log variance of latents, `b [2] *g c`."""


def encoder(
    codec: Any, params: Params, options: Encode
) -> Callable[[np.ndarray], Moments]:
    """Images `b h w c` to their moments, by one program over all devices.

    As everywhere, bytes are scaled to [-1, 1] and floats are taken to be.
    """

    def run(params: Params, x: Array) -> Moments:
        whole = x.dtype == jnp.uint8
        x = x.astype(jnp.float32) / 127.5 - 1 if whole else x.astype(jnp.float32)
        x = jnp.broadcast_to(x, (*x.shape[:-1], codec.channels))
        views = jnp.stack([x, x[:, :, ::-1]], 1) if options.flip else x
        found = codec.encode(params, views.reshape(-1, *x.shape[1:]))
        lead = views.shape[: -x.ndim + 1]
        mean, logvar = (
            z.reshape(*lead, *z.shape[1:]).astype(options.dtype) for z in found
        )
        return mean, logvar

    compiled = over_devices(run, params)

    def call(x: np.ndarray) -> Moments:
        with jax.default_matmul_precision(options.precision):
            return compiled(x)

    return call


class Pieces:
    """Images by pieces of a batch: the random-access source that Grain reads ahead."""

    def __init__(self, source: Any, pieces: Sequence[range]):
        self.source, self.pieces = source, pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> tuple[range, Record]:
        return self.pieces[number], read(self.source, np.asarray(self.pieces[number]))


def encoded(
    run: Callable[[np.ndarray], Moments],
    pieces: Pieces,
    batch: int,
    index: dict[str, Any],
) -> Iterator[Record]:
    """The pieces as they are stored, one computed while the last one is written.

    Raises ValueError for latents that are not finite.
    """
    threads = min(16, os.cpu_count() or 1)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    waiting: deque[tuple[range, Record, Moments]] = deque()

    def stored(piece: range, record: Record, found: Moments) -> Record:
        mean, logvar = (np.asarray(z)[: len(piece)] for z in found)
        finite = np.isfinite(mean).reshape(len(mean), -1).all(1)
        if not finite.all():
            raise ValueError(
                f"image {piece[int(np.argmin(finite))]} of the data has latents that "
                f"are not finite in {mean.dtype}"
            )
        x_0 = np.concatenate([mean, logvar], -1) if index["moments"] else mean
        return {**record, "x_0": x_0}

    for piece, record in grain.MapDataset.source(pieces).to_iter_dataset(ahead):
        x = record["x_0"]
        full = np.concatenate([x, np.repeat(x[-1:], batch - len(x), 0)])
        waiting.append((piece, record, run(full)))
        if len(waiting) > 1:
            yield stored(*waiting.popleft())
    while waiting:
        yield stored(*waiting.popleft())
