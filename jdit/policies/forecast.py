# SPDX-License-Identifier: Apache-2.0
"""Compute a branch now and then; in between, extrapolate what it gave."""

from dataclasses import dataclass
from functools import partial
from math import factorial

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jdit.stack import Branch, Context, Site
from jdit.typing import Array, Int, Key, Params, Stream


@flax.struct.dataclass
class Trend:
    """A branch's last output and its finite differences, per network evaluation.

    terms: outputs' differences of order 0, 1, ..., a tuple of `order + 1` streams.
    known: how many outputs have been computed; age: evaluations since the last one.
    """

    terms: tuple[Stream, ...]
    known: Int[Array, ""]
    age: Int[Array, ""]


def _slope(rate: Array, new: Array, old: Array) -> Array:
    return (new - old) * rate.astype(new.dtype)


@dataclass(frozen=True)
class Forecast:
    """Compute a branch at every `interval`-th evaluation, else forecast its output.

    The forecast k evaluations after a computed one is a Taylor polynomial,

        sum_i  D_i k^i / i!,     D_0 = output,   D_{i+1} = (D_i - previous D_i) / gap,

    with `gap` the evaluations between the last two computed ones (TaylorSeer, Liu et
    al., 2025, section 3). The differences are updated at computed evaluations
    only. The first `warmup` evaluations are computed; a difference that needs an
    output not yet seen is zero. Order 0 with a warmup of 1 is `Reuse`; `interval` 1 is
    the plain model. Memory: `order + 1` streams a branch and layer.

    Raises ValueError for an interval or a warmup below 1, or an order below 0.
    """

    interval: int = 4
    order: int = 1
    warmup: int = 2

    def __post_init__(self) -> None:
        for name, low in (("interval", 1), ("order", 0), ("warmup", 1)):
            if getattr(self, name) < low:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but it must be at least {low}"
                )

    def parameters(self, key: Key, delta: Stream) -> Params:
        return {}

    def init(self, delta: Stream) -> Trend:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), delta)
        zero = jnp.zeros((), jnp.int32)
        return Trend((zeros,) * (self.order + 1), zero, zero)

    def apply(
        self,
        branch: Branch,
        stream: Stream,
        context: Context,
        memory: Trend,
        site: Site,
        params: Params,
    ) -> tuple[Stream, Trend]:
        age = memory.age + 1

        def computed() -> tuple[Stream, Trend]:
            output = branch(stream, branch.weights)
            terms = self._differences(output, memory, age)
            return output, Trend(terms, memory.known + 1, jnp.zeros_like(age))

        def forecast() -> tuple[Stream, Trend]:
            return self._extrapolate(memory, age), Trend(
                memory.terms, memory.known, age
            )

        due = (memory.known < self.warmup) | (age >= self.interval)
        output, memory = lax.cond(due, computed, forecast)
        return branch.merge(stream, output), memory

    def _differences(self, output: Stream, memory: Trend, gap: Array) -> tuple:
        terms = [output]
        for i, previous in enumerate(memory.terms[:-1]):
            rate = jnp.where(memory.known > i, 1.0 / gap, 0.0)
            terms.append(jax.tree.map(partial(_slope, rate), terms[-1], previous))
        return tuple(terms)

    def _extrapolate(self, memory: Trend, age: Array) -> Stream:
        ahead = age.astype(jnp.float32)

        def polynomial(value: Array, *slopes: Array) -> Array:
            for i, slope in enumerate(slopes, 1):
                value = value + (ahead**i / factorial(i)).astype(value.dtype) * slope
            return value

        return jax.tree.map(polynomial, *memory.terms)
