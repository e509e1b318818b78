# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations

from jdit.recipe import Constant, Cosine, Training
from jdit.train import batches_of, init_state, learning_rate, make_step, optimizer
from jdit.train.state import average, global_norm, gradients, is_kernel
from tests.train.tiny import tiny

PARAMS = {
    "blocks": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([[3.0]])},
    "table": jnp.array([4.0]),
}


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)


def test_the_learning_rate_rises_then_follows_its_schedule():
    training = Training(steps=110, warmup=10, learning_rate=2.0, schedule=Cosine())
    rate = lambda step: float(learning_rate(training, jnp.int32(step)))  # noqa: E731
    assert rate(0) == pytest.approx(2 / 11)
    assert rate(9) == pytest.approx(20 / 11)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.0)
    assert rate(110) == rate(200) == pytest.approx(0.0, abs=1e-6)
    plain = replace(training, warmup=0, schedule=Constant())
    assert float(learning_rate(plain, jnp.int32(0))) == 2.0


def test_only_kernels_decay():
    training = Training(weight_decay=0.1, learning_rate=0.5, clip=None)
    tx = optimizer(training)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(
        updates["blocks"]["kernel"], -0.05 * PARAMS["blocks"]["kernel"], rtol=1e-6
    )
    assert not updates["blocks"]["bias"].any() and not updates["table"].any()
    adapted = {"kernel": {"base": 1, "a": 2}, "scale": 3}
    assert is_kernel(adapted) == {"kernel": {"base": True, "a": True}, "scale": False}


def test_the_gradient_is_clipped_by_its_global_norm():
    training = Training(clip=1.0, betas=(0.9, 0.99))
    tx = optimizer(training)
    grads = jax.tree.map(lambda x: 100 * x, PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    mu = next(s.mu for s in state if isinstance(s, optax.ScaleByAdamState))
    assert float(global_norm(mu)) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_is_the_closed_form(decay: float):
    mean, value = {"x": jnp.array([1.0])}, {"x": jnp.array([3.0])}
    for step in range(5):
        mean = average(decay, False, jnp.int32(step), mean, value)
    assert float(mean["x"][0]) == pytest.approx(decay**5 * 1 + (1 - decay**5) * 3)


def test_the_averages_warm_up_forgets_the_start():
    mean, want = {"x": jnp.array([1.0])}, 1.0
    for step in range(4):
        mean = average(0.9999, True, jnp.int32(step), mean, {"x": jnp.array([0.0])})
        want *= (2 + step) / (11 + step)
    assert float(mean["x"][0]) == pytest.approx(want)
    late = average(0.5, True, jnp.int32(10**6), {"x": jnp.array([1.0])}, mean)
    assert float(late["x"][0]) == pytest.approx(0.5 + want / 2)
    whole = {"x": jnp.array([3], jnp.int8)}
    equal(average(0.9, True, jnp.int32(0), whole, whole), whole)


def test_accumulated_gradients_are_the_mean_of_the_micro_batches():
    recipe = tiny(accumulate=2)
    params, batch = init_state(recipe).params, next(batches_of(recipe))
    key = jax.random.key(1)
    total, metrics = jax.jit(lambda p: gradients(recipe, key, p, batch))(params)
    single = tiny(accumulate=1)
    one = jax.jit(lambda p, k, b: gradients(single, k, p, b))
    parts = [
        one(
            params, jax.random.fold_in(key, i), jax.tree.map(lambda x, h=h: x[h], batch)
        )
        for i, h in enumerate((slice(0, 4), slice(4, 8)))
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (total, metrics),
        mean,
    )


def test_a_step_is_compiled_once_and_repeats_itself():
    recipe = tiny()
    step, batches = make_step(recipe), batches_of(recipe)
    data = [next(batches) for _ in range(3)]
    ends = []
    for _ in range(2):
        state = init_state(recipe)
        with compilations() as compiled:
            for batch in data:
                state, metrics = step(state, batch)
        ends.append((state.params, state.ema, state.opt_state, metrics))
        assert (not compiled) == (len(ends) == 2), compiled
    equal(*ends)
    assert int(state.step) == 3
    assert differ(state.ema[0], state.params) and differ(*state.ema)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))


def test_a_batch_with_nan_changes_nothing_and_nor_does_what_follows():
    recipe = tiny()
    step, batch = make_step(recipe), next(batches_of(recipe))
    nan = {**batch, "x_0": np.full_like(batch["x_0"], np.nan)}
    state, _ = step(init_state(recipe), batch)
    keep = ("params", "ema", "opt_state", "step")
    want = jax.device_get([getattr(state, name) for name in keep])
    for data in (nan, batch, nan):
        state, _ = step(state, data)
        equal([getattr(state, name) for name in keep], want)
        assert int(state.bad) == 1  # the first, counted from 0


@dataclass(frozen=True)
class Scaled:
    """`(a - 3)^2`, with a parameter of the objective's own."""

    def parameters(self, key: Any, model: Any) -> dict[str, Any]:
        return {"a": jnp.zeros(())}

    def __call__(
        self,
        key: Any,
        network: Any,
        params: Any,
        process: Any,
        x_0: Any,
        conditions: Any,
    ) -> tuple[Any, dict[str, Any]]:
        value = jnp.square(params["a"] - 3)
        return jnp.full(len(x_0), value), {"a": params["a"]}


def test_an_objectives_parameters_are_trained_with_the_models():
    recipe = replace(tiny(learning_rate=1.0, warmup=0), objective=Scaled())
    state = init_state(recipe)
    start = jax.device_get(state.params)
    state, metrics = make_step(recipe)(state, next(batches_of(recipe)))
    assert float(metrics["loss"]) == pytest.approx(9.0)
    assert float(state.params["objective"]["a"]) == pytest.approx(1.0, rel=1e-4)
    assert float(state.ema[1]["objective"]["a"]) > 0
    equal(state.params["blocks"], start["blocks"])
