# SPDX-License-Identifier: Apache-2.0
"""The real programs of a recipe, on shapes alone: its training step, its sampling."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.draw import Drawer
from jdit.inspect import TEXT_TOKENS, cost, evaluations, told
from jdit.parallel import Plan
from jdit.recipe import Recipe
from jdit.train import abstract_state, make_step, plan_of

What = Literal["train", "sample"]


@dataclass(frozen=True)
class Work:
    """One program: a jitted function and the shapes it is called with.

    images: it works on. alone, plain: the same on one device. devices: in the order
    in which the program numbers them. state: the arguments
    that live on between calls, such as parameters. model_flops: of the
    network alone and of each image once: three times the forward pass in training,
    the passes of the solver and of guidance in sampling; nothing recomputed.
    """

    function: Any
    arguments: tuple[Any, ...]
    alone: Any
    plain: tuple[Any, ...]
    devices: tuple[Any, ...]
    state: Any
    images: int
    model_flops: float

    def flops(self) -> float:
        """XLA's count for all devices together, every pass of the loops included."""
        return cost(self.alone.trace(*self.plain).jaxpr)


def conditions(recipe: Recipe, count: int) -> dict[str, Any]:
    """The shapes of what the network is told of `count` examples.

    Those that the recipe's data names, else those its conditioning takes. Raises
    ValueError for a name whose shape only the data know.
    """
    model, part = recipe.model, recipe.model.conditioning
    length = getattr(part, "length", None) or TEXT_TOKENS
    found = told(model, count, length)
    names = getattr(recipe.data, "conditions", ())
    for name in names:
        if name in found:
            continue
        second = name.startswith("second_")
        length = getattr(part, "second_length" if second else "length", None)
        length = length or TEXT_TOKENS
        known = {
            "mask": ((count, length), jnp.bool_),
            "second_mask": ((count, length), jnp.bool_),
            "guidance": ((count,), jnp.float32),
        }
        width = getattr(part, "second_features", None)
        if width is not None:
            known["second_text"] = ((count, length, width), jnp.float32)
        if name not in known:
            raise ValueError(
                f"data tells the model {name!r}, whose shape is not known without "
                "reading it: this recipe cannot be compiled ahead"
            )
        found[name] = jax.ShapeDtypeStruct(*known[name])
    return found


def forward_flops(recipe: Recipe) -> float:
    """FLOPs of the network's pass over one image (`jdit.inspect.cost`)."""
    model, shape = recipe.model, jax.ShapeDtypeStruct
    params = jax.eval_shape(model.init, jax.random.key(0))

    def run(params: Any, x_t: Any, time: Any, conditions: Any) -> Any:
        return model.apply(params, x_t, time, conditions).prediction

    x_t = shape((1, *model.sample_shape), jnp.float32)
    time = shape((1,), jnp.float32)
    return cost(jax.make_jaxpr(run)(params, x_t, time, conditions(recipe, 1)))


def work(recipe: Recipe, what: What, devices: tuple[Any, ...]) -> Work:
    """A recipe's program on these devices, spread as its mesh and rules say.

    Raises ValueError where they do not fit the devices, the batch or the model.
    """
    if what not in ("train", "sample"):
        raise ValueError(f"what is {what!r}, but it must be 'train' or 'sample'")
    plan = _plan(recipe, devices)
    return (_train if what == "train" else _sample)(recipe, plan)


def _plan(recipe: Recipe, devices: tuple[Any, ...]) -> Plan:
    if len(devices) > 1:
        plan = plan_of(recipe, devices)
        assert plan is not None
        return plan
    return Plan(recipe.mesh.build(devices), recipe.sharding)


def _at(tree: Any, where: Any) -> Any:
    """The shapes, with one sharding, or with a tree of them."""
    if isinstance(where, jax.sharding.Sharding):
        where = jax.tree.map(lambda _: where, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where
    )


def _train(recipe: Recipe, plan: Plan) -> Work:
    count = recipe.training.batch
    x_0 = jax.ShapeDtypeStruct((count, *recipe.model.sample_shape), jnp.float32)
    batch = {"x_0": x_0, **conditions(recipe, count)}
    state = abstract_state(recipe, plan)
    return Work(
        function=make_step(recipe, plan),
        arguments=(state, _at(batch, plan.batch)),
        alone=make_step(recipe),
        plain=(abstract_state(recipe), batch),
        devices=tuple(plan.mesh.devices.flat),
        state=state,
        images=count,
        model_flops=3 * count * forward_flops(recipe),
    )


def _sample(recipe: Recipe, plan: Plan) -> Work:
    sampling = recipe.sampling
    count = sampling.batch
    if count % plan.parts:
        raise ValueError(
            f"sampling.batch is {count}, but it is split over {plan.parts} devices: "
            f"make it a multiple, such as {plan.round_up(count)}"
        )
    state = abstract_state(recipe, plan).params
    state = {k: v for k, v in state.items() if k != "objective"}
    told = conditions(recipe, count)
    key = jax.eval_shape(lambda: jax.random.key(0))
    first = jax.ShapeDtypeStruct((), jnp.int32)

    def run(plan: Plan | None) -> Any:
        part, process = recipe.model, recipe.process
        return Drawer(part, {}, process, sampling, count, plan=plan).run

    rest = _at((key, first), plan.replicated)
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return Work(
        function=run(plan),
        arguments=(state, rest[0], _at(told, plan.batch), rest[1]),
        alone=run(None),
        plain=(bare, key, told, first),
        devices=tuple(plan.mesh.devices.flat),
        state=state,
        images=count,
        model_flops=count * evaluations(recipe) * forward_flops(recipe),
    )
