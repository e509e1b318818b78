# SPDX-License-Identifier: Apache-2.0
"""What is asked of models whose tokens 8 simulated devices share.

python split.py FILE        writes what the slow test asks: 20 steps of each model
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdit import linear, parallel
from jdit.attention import SelfAttention
from jdit.attention.heads import attend_joined, attending
from jdit.compile.hlo import parse
from jdit.compile.kernels import kernels
from jdit.conditioning import Labels, Text
from jdit.linear import contract, unflattened
from jdit.models import DiT, MMDiT
from jdit.models.latte import Latte
from jdit.models.wan import Wan
from jdit.parallel import Mesh, Plan, Ring, Ulysses
from jdit.parallel.columns import Exchanged
from jdit.parallel.tokens import SplitTokens
from jdit.recipe import Constant, Recipe, Training
from jdit.train import TrainState, init_state, make_step
from jdit.train.fit import plan_of

KINDS = {"ulysses": Ulysses(), "ring": Ring()}
MESHES = {"ulysses": Mesh(fsdp=2, sequence=4), "ring": Mesh(tensor=2, sequence=4)}
CASES: dict[str, tuple] = {
    # lengths of queries, of keys, heads, heads of keys, keys masked
    "grouped, uneven": ((13,), (13,), 8, 2, False),
    "joined": ((3, 10), (3, 10), 8, 8, True),
    "reading": ((9,), (5, 9), 8, 8, True),
    "text": ((16,), (5,), 8, 4, True),
}
ASKED = {
    "ulysses": ["grouped, uneven", "joined", "text"],
    "ring": ["grouped, uneven", "joined", "reading"],
}


def plan_for(kind: str) -> Plan:
    rules = replace(parallel.fsdp_tensor, attention=KINDS[kind])
    return Plan(MESHES[kind].build(), rules)


def arrays(case: str) -> tuple:
    queries, keys, heads, groups, masked = CASES[case]
    rng = np.random.default_rng(sum(queries + keys))

    def draw(lengths: tuple, heads: int) -> list:
        shapes = [(4, heads, n, 6) for n in lengths]
        return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]

    mask = jnp.asarray(rng.uniform(size=(4, sum(keys))) < 0.6) if masked else None
    if masked:
        mask = mask.at[1].set(False)  # an image without any key
    tables = [
        tuple(jnp.asarray(rng.normal(size=(sum(n), 3)), jnp.float32) for _ in "cs")
        for n in (queries, keys)
    ]
    parts = draw(queries, heads), draw(keys, groups), draw(keys, groups)
    return parts, mask, tables, draw(queries, heads)


def attention(kind: str) -> dict[str, float]:
    """The largest relative difference from dense attention, gradients' too."""
    plan, found = plan_for(kind), {}
    cases = {case: arrays(case) for case in ASKED[kind]}

    def run(by: Any) -> Any:
        def one(parts: tuple, mask: Any, tables: Any, weights: Any) -> Any:
            def value(parts: tuple) -> Any:
                turned = dict(rotary=tables[0], key_rotary=tables[1])
                out = attend_joined(*parts, mask=mask, **turned)
                total = sum(
                    jnp.sum(x * jnp.reshape(w, x.shape))
                    for x, w in zip(out, weights, strict=True)
                )
                return total, out

            with attending(by):
                return jax.value_and_grad(value, has_aux=True)(parts)

        return jax.jit(lambda cases: {name: one(*x) for name, x in cases.items()})

    whole, split = run(None)(cases), run(SplitTokens(plan, 4))(cases)
    for case in cases:
        pairs = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(a).max()),
            whole[case],
            split[case],
        )
        (_, out), grads = pairs
        found[case] = max(jax.tree.leaves((out, grads)))
    return found


def memory() -> list[int]:
    """Temporary bytes of a ring's gradient on 4 and on 8 devices, of as many tokens on
    each device: what a device keeps of the others' keys would double them."""
    found = []
    for size in (4, 8):
        mesh = Mesh(8 // size, sequence=size).build()
        plan = Plan(mesh, replace(parallel.dp, attention=Ring()))
        place = NamedSharding(plan.mesh, PartitionSpec("data", None, "sequence"))
        shape = (8 // size, 2, 64 * size, 32)
        x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)

        def value(q: Any, k: Any, v: Any, plan: Plan = plan) -> jax.Array:
            with attending(SplitTokens(plan, len(q))):
                return jnp.sum(attend_joined([q], [k], [v])[0] ** 2)

        gradient = jax.jit(jax.grad(value, (0, 1, 2)), out_shardings=(place,) * 3)
        used = gradient.lower(x, x, x).compile().memory_analysis()
        found.append(used.temp_size_in_bytes)
    return found


def gathers() -> list[bool]:
    """Whether activations are gathered where they meet weights: flattened, and not."""
    mesh = Mesh(2, sequence=4).build()
    place = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((4, 8, 6), jnp.float32, sharding=place)
    kernel = jax.ShapeDtypeStruct((6, 6), jnp.float32, sharding=whole)

    def compiled(kept: Any) -> str:
        def value(kernel: Any, x: Any) -> jax.Array:
            with kept:
                return jnp.sum(jnp.sin(contract(x, kernel)))

        return jax.jit(jax.grad(value)).lower(kernel, x).compile().as_text()

    return ["all-gather" in compiled(kept) for kept in (nullcontext(), unflattened())]


def side_by_side() -> dict[str, float]:
    """Bytes that a device sends for attention's gradient under `tensor`, by kind of
    exchange, and the largest relative difference from one device's."""
    mesh = Mesh(1, 2, 4).build()
    module, rng = SelfAttention(4), np.random.default_rng(0)
    x = rng.normal(size=(8, 64, 16)).astype("f4")
    params = module.init(jax.random.key(0), x)["params"]
    rules, place = parallel.fsdp_tensor, NamedSharding(mesh, PartitionSpec("fsdp"))
    where = Plan(mesh, rules).tree(params, params)

    def gradient(by: Any) -> Any:
        def value(params: Any, x: Any) -> jax.Array:
            with linear.side_by_side(by) if by else nullcontext():
                return jnp.sum(jnp.sin(module.apply({"params": params}, x)))

        return jax.grad(value, (0, 1))

    want, found = jax.jit(gradient(None))(params, x), {}
    for name, by in {"plain": None, "columns": Exchanged(mesh)}.items():
        step = jax.jit(
            gradient(by), in_shardings=(where, place), out_shardings=(where, place)
        )
        compiled = step.lower(params, x).compile()
        for kernel in kernels(parse(compiled.as_text()), 8):
            for one in kernel.collectives:
                key = f"{name} {one.kind}"
                found[key] = found.get(key, 0.0) + kernel.times * one.sent
        gaps = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(a).max()),
            want,
            jax.device_get(compiled(*jax.device_put((params, x), (where, place)))),
        )
        found[f"{name} gap"] = max(jax.tree.leaves(gaps))
    return found


SIZE = dict(channels=2, dim=24, depth=2, heads=4)
MODELS: dict[str, Any] = {
    "dit": DiT(grid=(6, 6), conditioning=Labels(3), **SIZE),
    "odd": DiT(grid=(6, 6), conditioning=Labels(3), **SIZE | dict(dim=12)),
    "mmdit": MMDiT((6, 6), qk_norm=True, max_size=3, conditioning=Text(6, 5), **SIZE),
    "latte": Latte((2, 4, 4), out_channels=2, conditioning=Labels(3), **SIZE),
    "wan": Wan((2, 6, 6), hidden=32, text_tokens=6, conditioning=Text(6), **SIZE),
}
SPLITS: dict[str, tuple[Mesh, Any]] = {
    "data": (Mesh(), parallel.dp),
    "fsdp": (Mesh(fsdp=8), parallel.fsdp),
    "fsdp_tensor": (Mesh(2, 2, 2), parallel.fsdp_tensor),
    "ulysses": (Mesh(2, 2, 1, 2), parallel.fsdp_tensor),
    "ring": (Mesh(1, 2, 1, 4), replace(parallel.fsdp_tensor, attention=Ring())),
    "tensor_ulysses": (Mesh(2, 1, 2, 2), parallel.fsdp_tensor),
    "tensor_ring": (
        Mesh(1, 1, 2, 4),
        replace(parallel.fsdp_tensor, attention=Ring()),
    ),
}
QUICK = [
    ("dit", "tensor_ring"),
    ("mmdit", "ring"),
    ("latte", "ulysses"),
    ("odd", "fsdp"),
]


def batches(name: str, steps: int, rows: int = 8) -> list[dict[str, np.ndarray]]:
    """The same random examples, however they are split."""
    rng, model = np.random.default_rng(0), MODELS[name]

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=(rows, *shape)).astype("f4")

    found = []
    for _ in range(steps):
        batch = {"x_0": draw(*model.sample_shape)}
        if isinstance(model.conditioning, Labels):
            batch["label"] = rng.integers(0, 3, rows).astype("i4")
        else:
            lengths = rng.integers(1, 6, (rows, 1))
            batch |= {"text": draw(5, 6), "mask": np.arange(5) < lengths}
            if model.conditioning.pooled:
                batch["pooled"] = draw(5)
        found.append(batch)
    return found


TRAINING = Training(batch=8, learning_rate=1e-3, schedule=Constant(), ema=())


def awake(name: str) -> TrainState:
    """The first state, of parameters none of which is zero: all of the model acts."""
    state = init_state(Recipe(name, MODELS[name], data=None, training=TRAINING))
    rng = np.random.default_rng(1)

    def add(x: Any) -> Any:
        return jnp.asarray(x + 0.1 * rng.normal(size=x.shape).astype("f4"))

    return state.replace(params=jax.tree.map(add, state.params))


def train(
    name: str, split: str | None, start: TrainState, steps: int
) -> tuple[list[float], Any]:
    """Losses, and the parameters after the last step."""
    made = Recipe(name, MODELS[name], data=None, training=TRAINING)
    if split is not None:
        mesh, rules = SPLITS[split]
        made = replace(made, mesh=mesh, sharding=replace(rules, smallest=64))
    plan = plan_of(made, None if split else jax.devices()[:1])
    state, step, losses = jax.tree.map(jnp.copy, start), make_step(made, plan), []
    if plan is not None:
        state = jax.device_put(state, plan.tree(state, state.params))
    for batch in batches(name, steps):
        state, metrics = step(state, batch if plan is None else plan.feed(batch))
        losses.append(float(metrics["loss"]))
    return losses, jax.tree_util.tree_map_with_path(_told, state.params)


def _told(path: Any, x: jax.Array) -> np.ndarray:
    """A parameter, without what has no gradient but that of rounding.

    A bias of all keys moves all logits of a query alike, which changes no softmax; and
    AdamW makes steps of one size of any gradient.
    """
    keys, value = jax.tree_util.keystr(path, simple=True, separator="/"), np.array(x)
    if keys.endswith("qkv/bias"):
        np.split(value, 3, -1)[1][:] = 0
    return value


def steps(asked: Any, count: int) -> dict[str, list[float]]:
    """The largest differences of losses and of parameters from a single device's."""
    start, alone, found = {}, {}, {}
    for name, split in asked:
        if name not in alone:
            start[name] = awake(name)
            alone[name] = train(name, None, start[name], count)
        parts = train(name, split, start[name], count)
        pairs = zip(alone[name], parts, strict=True)
        found[f"{name} {split}"] = [
            max(jax.tree.leaves(jax.tree.map(_gap, *pair))) for pair in pairs
        ]
    return found


def parts() -> dict[str, list[tuple[int, ...]]]:
    """Of matrices whose width the 8 devices of `fsdp` do not divide: one device's."""
    mesh, rules = SPLITS["fsdp"]
    made = Recipe("odd", MODELS["odd"], data=None, training=TRAINING)
    made = replace(made, mesh=mesh, sharding=replace(rules, smallest=64))
    kernels = init_state(made, plan_of(made)).params["blocks"]
    return {
        f"{branch} {name}": [x.shape, x.addressable_shards[0].data.shape]
        for branch, layers in kernels.items()
        for name, layer in layers.items()
        for x in layer.values()
        if x.ndim == 3
    }


def _gap(a: Any, b: Any) -> float:
    return float(np.abs(np.subtract(a, b)).max())


if __name__ == "__main__":
    asked = [(name, split) for name in MODELS for split in SPLITS]
    Path(sys.argv[1]).write_text(json.dumps(steps(asked, 20)))
