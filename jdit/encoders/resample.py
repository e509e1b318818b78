# SPDX-License-Identifier: Apache-2.0
"""Learned positions of one grid of patches, read at another, as torch resizes them."""

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.typing import Array, Float


def bicubic(
    source: int, target: int, antialias: bool = False, offset: float = 0.0
) -> Float[np.ndarray, "t s"]:
    """The matrix that resizes `source` samples to `target`, corners not aligned.

    offset: steps are `source / (target + offset)` long: what a scale factor of
    `(target + offset) / source` means to torch, which then cuts the size to `target`.

    Cubic convolution (Keys, 1981, equation 15) with the constant a = -0.75 and clamped
    borders, or, with `antialias`, a = -0.5 and a kernel as wide as the steps when
    shrinking, cut and normalised at the borders: the two that
    `torch.nn.functional.interpolate(mode="bicubic")` has.
    """
    step = source / (target + offset)
    centre = (np.arange(target) + 0.5) * step - 0.5
    if not antialias:
        matrix = np.zeros((target, source))
        first = np.floor(centre).astype(int)
        for tap in range(-1, 3):
            weight = _cubic(np.abs(centre - first - tap), -0.75)
            place = np.clip(first + tap, 0, source - 1)
            np.add.at(matrix, (np.arange(target), place), weight)
        return matrix.astype(np.float32)
    width = max(step, 1.0)
    distance = np.abs(np.arange(source) - centre[:, None]) / width
    matrix = _cubic(distance, -0.5)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_positions(
    rows: Float[Array, "s d"],
    source: tuple[int, ...],
    target: tuple[int, ...],
    antialias: bool = False,
    offset: float = 0.0,
) -> Float[Array, "t d"]:
    """Positions of a source grid, row by row, at a target grid's places."""
    if source == target:
        return rows
    down, right = (
        jnp.asarray(bicubic(s, t, antialias, offset))
        for s, t in zip(source, target, strict=True)
    )
    grid = rearrange(rows, "(h w) d -> h w d", h=source[0])
    grid = jnp.einsum("yh,hwd->ywd", down, grid)
    return rearrange(jnp.einsum("xw,ywd->yxd", right, grid), "y x d -> (y x) d")
