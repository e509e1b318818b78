# SPDX-License-Identifier: Apache-2.0
"""What a large product of matrices reaches on this device: the measured ceiling."""

from collections.abc import Callable

SIDE, TIMES = 8192, 10
FLOPS = TIMES * 2 * SIDE**3
"""Of one call."""


def products() -> Callable[[], object]:
    """A call that multiplies two matrices of random bfloat16 numbers some times."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.random.normal(key, (SIDE, SIDE), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul)

    def several() -> None:
        for _ in range(TIMES):
            out = product(x, y)
        out.block_until_ready()

    return several
