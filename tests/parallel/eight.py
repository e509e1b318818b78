# SPDX-License-Identifier: Apache-2.0
"""Everything that is asked of 8 simulated devices, in one program.

python eight.py FOLDER      writes FOLDER/found.json and FOLDER/single.npz
"""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import split
from rich.console import Console
from tiny import Means, tiny

import jdit
from jdit import cli, parallel
from jdit.checkpoint import Checkpoints, named
from jdit.denoise import Network
from jdit.draw import Drawer, Sample
from jdit.draw import draw as draw_files
from jdit.guidance import CFG
from jdit.parallel import Mesh, Plan, Rules, Spread, pinned
from jdit.policies import Reuse
from jdit.recipe import Constant, Recipe
from jdit.sample import sample
from jdit.train import abstract_state, batches_of, fit, init_state, make_step, report
from jdit.train.fit import plan_of

STEPS, BATCH = 20, 40
EVERY = dict(smallest=64)  # tiny parameters are split too
PRESETS: dict[str, tuple[Mesh, Rules]] = {
    "dp": (Mesh(), parallel.dp),
    "fsdp": (Mesh(fsdp=8), replace(parallel.fsdp, **EVERY)),
    "fsdp_tensor": (Mesh(2, 2, 2), replace(parallel.fsdp_tensor, **EVERY)),
}
PLACES = PRESETS | {
    "sequence": (
        Mesh(2, 2, 1, 2),
        replace(parallel.fsdp_tensor, rest="fsdp+sequence", **EVERY),
    ),
}
LEAVES = [
    "blocks/mlp/in/kernel",
    "blocks/mlp/out/kernel",
    "blocks/attention/qkv/kernel",
    "blocks/attention/modulation/kernel",
    "blocks/mlp/in/bias",
]


def recipe(preset: str | None = None, **training: Any) -> Recipe:
    usual = dict(steps=STEPS, batch=BATCH, learning_rate=1e-3, schedule=Constant())
    made = tiny(**usual | training)
    if preset is None:
        return made
    mesh, rules = PLACES[preset]
    return replace(made, mesh=mesh, sharding=rules)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    found = named(tree).items()
    return {k: np.asarray(x) for k, x in found if not jnp.issubdtype(x.dtype, KEY)}


KEY = jax.dtypes.prng_key
STREAMS = ["[160,32]", "[40,4,32]"]  # of all 40 examples, of 4 tokens each


def gap(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[k].astype("f8") - b[k]).max()) for k in a)


def run(recipe: Recipe, devices: Any = None, steps: int = STEPS) -> dict[str, Any]:
    plan = plan_of(recipe, devices)
    state, batches = init_state(recipe, plan), batches_of(recipe, plan)
    start = arrays(state.params)
    feed = (lambda batch: batch) if plan is None else plan.feed
    losses: list[float] = []
    first = batches.get_state()
    step = make_step(recipe, plan).lower(state, feed(next(batches))).compile()
    batches.set_state(first)
    for _ in range(steps):
        state, metrics = step(state, feed(next(batches)))
        losses.append(float(metrics["loss"]))  # CPU collectives must not queue
    return dict(
        state=state, losses=losses, start=start, plan=plan, program=step.as_text()
    )


def shards(state: Any) -> dict[str, Any]:
    """Shapes of parts, and the share of each device in all numbers."""
    leaves = named(state)
    places = {
        "params": "params/{}",
        "ema": "ema/1/{}",
        "moments": "opt_state/1/nu/{}",
    }
    found: dict[str, Any] = {"shapes": {}}
    for where, path in places.items():
        for name in LEAVES:
            x = leaves[path.format(name)]
            parts = {part.data.shape for part in x.addressable_shards}
            found["shapes"][f"{where} {name}"] = [x.shape, *sorted(parts)]
    total = sum(x.nbytes for x in leaves.values())
    held: dict[int, int] = {}
    for x in leaves.values():
        for part in x.addressable_shards:
            held[part.device.id] = held.get(part.device.id, 0) + part.data.nbytes
    return found | {"most": max(held.values()) / total, "devices": len(held)}


def draw(params: Any, plan: Plan | None) -> np.ndarray:
    made = recipe()
    guidance = CFG(2.0, (0.2, 1.0))
    if plan is not None:
        guidance = Spread(plan, guidance)
        params = jax.device_put(params, plan.tree(params, params))

    @jax.jit
    def run(params: Any) -> jax.Array:
        return sample(
            jax.random.key(5),
            made.model,
            params,
            {"label": jnp.arange(8) % 3},
            process=made.process,
            steps=4,
            guidance=guidance,
            policy=Reuse(2),
        )

    return run(params)


def memory(params: Any, plan: Plan) -> list:
    """The shape of a policy's memory, and of its part on a device."""
    made = recipe()
    network = Network(pinned(plan, made.model), params, made.process, Reuse(2))
    spread = Spread(plan, CFG(2.0))(network)
    x, told = jnp.zeros((8, *made.model.sample_shape)), {"label": jnp.arange(8) % 3}
    kept = jax.jit(spread.init)(x, told)["blocks"]["attention"].output
    return [kept.shape, kept.addressable_shards[0].data.shape]


def crossed(folder: Path) -> dict[str, bool]:
    """Whether a checkpoint of each place is that of every other, part by part."""
    plans = {name: plan_of(recipe(name)) for name in PLACES}
    with Checkpoints(folder / "checkpoints", read_only=True) as saved:
        first = saved.restore(abstract_state(recipe())).state
    whole, found = arrays(first), {}
    likes = {name: abstract_state(recipe(name), plan) for name, plan in plans.items()}
    for one, like in likes.items():
        with Checkpoints(folder / f"of {one}") as kept:
            state = jax.device_put(first, jax.tree.map(lambda x: x.sharding, like))
            kept.save(state, {}, {}, loss=0.0)
            kept.wait()
            for other, wanted in likes.items():
                state = kept.restore(wanted).state
                there = jax.tree.map(
                    lambda x, want: x.sharding.is_equivalent_to(want.sharding, x.ndim),
                    state,
                    wanted,
                )
                same = gap(arrays(state), whole) == 0
                found[f"{one} {other}"] = same and all(jax.tree.leaves(there))
    return found


def elastic(folder: Path, single: dict[str, np.ndarray]) -> dict[str, Any]:
    """Eight devices, then four, then one; and what every preset restores."""
    quiet: Any = dict(console=Console(file=io.StringIO()), tensorboard=False)
    devices, found = jax.devices(), {}
    fit(recipe("fsdp", steps=3), folder, **quiet)
    found["crossed"] = crossed(folder)
    four = replace(recipe("fsdp_tensor", steps=5), mesh=Mesh(-1, 2, 2))
    fit(four, folder, resume=True, devices=devices[:4], **quiet)
    last = fit(recipe(), folder, resume=True, devices=devices[:1], **quiet)
    found["gap"] = gap(arrays(last.state.params), single)
    exported = jdit.load(folder, sharding=plan_of(recipe("fsdp")).sharding)
    kernel = exported.params["blocks"]["mlp"]["in"]["kernel"]
    found["loaded"] = kernel.addressable_shards[0].data.shape
    found["equal"] = gap(arrays(exported.params), arrays(last.state.ema[0]))
    start = init_state(recipe("fsdp", start=str(folder)), plan_of(recipe("fsdp")))
    kernel = start.params["blocks"]["mlp"]["in"]["kernel"]
    found["started"] = kernel.addressable_shards[0].data.shape
    scored = [
        replace(recipe(name), evaluation=Means()) for name in ("fsdp_tensor", None)
    ]
    found["scores of one"] = report(
        scored[1], folder, devices=devices[:1], console=quiet["console"]
    )
    found["scores"] = report(scored[0], folder, console=quiet["console"])
    found["drawn"] = (folder / "samples.png").is_file()
    out = folder / "asked.npz"
    asked = f"--mesh.fsdp 8 --steps 2 --labels 1 --count 3 --out {out}"
    cli.main(["sample", str(folder), *asked.split()])
    options = Sample(mesh=Mesh(tensor=3))
    try:
        draw_files(str(folder), options)
    except ValueError as error:
        found["refused"] = str(error)
    with np.load(out) as file:
        found["asked"] = [*file["x_0"].shape, *map(int, file["label"])]
    return found


def sentence(made: Recipe) -> str:
    try:
        plan_of(made)
    except ValueError as error:
        return str(error)
    return "nothing was wrong"


def mistakes() -> dict[str, str]:
    wide = replace(recipe(), mesh=Mesh(tensor=4))
    return {
        "product": sentence(replace(recipe(), mesh=Mesh(3, 2))),
        "batch": sentence(recipe(batch=12)),
        "micro": sentence(recipe(batch=24, accumulate=2)),
        "heads": sentence(wide),
        "idle": sentence(replace(recipe(), mesh=Mesh(expert=2))),
        "tokens": sentence(replace(recipe(), mesh=Mesh(sequence=4))),
        "guided": sentence(replace(recipe(), mesh=Mesh(guidance=2))),
        "plain": unguided(),
    }


def unguided() -> str:
    made, plan = recipe(), Plan(Mesh(guidance=2).build(), parallel.fsdp)
    drawer = Drawer(
        made.model,
        made.model.init(jax.random.key(0)),
        made.process,
        replace(made.sampling, guidance=None),
        8,
        plan=plan,
    )
    try:
        drawer(0, np.zeros(8, np.int32))
    except ValueError as error:
        return str(error)
    return "nothing was wrong"


def main(folder: Path) -> None:
    found: dict[str, Any] = {"devices": jax.device_count()}
    single = run(recipe(), jax.devices()[:1])
    params = arrays(single["state"].params)
    np.savez(folder / "single.npz", **params)
    found["losses"] = single["losses"]
    found["streams"] = [name in single["program"] for name in STREAMS]
    images = draw(single["state"].params, None)
    for name in PRESETS:
        one = run(recipe(name))
        found[name] = {
            "start": gap(one["start"], single["start"]),
            "loss": float(np.abs(np.subtract(one["losses"], single["losses"])).max()),
            "params": gap(arrays(one["state"].params), params),
            "shards": shards(one["state"]),
            "streams": [name in one["program"] for name in STREAMS],
            "memory": memory(one["state"].params, one["plan"]),
        }
        drawn = draw(single["state"].params, one["plan"])
        found[name]["images"] = float(jnp.abs(np.asarray(drawn) - images).max())
        found[name]["drawn"] = drawn.addressable_shards[0].data.shape
    micro: Any = dict(batch=16, accumulate=2)
    many = run(recipe("fsdp", **micro), steps=3)["state"].params
    alone = run(recipe(**micro), jax.devices()[:1], steps=3)["state"].params
    found["micro"] = gap(arrays(many), arrays(alone))
    thirds = Mesh(data=2, sequence=2, guidance=2)
    plan = Plan(thirds.build(), parallel.fsdp)
    drawn = draw(single["state"].params, plan)
    found["guidance"] = {
        "images": float(jnp.abs(np.asarray(drawn) - images).max()),
        "memory": memory(single["state"].params, plan),
    }
    found["attention"] = {kind: split.attention(kind) for kind in split.KINDS}
    found["ring memory"] = split.memory()
    found["gathers"] = split.gathers()
    found["steps"] = split.steps(split.QUICK, STEPS)
    found["odd"] = split.parts()
    found["beside"] = split.side_by_side()
    found["elastic"] = elastic(folder / "elastic", params)
    found["mistakes"] = mistakes()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
