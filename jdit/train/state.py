# SPDX-License-Identifier: Apache-2.0
"""What training changes, and the one jitted step that changes it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from jdit.objectives import loss
from jdit.parallel import Plan, pinned
from jdit.pretrained import start_from
from jdit.recipe import Recipe, Training
from jdit.train.partial import filled, model_of, operated, trained
from jdit.typing import Array, Float, Int, Key, Params

Metrics = dict[str, Array]
Step = Callable[["TrainState", dict[str, Array]], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs, besides the position in its data, to go on exactly.

    step: optimizer steps done. ema: one average of the parameters per decay. Moments
        and averages are of the trained parameters alone (`jdit.train.partial`).
    key: of the whole run; step i uses `fold_in(key, i)` and nothing else is drawn.
    bad: the first step whose loss or gradient was not finite, or -1. That update was
        not applied, and none after it: parameters stay those of the last good step.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema: tuple[Params, ...]
    key: Key
    bad: Int[Array, ""]

    def sampled(self, training: Training) -> Params:
        """The parameters to sample from: the chosen average, or the last ones."""
        if not training.ema:
            return self.params
        return filled(self.ema[training.ema_sampled], self.params)


def learning_rate(training: Training, step: Int[Array, ""]) -> Float[Array, ""]:
    """The rate of step `step`, counted from 0: linear warm-up, then the schedule."""
    count = step.astype(jnp.float32)
    rest = max(training.steps - training.warmup, 1)
    progress = jnp.clip((count - training.warmup) / rest, 0.0, 1.0)
    rise = jnp.minimum(1.0, (count + 1) / (training.warmup + 1))
    return training.learning_rate * rise * training.schedule(progress)


def is_kernel(params: Params) -> Any:
    """True for leaves that belong to a parameter named `kernel`: those that decay.

    By name, because the rank says nothing of parameters stacked over depth. Biases,
    norms, tables and modulation biases are not decayed.
    """

    def decays(path: tuple, _: Any) -> bool:
        return "kernel" in {getattr(key, "key", None) for key in path}

    return jax.tree_util.tree_map_with_path(decays, params)


def optimizer(training: Training) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW (Loshchilov and Hutter, 2019)."""
    b1, b2 = training.betas
    parts = [] if training.clip is None else [optax.clip_by_global_norm(training.clip)]
    parts.append(optax.scale_by_adam(b1, b2, eps=1e-8))
    if training.weight_decay:
        parts.append(optax.add_decayed_weights(training.weight_decay, is_kernel))
    rate = partial(learning_rate, training)
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def init_state(recipe: Recipe, plan: Plan | None = None) -> TrainState:
    """The state before the first step, a function of the recipe's seed alone.

    An objective's parameters live under "objective" of the one tree, so the optimizer,
    the averages and checkpoints need to know nothing of them.

    plan: where the state lives; each device makes its own part alone.
    """
    where = None if plan is None else _shardings(recipe, plan)
    if not recipe.training.start:
        return jax.jit(partial(_fresh, recipe), out_shardings=where)()
    initial, place, at = partial(_initial, recipe), None, None
    if plan is not None:
        shapes = jax.eval_shape(initial)
        place, at = plan.sharding, plan.tree(shapes, shapes)
    params = jax.jit(initial, out_shardings=at)()
    params = start_from(recipe.training.start, params, place)
    begin = jax.jit(partial(_begin, recipe), out_shardings=where, donate_argnums=0)
    return begin(params)


def abstract_state(recipe: Recipe, plan: Plan | None = None) -> TrainState:
    """The shapes and dtypes of a state, and where it lives; computes nothing."""
    shapes: TrainState = jax.eval_shape(partial(_fresh, recipe))
    if plan is None:
        return shapes

    def at(x: Any, where: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(at, shapes, plan.tree(shapes, shapes.params))


def _shardings(recipe: Recipe, plan: Plan) -> TrainState:
    shapes = abstract_state(recipe)
    return plan.tree(shapes, shapes.params)


def _fresh(recipe: Recipe) -> TrainState:
    return _begin(recipe, _initial(recipe))


def _keys(recipe: Recipe) -> tuple[Key, Key, Key]:
    init, objective, run = jax.random.split(jax.random.key(recipe.training.seed), 3)
    return init, objective, run


def _initial(recipe: Recipe) -> Params:
    """The parameters before those of another run, and before surgery."""
    init, objective, _ = _keys(recipe)
    params = recipe.model.init(init)
    extra = recipe.objective.parameters(objective, recipe.model)
    return {**params, "objective": extra} if extra else params


def _begin(recipe: Recipe, params: Params) -> TrainState:
    training = recipe.training
    _, params = operated(recipe, params)
    part = trained(training, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer(training).init(part),
        ema=tuple(jax.tree.map(jnp.copy, part) for _ in training.ema),
        key=_keys(recipe)[2],
        bad=jnp.full((), -1, jnp.int32),
    )


def average(
    decay: float, warmup: bool, step: Int[Array, ""], mean: Params, params: Params
) -> Params:
    """The exponential moving average after `step`, counted from 0.

    With a warm-up the decay is `min(decay, (1 + n) / (10 + n))` after n steps, as in
    TensorFlow's ExponentialMovingAverage.
    """
    count = step.astype(jnp.float32) + 1
    rate = jnp.minimum(decay, (1 + count) / (10 + count)) if warmup else decay

    def lerp(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + (1 - rate) * (new - old)

    return jax.tree.map(lerp, mean, params)


def loss_of(recipe: Recipe, model: Any, params: Params) -> Callable[..., tuple]:
    """`(part, key, batch) -> (loss, metrics)` of the trained parameters.

    model: the recipe's after surgery, pinned or not. params: all, for the frozen ones.
    """

    def objective(part: Params, key: Key, batch: dict[str, Array]):
        return loss(
            key,
            model,
            filled(part, params),
            batch,
            process=recipe.process,
            objective=recipe.objective,
        )

    return objective


def gradients(
    recipe: Recipe,
    key: Key,
    params: Params,
    batch: dict[str, Array],
    plan: Plan | None = None,
):
    """The batch's mean gradient and metrics, one micro-batch at a time.

    The gradient is of the trained parameters. Micro-batch i uses `fold_in(key, i)` when
    there are several.

    plan: every device then has its part of each micro-batch, and of the gradient.
    """

    objective = loss_of(recipe, pinned(plan, model_of(recipe)), params)
    params = trained(recipe.training, params)

    def grad(params: Params, key: Key, batch: dict[str, Array]):
        grads, metrics = jax.grad(objective, has_aux=True)(params, key, batch)
        return grads if plan is None else plan.pin_params(grads), metrics

    parts = recipe.training.accumulate
    if parts == 1:
        return grad(params, key, batch)
    split = partial(rearrange, pattern="(parts b) ... -> parts b ...", parts=parts)
    batches = jax.tree.map(split, batch)
    if plan is not None:
        batches = plan.pin(batches, axis=1)

    def add(total: Any, xs: tuple) -> tuple[Any, None]:
        index, batch = xs
        one = grad(params, jax.random.fold_in(key, index), batch)
        return jax.tree.map(lambda a, b: a + b / parts, total, one), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(grad, params, key, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts), batches))[0]


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all of a tree's numbers together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def make_step(recipe: Recipe, plan: Plan | None = None) -> Step:
    """`step(state, batch) -> (state, metrics)`: jitted, and the state is donated.

    metrics stay on the device: "loss", "grad_norm", "learning_rate" and the
    objective's own. Nothing is fetched here.

    plan: where the state lives and stays; batches come from `plan.feed`.
    """
    training = recipe.training
    tx = optimizer(training)

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = gradients(recipe, key, state.params, batch, plan)
        norm = global_norm(grads)
        good = (state.bad < 0) & jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        before = trained(training, state.params)
        updates, opt_state = tx.update(grads, state.opt_state, before)
        after = optax.apply_updates(before, updates)
        ema = tuple(
            average(decay, training.ema_warmup, state.step, mean, after)
            for decay, mean in zip(training.ema, state.ema, strict=True)
        )

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        metrics = {
            **metrics,
            "grad_norm": norm,
            "learning_rate": learning_rate(training, state.step),
        }
        state = TrainState(
            step=state.step + good,
            params=filled(keep(after, before), state.params),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            key=state.key,
            bad=jnp.where(good | (state.bad >= 0), state.bad, state.step),
        )
        return state, metrics

    config: Any = jax.config
    donate = () if config.jax_debug_nans else (0,)  # which runs a bad step again
    if plan is None:
        return jax.jit(step, donate_argnums=donate)
    where = _shardings(recipe, plan)
    return jax.jit(
        step,
        donate_argnums=donate,
        in_shardings=(where, plan.batch),
        out_shardings=(where, plan.replicated),
    )
