# SPDX-License-Identifier: Apache-2.0
"""A DiT that runs in milliseconds, with parameters that are not those of its start."""

from functools import cache

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jdit.conditioning import Labels
from jdit.models import DiT
from jdit.stack import Block
from jdit.typing import Key, Params

MODEL = DiT(grid=(8, 8), channels=2, dim=32, depth=3, heads=2, conditioning=Labels(5))
LABELS = {"label": jnp.array([0, 4])}


def awake(params: Params, key: Key, scale: float = 0.1) -> Params:
    """The parameters plus noise: adaLN-Zero at its start computes nothing."""
    flat, unravel = ravel_pytree(params)  # one draw compiles faster than one a leaf
    return unravel(flat + scale * jax.random.normal(key, flat.shape))


@cache
def start(model: DiT | Block = MODEL) -> Params:
    with jax.ensure_compile_time_eval():  # also where a test asks first while tracing
        return jax.jit(model.init)(jax.random.key(0))


@cache
def params(model: DiT = MODEL) -> Params:
    with jax.ensure_compile_time_eval():
        return jax.jit(awake)(start(model), jax.random.key(1))


def batch(model: DiT = MODEL, size: int = 2, seed: int = 2) -> tuple:
    """x_t and time for a model."""
    x = jax.random.normal(jax.random.key(seed), (size, *model.sample_shape))
    return x, jnp.linspace(0.2, 0.9, size)
