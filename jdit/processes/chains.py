# SPDX-License-Identifier: Apache-2.0
"""Discrete chains of noising steps, read as paths in time."""

import abc
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from jdit.processes.preserving import Preserving
from jdit.typing import Array, Float


class Discrete(Preserving):
    """A chain of `steps` noising steps with rates `betas`, read as a path in time.

    Index i of the published chain sits at time `(i + 1) / steps` (`jdit.conditioning`'s
    `LinearClock(steps, -1)` tells the network i); time 0 is clean data. There alpha_bar
    is exactly the running product of `1 - beta`, and so any respaced step has the exact
    ratio; between, log alpha_bar is linear: the SDE whose rate is piecewise constant.
    At an index, the derivative is that of the interval below, where samplers go.

    The tables are made in float64 on the host, and kept as pairs of float32 numbers so
    that the ratio of two neighbours is as accurate as either.
    """

    steps: int

    @property
    @abc.abstractmethod
    def betas(self) -> np.ndarray:
        """The variance added by each step, float64, `steps` values."""

    def time(self, index: Array) -> Float[Array, "..."]:
        """The time of an index of the chain; -1 is clean data."""
        return (jnp.asarray(index, jnp.float32) + 1) / self.steps

    def _locate(self, time: Float[Array, "..."]) -> tuple[Array, Array]:
        """The interval a time is in, and how far it is below the interval's end."""
        position = jnp.asarray(time, jnp.float32) * self.steps
        nearest = jnp.round(position)
        close = jnp.abs(position - nearest) <= 5e-7 * self.steps  # float32's own error
        snap = jax.lax.stop_gradient(jnp.where(close, nearest - position, 0))
        position = position + snap
        index = jnp.clip(jnp.ceil(position).astype(jnp.int32) - 1, 0, self.steps - 1)
        return index, index + 1 - position

    def _read(self, time: Float[Array, "..."]) -> tuple[Array, Array, Array]:
        table = _table(self)
        index, below = self._locate(time)
        high, low, slope = (jnp.asarray(x)[index] for x in table)
        return high, low - below * slope, slope

    def log_alpha_bar(self, time: Float[Array, "..."]) -> tuple[Array, Array]:
        high, low, slope = self._read(time)
        return jnp.minimum(high + low, 0), slope * self.steps

    def time_from_log_alpha_bar(self, value: Float[Array, "..."]) -> Array:
        high, _, slope = (jnp.asarray(x) for x in _table(self))
        index = jnp.clip(jnp.searchsorted(-high, -value), 0, self.steps - 1)
        below = jnp.clip((high[index] - value) / slope[index], 0, 1)
        return (index + 1 - below) / self.steps

    def log_ratio(
        self, time: Float[Array, "..."], next_time: Float[Array, "..."]
    ) -> Array:
        later, earlier = self._read(time), self._read(next_time)
        return (later[0] - earlier[0]) + (later[1] - earlier[1])


@lru_cache(maxsize=32)
def _table(path: Discrete) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log alpha_bar at the end of each step, as high and low part, and its change."""
    change = np.log1p(-path.betas)
    log = np.cumsum(change)
    high = log.astype(np.float32)
    return high, (log - high).astype(np.float32), change.astype(np.float32)


@dataclass(frozen=True)
class DDPMLinear(Discrete):
    """Betas equally spaced (Ho et al., 2020): the schedule DiT was trained with.

    first, last: for 1,000 steps; other counts scale both by `1000 / steps`, as in ADM.
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_betas(self)

    @property
    def betas(self) -> np.ndarray:
        scale = 1000 / self.steps
        return np.linspace(scale * self.first, scale * self.last, self.steps)


@dataclass(frozen=True)
class DDPMScaledLinear(Discrete):
    """Betas whose square roots are equally spaced: Stable Diffusion's schedule."""

    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_betas(self)

    @property
    def betas(self) -> np.ndarray:
        return np.linspace(self.first**0.5, self.last**0.5, self.steps) ** 2


@dataclass(frozen=True)
class ZeroTerminal(Discrete):
    """`DDPMScaledLinear` that ends in pure noise, after a shift: CogVideoX's schedule.

    The signal-to-noise ratio is divided by `shift`; then alpha is moved and scaled so
    that the first stays where it was and the last is 0 (Lin et al., 2024, "Common
    Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1).

    least: alpha_bar of the last step, since a logarithm must be finite.
    """

    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012
    shift: float = 1.0
    least: float = 1e-8

    def __post_init__(self) -> None:
        if self.steps < 2 or self.shift <= 0 or self.least <= 0:
            raise ValueError(
                f"steps is {self.steps}, shift {self.shift} and least {self.least}, "
                "but there must be at least 2 steps, and the others must be positive"
            )
        _check_betas(self)

    @property
    def betas(self) -> np.ndarray:
        plain = DDPMScaledLinear(self.steps, self.first, self.last)
        bar = np.cumprod(1 - plain.betas)
        root = np.sqrt(bar / (self.shift + (1 - self.shift) * bar))
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = np.maximum(root**2, self.least)
        return 1 - bar / np.concatenate([[1.0], bar[:-1]])


@dataclass(frozen=True)
class DDPMCosine(Discrete):
    """Betas from a squared cosine, at most `most` (Improved DDPM, equation 17)."""

    steps: int = 1000
    offset: float = 0.008
    most: float = 0.999

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_betas(self)

    @property
    def betas(self) -> np.ndarray:
        time = np.arange(self.steps + 1) / self.steps
        bar = np.cos((time + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], self.most)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}, but a chain needs at least 1 step")


def _check_betas(path: Discrete) -> None:
    betas = path.betas
    if not (np.all(betas > 0) and np.all(betas < 1)):
        raise ValueError(
            f"betas of {path} span {betas.min():.4g} to {betas.max():.4g}, but each "
            "must lie strictly between 0 and 1"
        )
