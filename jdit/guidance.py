# SPDX-License-Identifier: Apache-2.0
"""Guidance: wrappers that steer the denoiser by a second opinion.

Each takes a denoiser and gives a denoiser, so they compose: `CFG(4.0)` around
`Autoguidance(weak)` doubles the batch of both networks.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax

from jdit.denoise import Denoiser, Wrapped
from jdit.processes import Gaussian, Prediction
from jdit.typing import Array, Conditions, Float, Memory


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance in one batched call (Ho and Salimans, 2022).

    `conditional + (scale - 1) (conditional - unconditional)`; scale 1 is no guidance,
    and the number 1 costs none. A learned variance is the conditional one's, as in DiT.

    scale: a number, or one for each image; may be traced.
    interval: (low, high): guide at times in (low, high] only (Kynkaanniemi et al.,
        2024; `jdit.processes.time_from_sigma` gives the times of its noise levels).
        Outside, the unconditional half is not computed at all. What a policy
        remembers of it is then the conditional half's, so that it has something to
        reuse in the first guided step.
    rescale: phi in [0, 1], how far the guided prediction, in the terms of the process's
        target, is brought back to the standard deviation of the conditional one (Lin
        et al., 2024, equations 15 and 16, which advise 0.7).
    channels: guide only the first ones; DiT's published samples guide 3 of 4.
    """

    scale: float | Array = 4.0
    interval: tuple[float, float] | None = None
    rescale: float | Array = 0.0
    channels: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if _is(self.scale, 1) else _Guided(self, denoiser)

    def mix(
        self,
        good: Prediction,
        bad: Prediction,
        x_t: Float[Array, "b *g c"],
        time: Array,
        process: Gaussian,
    ) -> Prediction:
        """The guided prediction, of the conditional and the unconditional one."""
        return _mix(self, good, bad, x_t, time, process)


@dataclass(frozen=True)
class Autoguidance:
    """Guidance by a weaker model of the same task (Karras et al., 2024).

    `strong + (scale - 1) (strong - weak)`, both told the same conditions. The weak
    model is a denoiser of its own, e.g. `Network(model, params, process)` of fewer
    layers or an earlier checkpoint; it must share the process of the strong one.

    scale, interval, rescale, channels: as in `CFG`; outside the interval the weak model
    is not run.
    """

    weak: Denoiser
    scale: float | Array = 2.0
    interval: tuple[float, float] | None = None
    rescale: float | Array = 0.0
    channels: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if _is(self.scale, 1) else _Autoguided(self, denoiser)


@dataclass(frozen=True)
class _Guided(Wrapped):
    """Rows 2 i and 2 i + 1 of the doubled batch are image i, told its conditions and
    the null ones: halves stay together on a sharded batch, and guidance may nest.

    apart: all rows with conditions are before all with the null ones (`in_halves`).
    """

    guidance: CFG
    inner: Denoiser
    apart: bool = False

    @property
    def _rows(self) -> str:
        return "two b" if self.apart else "b two"

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        return self.inner.init(*self._double(x_t, conditions))

    def _double(self, x_t: Array, conditions: Conditions) -> tuple[Array, Conditions]:
        pair = (conditions, self.inner.null(conditions))
        both = jax.tree.map(
            lambda *c: rearrange(jnp.stack(c), f"two b ... -> ({self._rows}) ..."),
            *pair,
        )
        return repeat(x_t, f"b ... -> ({self._rows}) ...", two=2), both

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        def guided(memory: Memory) -> tuple[Prediction, Memory]:
            x, both = self._double(x_t, conditions)
            prediction, memory = self.inner(x, time, both, memory, evaluation)
            count = len(x_t)
            first = slice(count) if self.apart else slice(0, None, 2)
            second = slice(count, None) if self.apart else slice(1, None, 2)
            yes = jax.tree.map(lambda value: value[first], prediction)
            no = jax.tree.map(lambda value: value[second], prediction)
            return self.guidance.mix(yes, no, x_t, time, self.process), memory

        def plain(memory: Memory) -> tuple[Prediction, Memory]:
            rows = self._rows, len(x_t)
            half = jax.tree.map(lambda m, a: _half(m, a, *rows), memory, axes)
            prediction, half = self.inner(x_t, time, conditions, half, evaluation)
            return prediction, jax.tree.map(lambda m, a: _both(m, a, *rows), half, axes)

        if self.guidance.interval is None:
            return guided(memory)
        axes = self._axes(x_t, conditions)
        inside = _inside(self.guidance.interval, time)
        return lax.cond(inside, guided, plain, memory)

    def _axes(self, x_t: Array, conditions: Conditions) -> Any:
        """The batch axis of each leaf of the memory; -1 where it has none."""

        def axis(one: Any, two: Any) -> int:
            pairs = list(zip(one.shape, two.shape, strict=True))
            axes = [i for i, (a, b) in enumerate(pairs) if a != b]
            if not axes:
                return -1
            size, doubled = pairs[axes[0]]
            if len(axes) > 1 or doubled != 2 * size or size % len(x_t):
                raise ValueError(
                    f"interval needs a memory with one batch axis per leaf, but a leaf "
                    f"of shape {one.shape} becomes {two.shape} for twice the batch"
                )
            return axes[0]

        one = jax.eval_shape(self.inner.init, x_t, conditions)
        two = jax.eval_shape(self.init, x_t, conditions)
        return jax.tree.map(axis, one, two)


def in_halves(denoiser: Denoiser) -> Denoiser:
    """The same guidance, with all conditional rows before all unconditional ones.

    So a mesh can split one half from the other, and each example is where it was.
    Raises ValueError for a denoiser that is not guided by `CFG`.
    """
    if not isinstance(denoiser, _Guided):
        raise ValueError(
            "mesh.guidance is 2, but sampling is not guided by CFG, of scale other "
            "than 1: there is no second half to give to other devices"
        )
    return replace(denoiser, apart=True)


@dataclass(frozen=True)
class _Autoguided(Wrapped):
    """The memory is a pair: the strong model's and the weak one's."""

    guidance: Autoguidance
    inner: Denoiser

    def init(self, x_t: Array, conditions: Conditions) -> Memory:
        weak = self.guidance.weak
        return self.inner.init(x_t, conditions), weak.init(x_t, conditions)

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        strong, kept = self.inner(x_t, time, conditions, memory[0], evaluation)

        def guided(memory: Memory) -> tuple[Prediction, Memory]:
            weak, memory = self.guidance.weak(x_t, time, conditions, memory, evaluation)
            return _mix(self.guidance, strong, weak, x_t, time, self.process), memory

        def plain(memory: Memory) -> tuple[Prediction, Memory]:
            return strong, memory

        if self.guidance.interval is None:
            prediction, weak = guided(memory[1])
        else:
            inside = _inside(self.guidance.interval, time)
            prediction, weak = lax.cond(inside, guided, plain, memory[1])
        return prediction, (kept, weak)


def _mix(
    guidance: CFG | Autoguidance,
    good: Prediction,
    bad: Prediction,
    x_t: Float[Array, "b *g c"],
    time: Array,
    process: Gaussian,
) -> Prediction:
    """Away from the bad prediction, through the good one, whose variance is kept."""
    scale = jnp.asarray(guidance.scale, jnp.float32)
    if scale.ndim and scale.shape != x_t.shape[:1]:
        raise ValueError(
            f"scale has shape {scale.shape}, but it must be one number, or one for "
            f"each of the {len(x_t)} images of the batch it guides"
        )
    scale = scale.reshape(scale.shape + (1,) * (x_t.ndim - scale.ndim))
    if guidance.channels is not None:
        guided = jnp.arange(x_t.shape[-1]) < guidance.channels
        scale = jnp.where(guided, scale, 1)
    mixed = good._replace(
        x_0=good.x_0 + (scale - 1) * (good.x_0 - bad.x_0),
        noise=good.noise + (scale - 1) * (good.noise - bad.noise),
    )
    if _is(guidance.rescale, 0):
        return mixed
    value = process.express(mixed, time, to=process.target)
    wanted = process.express(good, time, to=process.target)
    ratio = _deviation(wanted) / jnp.maximum(_deviation(value), 1e-8)
    value = value * (guidance.rescale * ratio + 1 - guidance.rescale)
    rescaled = process.solve(value, x_t, time, source=process.target)
    return rescaled._replace(variance=good.variance)


def _deviation(value: Float[Array, "b *g c"]) -> Array:
    """The standard deviation of each image over all its values."""
    return jnp.std(value, axis=tuple(range(1, value.ndim)), keepdims=True)


def _inside(interval: tuple[float, float], time: Array) -> Array:
    low, high = interval
    return (time > low) & (time <= high)


def _half(leaf: Array, axis: int, layout: str, batch: int) -> Array:
    """What a doubled memory holds of the conditional rows."""
    if axis < 0:
        return leaf
    rows = rearrange(
        jnp.moveaxis(leaf, axis, 0),
        f"({layout} m) ... -> two (b m) ...",
        b=batch,
        two=2,
    )
    return jnp.moveaxis(rows[0], 0, axis)


def _both(leaf: Array, axis: int, layout: str, batch: int) -> Array:
    """A doubled memory whose null rows hold what the conditional ones do."""
    if axis < 0:
        return leaf
    rows = repeat(
        jnp.moveaxis(leaf, axis, 0),
        f"(b m) ... -> ({layout} m) ...",
        b=batch,
        two=2,
    )
    return jnp.moveaxis(rows, 0, axis)


def _is(value: float | Array, number: float) -> bool:
    """Whether it is this number, known before any compilation."""
    return isinstance(value, (int, float)) and value == number


def _check(guidance: CFG | Autoguidance) -> None:
    interval, rescale = guidance.interval, guidance.rescale
    if interval is not None and len(interval) != 2:
        raise ValueError(f"interval is {interval}, but it must be (low, high)")
    if interval is not None and all(isinstance(t, (int, float)) for t in interval):
        if not interval[0] < interval[1]:
            raise ValueError(f"interval is {interval}, but low must be below high")
    if isinstance(rescale, (int, float)) and not 0 <= rescale <= 1:
        raise ValueError(f"rescale is {rescale}, but it must lie in [0, 1]")
    if guidance.channels is not None and guidance.channels < 1:
        raise ValueError(f"channels is {guidance.channels}, but it must be at least 1")
