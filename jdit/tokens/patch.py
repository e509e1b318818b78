# SPDX-License-Identifier: Apache-2.0
"""Patches: a grid of values becomes a row of tokens, and back, exactly."""

from dataclasses import dataclass
from math import prod

import numpy as np
from einops import rearrange

from jdit.typing import Array, Float

_AXES = ("t", "h", "w")


def _pattern(ndim: int) -> tuple[str, str]:
    axes = _AXES[-ndim:]
    grid = " ".join(f"({a} p{a})" for a in axes)
    tokens = f"({' '.join(axes)}) ({' '.join(f'p{a}' for a in axes)} c)"
    return f"b {grid} c", f"b {tokens}"


@dataclass(frozen=True)
class Patches:
    """Non-overlapping patches of a 1-d, 2-d or 3-d grid.

    grid:  size of the data, e.g. (32, 32) or (16, 32, 32), in time-height-width order.
    patch: size of one patch; a single number means the same along every axis.

    Tokens run in row-major order of the patch grid; the values inside a token are
    ordered (patch axes..., channel), as in DiT's `unpatchify`.

    Raises ValueError when the patch does not divide the grid.
    """

    grid: tuple[int, ...]
    patch: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        if not 1 <= len(self.grid) <= 3:
            raise ValueError(
                f"grid is {self.grid}, but it must have 1, 2 or 3 axes of positive size"
            )
        if len(self.size) != len(self.grid):
            raise ValueError(
                f"patch is {self.patch}, but grid {self.grid} has {len(self.grid)} axes"
            )
        bad = [
            (g, p) for g, p in zip(self.grid, self.size, strict=True) if p < 1 or g % p
        ]
        if bad:
            g, p = bad[0]
            raise ValueError(
                f"patch {self.size} does not divide grid {self.grid}: "
                f"{g} is not a multiple of {p}"
            )

    @property
    def size(self) -> tuple[int, ...]:
        """The patch, one number per axis."""
        if isinstance(self.patch, int):
            return (self.patch,) * len(self.grid)
        return tuple(self.patch)

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid of tokens."""
        return tuple(g // p for g, p in zip(self.grid, self.size, strict=True))

    @property
    def count(self) -> int:
        """The number of tokens."""
        return prod(self.shape)

    def patchify(self, x: Float[Array, "b *g c"]) -> Float[Array, "b n p"]:
        """Tokens of patch values; p is the patch's volume times the channels."""
        if tuple(x.shape[1:-1]) != tuple(self.grid):
            raise ValueError(
                f"x has grid {tuple(x.shape[1:-1])}, but the model was made for "
                f"{tuple(self.grid)} (batch first, channels last)"
            )
        left, right = _pattern(len(self.grid))
        return rearrange(x, f"{left} -> {right}", **self._sizes())

    def unpatchify(self, tokens: Float[Array, "b n p"]) -> Float[Array, "b *g c"]:
        """The inverse of `patchify`, for any number of channels."""
        left, right = _pattern(len(self.grid))
        counts = dict(zip(_AXES[-len(self.grid) :], self.shape, strict=True))
        return rearrange(tokens, f"{right} -> {left}", **counts, **self._sizes())

    def coordinates(self) -> Float[np.ndarray, "n a"]:
        """Coordinates of each token along each axis, in token order (a constant)."""
        axes = [np.arange(size, dtype=np.float32) for size in self.shape]
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        return mesh.reshape(self.count, len(self.shape))

    def _sizes(self) -> dict[str, int]:
        names = (f"p{a}" for a in _AXES[-len(self.grid) :])
        return dict(zip(names, self.size, strict=True))
