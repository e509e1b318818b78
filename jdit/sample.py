# SPDX-License-Identifier: Apache-2.0
"""Sampling: one `lax.scan` whose carry is (x, solver state, memory)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdit.denoise import Denoiser, Network, Wrapper
from jdit.processes import Gaussian
from jdit.solvers import Euler, Grid, Interval, Solver, Uniform
from jdit.stack import Always, Policy
from jdit.typing import Array, Conditions, Float, Key, Params


def image_keys(key: Key, count: int, first: int = 0) -> Key:
    """One key per image. Image i's key depends on `key` and i alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def sample(
    key: Key,
    model: Any,
    params: Params,
    conditions: Conditions | None = None,
    *,
    process: Gaussian,
    steps: int,
    solver: Solver | None = None,
    grid: Grid | None = None,
    guidance: Wrapper | None = None,
    policy: Policy | None = None,
    count: int | None = None,
    first: int = 0,
) -> Float[Array, "b *g c"]:
    """Draw data from the model: a pure function, to be jitted by the caller.

    conditions: one entry per image, e.g. {"label": labels}; their length is the batch,
        unless `count` says it.
    steps, solver, grid: `Euler()` on `Uniform()` times if not given.
    guidance: a wrapper of the denoiser, e.g. `jdit.guidance.CFG(4.0)`.
    policy: which branches are computed at which step; `Always()` if not given.
    first: the number of the batch's first image. Image i's noise depends on `key` and
        `first + i` alone, so a set may be drawn in batches of any size.

    Returns float32 data at time 0. Raises ValueError for steps below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, but a sampling run needs at least 1 step")
    conditions = conditions or {}
    if count is None:
        leaves = jax.tree.leaves(conditions)
        if not leaves:
            raise ValueError("count is missing: without conditions, say how many images")
        count = len(leaves[0])
    denoiser: Denoiser = Network(model, params, process, policy or Always())
    if guidance is not None:
        denoiser = guidance(denoiser)
    keys = image_keys(key, count, first)
    like = jnp.zeros((count, *model.sample_shape))
    x = jax.vmap(lambda k, x: process.prior(k, x))(keys, like)
    return integrate(
        denoiser,
        process,
        x,
        conditions,
        (grid or Uniform())(process, steps),
        solver or Euler(),
        keys,
    )


def integrate(
    denoiser: Denoiser,
    process: Gaussian,
    x: Float[Array, "b *g c"],
    conditions: Conditions,
    times: Float[Array, " s"],
    solver: Solver,
    keys: Key,
) -> Float[Array, "b *g c"]:
    """Follow the solver over the times, from `x` at `times[0]`."""

    def denoise(x_t: Array, time: Array, memory: Any, evaluation: Array) -> tuple:
        return denoiser(x_t, time, conditions, memory, evaluation)

    def step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        x, state, memory = carry
        time, next_time, index = xs
        noise = jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)
        last = index == len(times) - 2
        interval = Interval(time, next_time, index, last, noise)
        return solver.step(denoise, process, x, interval, state, memory), None

    carry = (x, solver.init(x), denoiser.init(x, conditions))
    xs = (times[:-1], times[1:], jnp.arange(len(times) - 1))
    (x, _, _), _ = lax.scan(step, carry, xs)
    return x
