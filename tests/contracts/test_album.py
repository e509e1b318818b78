# SPDX-License-Identifier: Apache-2.0
"""Every family keeps the contract of a backbone, and every part works on it."""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import ALBUM, BATCH, draw
from tiny_dit import awake

import jdit
from jdit.guidance import CFG
from jdit.objects import from_json, to_json
from jdit.policies import Depths, Forecast, Observed, PerBranch, Reuse, Tally
from jdit.processes import Gaussian, Linear
from jdit.surgery import Chain, LoRA, Quantise

each = pytest.mark.parametrize("name", list(ALBUM))
TIME = jnp.array([0.3, 0.8])


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@cache
def start(name):
    with jax.ensure_compile_time_eval():  # also where a test asks first while tracing
        return jax.jit(ALBUM[name].model.init)(jax.random.key(0))


@cache
def params(name):
    with jax.ensure_compile_time_eval():
        return jax.jit(awake)(start(name), jax.random.key(1))


def batch(name):
    return draw(BATCH, *ALBUM[name].model.sample_shape)


def forward(name, model=None, weights=None, **more):
    member = ALBUM[name]
    run = jax.jit(partial((model or member.model).apply, **more))
    weights = params(name) if weights is None else weights
    return run(weights, batch(name), TIME, member.conditions)


@cache
def exact(name):
    return np.asarray(forward(name).prediction)


def near(name, out, room):
    want = exact(name)
    np.testing.assert_allclose(out, want, atol=room * np.abs(want).max())


@each
def test_the_output_is_shaped_like_the_data(name):
    model, out = ALBUM[name].model, exact(name)
    *grid, channels = model.sample_shape
    assert out.shape[:-1] == (BATCH, *grid) and out.shape[-1] % channels == 0
    assert out.dtype == np.float32 and np.all(np.isfinite(out))
    assert np.abs(out).max() > 1e-3


@each
def test_the_start_is_the_published_one(name):
    if not ALBUM[name].starts_at_zero:
        pytest.skip("the published initialisation is not zero")
    assert not np.any(forward(name, weights=start(name)).prediction)


@each
def test_gradients_reach_every_parameter(name):
    member = ALBUM[name]

    @jax.jit
    def grads(weights):
        def loss(weights):
            out = member.model.apply(weights, batch(name), TIME, member.conditions)
            return jnp.mean(jnp.square(out.prediction))

        return jax.grad(loss)(weights)

    for path, grad in jax.tree_util.tree_leaves_with_path(grads(params(name))):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(grad)), where
        assert np.any(grad) == (where not in member.idle), where


@each
def test_unrolled_is_scanned(name):
    model = replace(ALBUM[name].model, unroll=99, remat="block")
    near(name, forward(name, model).prediction, 1e-4)


@each
def test_bfloat16_is_near(name):
    low = forward(name, replace(ALBUM[name].model, dtype="bfloat16")).prediction
    assert low.dtype == jnp.float32
    near(name, low, 0.1)


@each
def test_an_image_does_not_see_its_batch(name):
    member = ALBUM[name]
    one = jax.tree.map(lambda x: x[1:], (batch(name), TIME, member.conditions))
    out = jax.jit(member.model.apply)(params(name), *one).prediction
    np.testing.assert_allclose(out[0], exact(name)[1], atol=2e-5)


@each
def test_wrong_shapes_say_so(name, unchecked):
    model = ALBUM[name].model
    with pytest.raises(ValueError, match="batch first, channels last"):
        model.apply(params(name), batch(name)[..., :-1], TIME, ALBUM[name].conditions)


@each
def test_is_its_own_config(name):
    model = ALBUM[name].model
    assert from_json(json.loads(json.dumps(to_json(model)))) == model
    assert hash(model) == hash(replace(model))


NEUTRAL = {
    "reuse": Reuse(1),
    "forecast": Forecast(1, order=1),
    "depths": Depths(Reuse(3), 98, 99),
}


@each
@pytest.mark.parametrize("policy", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_a_neutral_policy_is_the_plain_model(name, policy):
    near(name, forward(name, policy=policy).prediction, 1e-5)


BUSY = {
    "reuse": (Reuse(2), 2),
    "forecast": (Forecast(2, 1), 3),
    "per branch": (PerBranch({"mlp": Reuse(4)}), None),
}


@each
@pytest.mark.parametrize("part", BUSY.values(), ids=BUSY.keys())
def test_policies_cache_under_guidance(name, part):
    """Four steps of guided sampling: finite, and computed as often as was claimed."""
    member, (policy, claim) = ALBUM[name], part
    tally = Tally()
    out = jax.jit(
        lambda key: jdit.sample(
            key,
            member.model,
            params(name),
            member.conditions,
            process=Gaussian(Linear(), "velocity"),
            steps=4,
            policy=Observed(policy, tally),
            guidance=CFG(2.0),
        )
    )(jax.random.key(2))
    assert np.all(np.isfinite(out))
    jax.effects_barrier()
    layers = sum(stage.depth for stage in member.model.stages)
    assert {depth for depth, _ in tally.counts} == set(range(layers))
    if claim is not None:
        assert set(tally.counts.values()) == {claim}


@each
def test_memory_keeps_its_shapes(name):
    model, conditions = ALBUM[name].model, ALBUM[name].conditions
    memory = model.memory(params(name), batch(name), conditions, Reuse(2))
    run = partial(model.apply, policy=Reuse(2))
    after = jax.eval_shape(
        lambda m: run(params(name), batch(name), TIME, conditions, memory=m), memory
    )
    assert shapes_of(after.memory) == shapes_of(memory)


@each
def test_an_adapter_at_its_start_changes_nothing(name):
    model, weights = LoRA(2)(ALBUM[name].model, params(name), jax.random.key(3))
    near(name, forward(name, model, weights).prediction, 1e-5)


@each
def test_eight_bits_are_near_also_under_an_adapter(name):
    operate = Chain((Quantise(), LoRA(2)))
    model, weights = operate(ALBUM[name].model, params(name), jax.random.key(3))
    out, want = forward(name, model, weights).prediction, exact(name)
    error = np.linalg.norm(out - want) / np.linalg.norm(want)
    assert 0 < error < 0.1


@each
def test_residuals_are_added_after_each_layer(name):
    """Control enters here: residuals of zero change nothing, others do."""
    stage = ALBUM[name].model.stages[0]
    taps = forward(name).taps[stage.name]
    run = jax.jit(lambda r: forward(name, inject={stage.name: r}).prediction)
    near(name, run(jax.tree.map(jnp.zeros_like, taps)), 1e-5)
    assert np.abs(run(jax.tree.map(jnp.cos, taps)) - exact(name)).max() > 1e-4
