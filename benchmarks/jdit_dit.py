# SPDX-License-Identifier: Apache-2.0
"""jdit's side of the benchmark: three tasks, as a user of the library writes them."""

from collections.abc import Callable

GRID = 32
SIZES = {
    "S": dict(dim=384, depth=12, heads=6),
    "B": dict(dim=768, depth=12, heads=12),
    "XL": dict(dim=1152, depth=28, heads=16),
}


def contestant(
    task: str,
    size: str,
    batch: int,
    dtype: str,
    unroll: int,
    grid: int = GRID,
    steps: int = 10,
) -> Callable[[], object]:
    """A function without arguments that does the task once, to the end.

    grid: the side of the latents. steps: of guided sampling.
    """
    import jax
    import jax.numpy as jnp
    import optax

    import jdit
    from jdit.guidance import CFG
    from jdit.objectives import Denoising
    from jdit.processes import Gaussian

    changes = {"unroll": unroll} if unroll else {}
    model = jdit.dit(size, 2, dtype=dtype, grid=(grid, grid), **changes)
    params = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch, grid, grid, 4))
    label = jnp.arange(batch) % 1000
    process = Gaussian()

    if task == "forward":
        time = jnp.linspace(0.1, 0.9, batch)
        apply = jax.jit(
            lambda p, x, t, y: model.apply(p, x, t, {"label": y}).prediction
        )
        return lambda: apply(params, x, time, label).block_until_ready()

    if task == "sample":

        @jax.jit
        def draw(key: jax.Array, params: dict, label: jax.Array) -> jax.Array:
            return jdit.sample(
                key,
                model,
                params,
                {"label": label},
                process=process,
                steps=steps,
                guidance=CFG(4.0),
            )

        key = jax.random.key(2)
        return lambda: draw(key, params, label).block_until_ready()

    tx = optax.adamw(1e-4, weight_decay=0.01)

    def update(state: tuple, key: jax.Array, batch: dict) -> tuple[tuple, jax.Array]:
        params, moments, average = state

        def loss(params: dict) -> jax.Array:
            objective = Denoising()
            return jdit.loss(
                key, model, params, batch, process=process, objective=objective
            )[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = tx.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1e-4)
        return (params, moments, average), value

    step = jax.jit(update, donate_argnums=0)
    held = [(params, jax.jit(tx.init)(params), jax.tree.map(jnp.copy, params))]
    data = {"x_0": x, "label": label}

    def train() -> jax.Array:
        state, value = step(held.pop(), jax.random.key(3), data)
        held.append(state)
        return value.block_until_ready()

    return train
