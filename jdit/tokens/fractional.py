# SPDX-License-Identifier: Apache-2.0
"""Rotary positions as fractions of the largest video, in seconds and pixels."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.typing import Array, Float


@dataclass(frozen=True)
class Fractional:
    """Fractional coordinates, with frequencies that run over the whole width.

    A latent at (frame, row, column) stands at the seconds and the pixels where it
    begins; with p those over `largest`, the angles are

        pi / 2 (2 p - 1) theta^(i / (F - 1)),    i = 0 ... F - 1, F = width // 6,

    for each of the three axes in turn. All heads' channels together hold these 3 F
    pairs, so each head turns at rates of its own; pairs that are left over come first
    and stand still. So a video's frame rate and size only move p (LTX-Video, section
    3.2; Lightricks/LTX-Video, transformer3d.py, `precompute_freqs_cis`).

    largest: seconds, and pixels along height and width, that are one.
    pixels: of one latent along frame, height and width. frame_rate: frames a second.
    causal: a codec whose first latent is one frame, not `pixels[0]`, so that later
        ones begin earlier: LTX-Video since 0.9.5.
    """

    largest: tuple[float, float, float] = (20.0, 2048.0, 2048.0)
    pixels: tuple[int, int, int] = (8, 32, 32)
    frame_rate: float = 25.0
    causal: bool = False
    theta: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("largest", "pixels", "frame_rate"):
            if np.min(getattr(self, name)) <= 0:
                raise ValueError(
                    f"positions.{name} is {getattr(self, name)}, but it must be above 0"
                )

    def fractions(self, coordinates: Float[np.ndarray, "n a"]) -> np.ndarray:
        """p of latents at these places of the grid, `n 3`."""
        place = np.asarray(coordinates, np.float32) * np.asarray(
            self.pixels, np.float32
        )
        if self.causal:
            place[:, 0] = np.maximum(place[:, 0] + 1 - self.pixels[0], 0)
        place[:, 0] *= np.float32(1 / self.frame_rate)
        return place / np.asarray(self.largest, np.float32)

    def rates(self, width: int) -> Float[np.ndarray, " f"]:
        """Angles a unit of `2 p - 1`, `width // 6` of them.

        In the published order of float32's roundings, which the fastest rates show.
        """
        count, f32 = width // 6, np.float32
        place, step = np.arange(count), f32(1 / max(count - 1, 1))
        low, high = step * place.astype(f32), 1 - step * place[::-1].astype(f32)
        exponents = np.where(place < count // 2, low, high).astype(np.float64)
        return (self.theta**exponents).astype(f32) * f32(np.pi) / f32(2)

    def __call__(
        self, coordinates: Float[np.ndarray, "n a"], width: int, heads: int
    ) -> tuple[Float[Array, "1 h n k"], Float[Array, "1 h n k"]]:
        """Cosines and sines of each head, k = width / heads / 2."""
        swing = jnp.asarray(self.fractions(coordinates) * np.float32(2) - 1)
        angles = swing[:, None] * jnp.asarray(self.rates(width))[:, None]
        angles = angles.reshape(len(swing), -1)
        angles = jnp.pad(angles, ((0, 0), (width // 2 - angles.shape[-1], 0)))
        angles = rearrange(angles, "n (h k) -> 1 h n k", h=heads)
        return jnp.cos(angles), jnp.sin(angles)
