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
from jdit.typing import Array, Conditions, Float, Key, Memory, Params


def image_keys(key: Key, count: int, first: int | Array = 0) -> Array:
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
    first: int | Array = 0,
    x_T: Float[Array, "b *g c"] | None = None,
) -> Float[Array, "b *g c"]:
    """Draw data from the model: a pure function, to be jitted by the caller.

    conditions: one entry per image, e.g. {"label": labels}; their length is the batch,
        unless `count` says it.
    process: the one the model was trained with.
    steps, solver, grid: `Euler()` on `Uniform()` times if not given.
    guidance: a wrapper of the denoiser, e.g. `jdit.guidance.CFG(4.0)`.
    policy: which branches are computed at which step; `Always()` if not given.
    first: the number of the batch's first image. Image i's noise depends on `key` and
        `first + i` alone, so a set may be drawn in batches of any size.
    x_T: where to start, at the grid's first time; a draw from the prior if not given.

    Returns float32 data at time 0. Raises ValueError for steps below 1, for a batch
    whose size is unknown or contradictory, and for an x_T of another shape.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, but a sampling run needs at least 1 step")
    conditions = conditions or {}
    if count is None and x_T is not None:
        count = len(x_T)
    count = _batch(conditions, count)
    shape = (count, *model.sample_shape)
    if x_T is not None and x_T.shape != shape:
        raise ValueError(f"x_T has shape {x_T.shape}, but it must have shape {shape}")
    denoiser: Denoiser = Network(model, params, process, policy or Always())
    if guidance is not None:
        denoiser = guidance(denoiser)
    keys = image_keys(key, count, first)
    if x_T is None:
        x_T = jax.vmap(process.prior)(keys, jnp.zeros(shape))
    return integrate(
        denoiser,
        process,
        x_T.astype(jnp.float32),
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
    keys: Array,
) -> Float[Array, "b *g c"]:
    """Follow the solver over the times, from `x` at `times[0]`."""
    return follow(denoiser, process, x, conditions, times, solver, keys)[0]


def follow(
    denoiser: Denoiser,
    process: Gaussian,
    x: Float[Array, "b *g c"],
    conditions: Conditions,
    times: Float[Array, " s"],
    solver: Solver,
    keys: Array,
) -> tuple[Float[Array, "b *g c"], Memory]:
    """As `integrate`, and what the denoiser remembers at the end."""

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
    (x, _, memory), _ = lax.scan(step, carry, xs)
    return x, memory


def _batch(conditions: Conditions, count: int | None) -> int:
    """The number of images, which all conditions must agree on."""
    leaves = jax.tree_util.tree_leaves_with_path(conditions)
    sizes = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        if not jnp.ndim(leaf):
            raise ValueError(
                f"conditions{name} is a single number, but it must be an array with "
                "one entry per image"
            )
        sizes[name] = jnp.shape(leaf)[0]
    if count is None:
        if not sizes:
            raise ValueError(
                "count is missing: without conditions, say how many images"
            )
        count = next(iter(sizes.values()))
    if count < 1:
        raise ValueError(f"count is {count}, but at least 1 image must be asked for")
    for name, size in sizes.items():
        if size != count:
            raise ValueError(
                f"conditions{name} has {size} entries, but the batch has {count} images"
            )
    return count
