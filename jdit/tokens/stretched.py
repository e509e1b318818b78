# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies for images larger than those of training, also over time.

A stretch gives the frequencies of one axis: `stretch(share, theta, time)`, where pair i
of an axis of d channels has share `2 i / d` and turns by `theta^-share` a token at the
trained size. time: `b` in [0, 1], 1 is noise. The result is `k`, or `b k` where it
depends on time.
"""

from dataclasses import dataclass
from math import log, pi
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jdit.typing import Array, Float


@runtime_checkable
class Stretch(Protocol):
    """Frequencies of one axis, as a function of the pair and the time."""

    def __call__(
        self, share: Float[np.ndarray, " k"], theta: float, time: Float[Array, " b"]
    ) -> Float[Array, "*b k"]: ...


@dataclass(frozen=True)
class Scaled:
    """`(theta ntk)^-share / linear`: interpolated positions, or a larger base, or both.

    1 and 1 is the trained model. Lumina-T2X's `rope_scaling_factor` and `ntk_factor`.
    """

    linear: float = 1.0
    ntk: float = 1.0

    def __call__(
        self, share: Float[np.ndarray, " k"], theta: float, time: Float[Array, " b"]
    ) -> Float[Array, "*b k"]:
        return jnp.asarray((theta * self.ntk) ** -share / self.linear, jnp.float32)


@dataclass(frozen=True)
class FrequencyAware:
    """`max((theta scale^(1 / target))^-share, theta^-share / scale)` (Lumina-Next).

    target is the share whose wavelength is the trained length, `log(L / 2 pi)` to the
    base theta: there and at longer waves positions are interpolated, so that no wave
    repeats within the image, and shorter ones are stretched less the shorter they are.
    scale: how many times longer an axis is than in training; trained: its length L
    there, in tokens. The paper writes L for the length of training; that it is each
    axis's own is derived. No published code has it.
    """

    scale: float = 1.0
    trained: int = 64

    def __call__(
        self, share: Float[np.ndarray, " k"], theta: float, time: Float[Array, " b"]
    ) -> Float[Array, "*b k"]:
        target = log(self.trained / (2 * pi)) / log(theta)
        return _at_least_interpolated(share, theta, self.scale, 1 / target)


@dataclass(frozen=True)
class TimeAware:
    """From interpolated positions at noise to a larger base at data (Lumina-Next).

    `max((theta scale^(d / d_t))^-share, theta^-share / scale)` with
    `d_t = (d - 1)(1 - time) + 1`: the layout is drawn on the trained canvas, the
    details at their own size. scale: how many times longer an axis is than in training.
    width: d, the channels of a whole head (72 in the published 2B model). The published
    code has `Watershed` in its place.

    Raises ValueError for a width below 1.
    """

    scale: float = 1.0
    width: int = 72

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}, but it must be at least 1")

    def __call__(
        self, share: Float[np.ndarray, " k"], theta: float, time: Float[Array, " b"]
    ) -> Float[Array, "*b k"]:
        power = self.width / ((self.width - 1) * (1 - time[:, None]) + 1)
        return _at_least_interpolated(share, theta, self.scale, power)


@dataclass(frozen=True)
class Watershed:
    """Interpolated above a time, a larger base below: Lumina-Next's published code.

    `theta^-share / scale` while `1 - time < watershed`, else `(theta scale)^-share`. A
    watershed of 1, the model's default, interpolates at all times but 0; the published
    demo takes 0.3. Source: lumina_next_t2i/models/model.py, `precompute_freqs_cis`.
    """

    scale: float = 1.0
    watershed: float = 1.0

    def __call__(
        self, share: Float[np.ndarray, " k"], theta: float, time: Float[Array, " b"]
    ) -> Float[Array, "*b k"]:
        early = Scaled(linear=self.scale)(share, theta, time)
        late = Scaled(ntk=self.scale)(share, theta, time)
        return jnp.where((1 - time < self.watershed)[:, None], early, late)


def _at_least_interpolated(
    share: Float[np.ndarray, " k"], theta: float, scale: float, power: float | Array
) -> Float[Array, "*b k"]:
    """Frequencies of the base `theta scale^power`, but no lower than interpolated."""
    base = theta**-share
    return jnp.asarray(jnp.maximum(base * scale ** (-power * share), base / scale))


def stretched_table(
    places: Float[np.ndarray, "n a"],
    width: int,
    stretch: Stretch,
    time: Float[Array, " b"],
    theta: float = 10000.0,
) -> tuple[Float[Array, "*b n k"], Float[Array, "*b n k"]]:
    """Cosines and sines with the axes taking turns, `n width/2` or `b n width/2`.

    Raises ValueError unless every axis gets as many pairs of channels.
    """
    axes = places.shape[-1]
    if width % (2 * axes):
        raise ValueError(
            f"width is {width}, but rotary positions over {axes} axes need heads of a "
            f"multiple of {2 * axes} channels"
        )
    share = np.arange(width // (2 * axes)) * 2 * axes / width
    frequencies = stretch(share, theta, time)
    angles = frequencies[..., None, :, None] * np.asarray(places)[:, None, :]
    angles = angles.reshape(*angles.shape[:-2], width // 2).astype(jnp.float32)
    return jnp.cos(angles), jnp.sin(angles)
