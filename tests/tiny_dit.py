# SPDX-License-Identifier: Apache-2.0
"""A DiT that runs in milliseconds, with parameters that are not those of its start."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.conditioning import Labels
from jdit.models import DiT
from jdit.typing import Params

MODEL = DiT(grid=(8, 8), channels=2, dim=32, depth=3, heads=2, conditioning=Labels(5))
LABELS = {"label": jnp.array([0, 4])}


KEY = jax.random.key(0, impl="unsafe_rbg")
"""Of which a draw compiles to one operation, not to rounds of many."""


@cache
def start(model: Any = MODEL) -> Params:
    with jax.ensure_compile_time_eval():  # also where a test asks first while tracing
        return jax.jit(model.init)(KEY)


@cache
def awake(model: Any = MODEL, seed: int = 1, scale: float = 0.1) -> Params:
    """The first parameters plus noise: adaLN-Zero at its start computes nothing."""
    rng = np.random.default_rng(seed)

    def move(x: jax.Array) -> jax.Array:
        noise = scale * rng.normal(size=x.shape)
        return jax.device_put((np.asarray(x) + noise).astype(x.dtype))

    with jax.ensure_compile_time_eval():
        return jax.tree.map(move, start(model))


@cache
def program(model: Any, **more: Any) -> Callable:
    """`model.apply` with these keywords, compiled once for all who ask."""
    return jax.jit(partial(model.apply, **more))


def batch(model: DiT = MODEL, size: int = 2, seed: int = 2) -> tuple:
    """x_t and time for a model."""
    x = jax.random.normal(jax.random.key(seed), (size, *model.sample_shape))
    return x, jnp.linspace(0.2, 0.9, size)
