# SPDX-License-Identifier: Apache-2.0
"""Time grids: the `steps + 1` times a solver visits, from 1 down to 0."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jdit.processes import Gaussian, log_snr, time_from_log_snr, time_from_sigma
from jdit.typing import Array, Float


@runtime_checkable
class Grid(Protocol):
    """`steps + 1` falling times, the first 1 (or just below), the last exactly 0."""

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]: ...


@dataclass(frozen=True)
class Uniform:
    """Equal steps in time, from `first` to 0.

    last: the length of the last step, if it is to be another one: SiT's sampler of the
    SDE makes `steps - 1` equal steps and one of 0.04.
    least: where the equal steps would end, if not at 0: the last time is 0 all the same
        (diffusers' flows count down to 1 / 1000).
    """

    first: float = 1.0
    last: float | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= 1:
            raise ValueError(f"first is {self.first}, but it must lie in (0, 1]")
        if self.last is not None and not 0 < self.last < self.first:
            raise ValueError(
                f"last is {self.last}, but it must lie between 0 and first "
                f"({self.first}), or be None"
            )
        if not 0 <= self.least < self.first or (self.least and self.last):
            raise ValueError(
                f"least is {self.least}, but it must lie in [0, {self.first}), and be "
                "0 where last is given"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)
        if self.last is None:
            return jnp.linspace(self.first, self.least, steps + 1).at[-1].set(0.0)
        return _to_zero(jnp.linspace(self.first, self.last, steps))


@dataclass(frozen=True)
class Times:
    """These times, and no others: falling, the last 0."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or not falls or self.times[0] > 1 or self.times[-1] != 0:
            raise ValueError(
                f"times is {self.times}, but it must fall strictly, from at most 1 to 0"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        if steps != len(self.times) - 1:
            raise ValueError(
                f"steps is {steps}, but times has {len(self.times)} entries, which is "
                f"{len(self.times) - 1} steps"
            )
        return jnp.asarray(self.times, jnp.float32)


@dataclass(frozen=True)
class Respaced:
    """`steps` of the `total` indices of a discrete chain, first and last among them.

    Index i sits at time `(i + 1) / total`; indices are equally spaced and rounded to
    even, as ADM and DiT respace (Improved DDPM, Nichol and Dhariwal, 2021, section 4).
    A single step starts from the last index.
    """

    total: int = 1000

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check_total(steps, self.total)
        stride = (self.total - 1) / max(steps - 1, 1)
        position, taken = 0.0, []
        for _ in range(steps):  # summed up as the published code does: it rounds alike
            taken.append(round(position))
            position += stride
        return _indices([self.total - 1] if steps == 1 else taken, self.total)


@dataclass(frozen=True)
class Leading:
    """Every `total // steps`-th index, from `offset`: the spacing DDIM published.

    ADM's "ddimN" has offset 0, Stable Diffusion 1. The first time is below 1 (Lin et
    al., 2024, table 2, which advises against it).
    """

    total: int = 1000
    offset: int = 0

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check_total(steps, self.total)
        stride = self.total // steps
        if not 0 <= self.offset <= self.total - 1 - (steps - 1) * stride:
            raise ValueError(
                f"offset is {self.offset}, but {steps} indices {stride} apart must "
                f"stay below {self.total}"
            )
        taken = [i * stride + self.offset for i in range(steps)]
        return _indices(taken, self.total)


@dataclass(frozen=True)
class Trailing:
    """Indices counted back from the last in strides of `total / steps`, rounded.

    The first time is 1, so sampling starts where training ended (Lin et al., 2024,
    table 2).
    """

    total: int = 1000

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check_total(steps, self.total)
        taken = np.round(np.arange(steps, 0, -1) * (self.total / steps)) - 1
        return _indices(taken[::-1], self.total)


@dataclass(frozen=True)
class Linspace:
    """Indices equally spaced from the last to 0, which is left out, rounded.

    The default spacing of diffusers' multistep solvers: the last evaluation stays
    further from data than that of `Respaced` ("linspace" in Lin et al., 2024, table 2,
    is that one).
    """

    total: int = 1000

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check_total(steps, self.total - 1)
        return _indices(
            np.round(np.linspace(0, self.total - 1, steps + 1))[1:], self.total
        )


@dataclass(frozen=True)
class EDMRho:
    """Noise levels whose `1 / rho`-th powers are equally spaced, then 0.

    `sigma_i = (a + i / (steps - 1) (b - a))^rho` with a and b the roots of sigma_max
    and sigma_min (Karras et al., 2022, equation 5). A level is `sigma / alpha`, so it
    serves any path; where a path cannot reach sigma_max, time 1 is its first time.
    """

    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min and sigma_max are {self.sigma_min} and {self.sigma_max}, "
                "but they must be positive, the first below the second"
            )
        if self.rho <= 0:
            raise ValueError(f"rho is {self.rho}, but it must be above 0")

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)
        reached = jnp.exp(-log_snr(process.path, jnp.ones(())) / 2)
        high = jnp.minimum(self.sigma_max, reached) ** (1 / self.rho)
        low = self.sigma_min ** (1 / self.rho)
        sigma = (high + jnp.linspace(0.0, 1.0, steps) * (low - high)) ** self.rho
        return _to_zero(time_from_sigma(process.path, sigma))


@dataclass(frozen=True)
class LogSNR:
    """Equal steps in log SNR between the times `first` and `last`, then 0.

    The spacing DPM-Solver advises (Lu et al., 2022a). The first time is then set to 1,
    where the prior lives: its log SNR may be infinite.
    """

    first: float = 0.999
    last: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.last < self.first <= 1:
            raise ValueError(
                f"first and last are {self.first} and {self.last}, but they must lie "
                "in (0, 1], the last below the first"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)
        ends = log_snr(process.path, jnp.asarray([self.first, self.last]))
        value = jnp.linspace(ends[0], ends[1], steps)
        return _to_zero(time_from_log_snr(process.path, value).at[0].set(1.0))


@dataclass(frozen=True)
class Shifted:
    """`shift t / (1 + (shift - 1) t)` of another grid's times.

    Above 1 it spends more steps on noise, as larger images need: the shift is the root
    of the ratio of token counts (SD3, Esser et al., 2024, equation 23).
    """

    shift: float = 3.0
    inner: Grid = Uniform()

    def __post_init__(self) -> None:
        if isinstance(self.shift, (int, float)) and self.shift <= 0:
            raise ValueError(f"shift is {self.shift}, but it must be above 0")

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        time = self.inner(process, steps)
        return self.shift * time / (1 + (self.shift - 1) * time)


@dataclass(frozen=True)
class Stretched:
    """Another grid's times, of which the last before 0 becomes `last`.

    Their distances from 1 are scaled alike (LTX-Video, HaCohen et al., 2024, and
    Qwen-Image stretch a shifted grid so, to 0.1 and 0.02).
    """

    last: float = 0.02
    inner: Grid = Uniform()

    def __post_init__(self) -> None:
        if not 0 < self.last < 1:
            raise ValueError(f"last is {self.last}, but it must lie between 0 and 1")

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        time = self.inner(process, steps)[:-1]
        if steps == 1:
            return _to_zero(time)
        return _to_zero(1 - (1 - time) * (1 - self.last) / (1 - time[-1]))


@dataclass(frozen=True)
class Sigmoid:
    """Times on a sigmoid between `start` and `end`, rescaled to [0, 1].

    Small steps near both noise and data, large ones between. The function is that of
    the sigmoid noise schedule (Chen, 2023, algorithm 1; Jabri et al., 2023), `tau` its
    temperature: the larger, the nearer to uniform.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.start >= self.end or self.tau <= 0:
            raise ValueError(
                f"start, end and tau are {self.start}, {self.end} and {self.tau}, but "
                "start must be below end and tau above 0"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)

        def sigmoid(x: float | np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-np.asarray(x) / self.tau))

        low, high = sigmoid(self.start), sigmoid(self.end)
        value = sigmoid(np.linspace(self.end, self.start, steps + 1))
        time = (value - low) / (high - low)
        return jnp.asarray(time, jnp.float32).at[-1].set(0.0)


@dataclass(frozen=True)
class TwoSided:
    """Times on a sigmoid with another slope on each side of its middle, rescaled.

    Over u from 0 (noise) to 1 (data) it is a sigmoid of `early (u - middle)` before the
    middle and of `late (u - middle)` after it, and so one half there: the steps near
    both ends are small. The Flow ODE is bent most near noise, and then near data
    (Lumina-Next, Zhuo et al., 2024, whose parameters these are, with the midpoint rule
    for 10 to 20 evaluations). The published code has no such schedule, but the paper's
    other one, which is `Shifted`. Derived: the sign of the piece after the middle,
    which as it is quoted elsewhere would fall, and the rescaling to reach both ends.
    """

    middle: float = 0.6
    early: float = 6.0
    late: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.middle < 1 or min(self.early, self.late) <= 0:
            raise ValueError(
                f"middle, early and late are {self.middle}, {self.early} and "
                f"{self.late}, but middle must lie in (0, 1) and the slopes above 0"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)
        u = np.linspace(0.0, 1.0, steps + 1) - self.middle
        risen = 1 / (1 + np.exp(-np.where(u < 0, self.early, self.late) * u))
        risen = (risen - risen[0]) / (risen[-1] - risen[0])
        return jnp.asarray(1 - risen, jnp.float32).at[-1].set(0.0)


@dataclass(frozen=True)
class Sway:
    """`u + coefficient (cos(pi u / 2) - 1 + u)` of uniform u, which rises to data.

    Below 0 it moves steps towards noise, where speech takes its shape (F5-TTS, Chen et
    al., 2024, sway sampling; its time runs from noise to data: u is 1 - time).

    coefficient: in [-1, 2 / (pi - 2)], where the times fall.
    """

    coefficient: float = -1.0

    def __post_init__(self) -> None:
        if not -1 <= self.coefficient <= 2 / (np.pi - 2):
            raise ValueError(
                f"coefficient is {self.coefficient}, but it must lie in "
                f"[-1, {2 / (np.pi - 2):.4f}], else times would not fall"
            )

    def __call__(self, process: Gaussian, steps: int) -> Float[Array, " s"]:
        _check(steps)
        u = np.linspace(0.0, 1.0, steps + 1)
        u = u + self.coefficient * (np.cos(np.pi / 2 * u) - 1 + u)
        return jnp.asarray(1 - u, jnp.float32).at[-1].set(0.0)


def _to_zero(times: Array) -> Float[Array, " s"]:
    return jnp.append(times, 0.0)


def _indices(taken: list[int] | np.ndarray, total: int) -> Float[Array, " s"]:
    """Times of rising indices, fallen, and 0."""
    times = (np.asarray(taken, np.float64)[::-1] + 1) / total
    return _to_zero(jnp.asarray(times, jnp.float32))


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}, but a sampling run needs at least 1 step")


def _check_total(steps: int, total: int) -> None:
    _check(steps)
    if steps > total:
        raise ValueError(f"steps is {steps}, but the chain has only {total} indices")
