# SPDX-License-Identifier: Apache-2.0
"""The distribution of training times, in (0, 1]; 1 is noise, as in SD3."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jdit.typing import Array, Float, Key

SMALLEST = 1e-7
"""The smallest time that is drawn: float32's spacing at 1."""

HALF_PI = float(jnp.pi / 2)


@runtime_checkable
class TimeSampling(Protocol):
    """The distribution of training times."""

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]: ...


@dataclass(frozen=True)
class UniformTime:
    """Every time in (0, 1] is equally likely."""

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return 1 - jax.random.uniform(key, shape)


@dataclass(frozen=True)
class DiscreteTime:
    """Every index of a chain of `steps` is equally likely, at `(index + 1) / steps`."""

    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, but a chain has at least 1 step")

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        index = jax.random.randint(key, shape, 0, self.steps)
        return (index + 1).astype(jnp.float32) / self.steps


@dataclass(frozen=True)
class LogitNormal:
    """`log(t / (1 - t))` is normal (Esser et al., 2024, section 3.1).

    mean: above 0 favours noise; scale: its standard deviation, larger is flatter.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        logit = self.mean + self.scale * jax.random.normal(key, shape)
        return jnp.maximum(jax.nn.sigmoid(logit), SMALLEST)


@dataclass(frozen=True)
class Mode:
    """Heavy-tailed, positive at both ends (Esser et al., 2024, section 3.1).

    `t = 1 - u - scale (cos^2(pi u / 2) - 1 + u)` with u uniform. scale: in [-1, 2 / (pi
    - 2)], where it is monotone; above 0 favours the middle, below 0 the ends, 0 is
    uniform. The paper's best is 1.29.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 1 / (HALF_PI - 1):
            raise ValueError(
                f"scale is {self.scale}, but it must lie in [-1, 2 / (pi - 2)] = "
                "[-1, 1.7519]"
            )

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        u = jax.random.uniform(key, shape)
        bend = u - jnp.square(jnp.sin(HALF_PI * u))
        return jnp.clip(1 - u - self.scale * bend, SMALLEST, 1)


@dataclass(frozen=True)
class CosMap:
    """Log SNR distributed as under the cosine schedule (Esser et al., 2024, sec. 3.1).

    `t = 1 - 1 / (tan(pi u / 2) + 1)` with u uniform, which has the density
    `2 / (pi (1 - 2 t + 2 t^2))`.
    """

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        angle = HALF_PI * jax.random.uniform(key, shape)
        sine = jnp.sin(angle)
        return jnp.clip(sine / (sine + jnp.cos(angle)), SMALLEST, 1)


@dataclass(frozen=True)
class LogNormalSigma:
    """`log sigma` is normal, on the path `EDM(sigma_max)`: Karras et al., 2022.

    mean, scale: P_mean and P_std of the paper. A sigma above sigma_max, which the
    published settings draw about twice in a million, is drawn as sigma_max.
    """

    mean: float = -1.2
    scale: float = 1.2
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)
        _check_positive("sigma_max", self.sigma_max)

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        sigma = jnp.exp(self.mean + self.scale * jax.random.normal(key, shape))
        return jnp.clip(sigma / self.sigma_max, SMALLEST, 1)


@dataclass(frozen=True)
class Shifted:
    """Another distribution's times, moved towards noise (Esser et al., 2024, 5.3.2).

    `shift t / (1 + (shift - 1) t)`: on rectified flow, noise levels are multiplied by
    `shift`. It is `resolution_shift(...)` when the resolution changes; SD3 uses 3.
    """

    inner: TimeSampling = UniformTime()
    shift: float = 3.0

    def __post_init__(self) -> None:
        _check_positive("shift", self.shift)

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return shifted(self.inner(key, shape), self.shift)


@dataclass(frozen=True)
class Band:
    """Another distribution's times, squeezed into one band: `low + (high - low) t`.

    A stage of training that sees some noise levels only, as UltraFlux's second, whose
    times are above 0.54 (Ye et al., 2025, section 3.2.4 and table 9).
    """

    inner: TimeSampling = UniformTime()
    low: float = 0.54
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"low is {self.low} and high {self.high}, but a band of times has "
                "0 <= low < high <= 1"
            )

    def __call__(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.low + (self.high - self.low) * self.inner(key, shape)


def shifted(time: Float[Array, "..."], shift: float) -> Float[Array, "..."]:
    """`shift t / (1 + (shift - 1) t)`, which keeps 0 and 1."""
    return shift * time / (1 + (shift - 1) * time)


def resolution_shift(tokens: int, base: int) -> float:
    """The shift at which data of `tokens` values is as uncertain as data of `base`.

    `sqrt(tokens / base)`, counts of pixels, latents or tokens (Esser et al., 2024,
    section 5.3.2). Raises ValueError unless both are positive.
    """
    _check_positive("tokens", tokens)
    _check_positive("base", base)
    return float((tokens / base) ** 0.5)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}, but it must be above 0")
