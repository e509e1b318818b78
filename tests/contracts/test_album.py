# SPDX-License-Identifier: Apache-2.0
"""Every family keeps the contract of a backbone, and every part works on it."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import ALBUM, ALIKE, BATCH, draw
from tiny_dit import KEY, awake, program, start

import jdit
from jdit.guidance import CFG
from jdit.objects import from_json, to_json
from jdit.policies import Depths, Forecast, Observed, PerBranch, Reuse, Tally
from jdit.processes import Gaussian, Linear
from jdit.surgery import Chain, LoRA, Quantise

# All of a family run in one worker, which compiles its start and its forward once.
each = pytest.mark.parametrize("name", list(ALBUM))
each_block = pytest.mark.parametrize("name", [n for n in ALBUM if n not in ALIKE])
"""Of members with the same layers one: parts act on branches, and know nothing else."""
TIME = jnp.array([0.3, 0.8])


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def params(name):
    return awake(ALBUM[name].model)


def batch(name):
    return draw(BATCH, *ALBUM[name].model.sample_shape)


def forward(name, model=None, weights=None, **more):
    member = ALBUM[name]
    run = program(model or member.model, **more)
    weights = params(name) if weights is None else weights
    return run(weights, batch(name), TIME, member.conditions)


def operated(name, operate, **changes):
    """The output after a surgery, both in one program."""
    member = ALBUM[name]
    model = replace(member.model, **changes)

    @jax.jit
    def run(weights, x_t, conditions):
        operated, changed = operate(model, weights, KEY)
        return operated.apply(changed, x_t, TIME, conditions).prediction

    return run(params(name), batch(name), member.conditions)


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
    assert not np.any(forward(name, weights=start(ALBUM[name].model)).prediction)


@each
def test_gradients_reach_every_parameter(name):
    member = ALBUM[name]

    @jax.jit
    def grads(weights):
        def loss(weights):
            out = member.model.apply(weights, batch(name), TIME, member.conditions)
            return jnp.mean(jnp.square(out.prediction))

        return jax.grad(loss)(weights)

    found = jax.device_get(grads(params(name)))
    for path, grad in jax.tree_util.tree_leaves_with_path(found):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(grad)), where
        assert np.any(grad) == (where not in member.idle), where


@each
def test_bfloat16_is_near(name):
    low = forward(name, replace(ALBUM[name].model, dtype="bfloat16")).prediction
    assert low.dtype == jnp.float32
    near(name, low, 0.1)


@each
def test_an_image_does_not_see_its_batch(name):
    member = ALBUM[name]
    given = batch(name), TIME, member.conditions
    twice = jax.tree.map(lambda x: np.asarray(x)[[1, 1]], given)
    out = np.asarray(program(member.model)(params(name), *twice).prediction)
    np.testing.assert_allclose(out, exact(name)[[1, 1]], atol=2e-5)


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


CACHES = {"reuse": (Reuse(2), 2), "forecast": (Forecast(2, 1), 3)}


@each_block
@pytest.mark.parametrize("part", CACHES.values(), ids=CACHES.keys())
def test_a_policy_caches_what_it_claims(name, part):
    """Computed at first, memory of one shape, and computed as often as was claimed."""
    member, (policy, claim), tally = ALBUM[name], part, Tally()
    step = program(member.model, policy=Observed(policy, tally))
    given = params(name), batch(name), TIME, member.conditions
    memory = member.model.memory(*given[:2], member.conditions, policy)
    for i in range(4):
        out = step(*given, memory=memory, step=jnp.asarray(i))
        assert shapes_of(out.memory) == shapes_of(memory)
        near(name, out.prediction, 1e-5)  # what is remembered of the same input
        memory = out.memory
    jax.effects_barrier()
    layers = sum(stage.depth for stage in member.model.stages)
    assert {depth for depth, _ in tally.counts} == set(range(layers))
    assert set(tally.counts.values()) == {claim}


@each_block
def test_policies_compose_under_guidance(name):
    """A jitted sampling run whose branches of the later layers are cached."""
    member = ALBUM[name]
    parts = {"attention": Reuse(2), "mlp": Forecast(2, 1)}
    out = jax.jit(
        lambda key: jdit.sample(
            key,
            member.model,
            params(name),
            member.conditions,
            process=Gaussian(Linear(), "velocity"),
            steps=4,
            policy=Depths(PerBranch(parts), 1, 99),
            guidance=CFG(2.0),
        )
    )(KEY)
    assert np.all(np.isfinite(out))


@each_block
def test_unrolled_under_an_adapter_at_its_start_is_the_same(name):
    near(name, operated(name, LoRA(2), unroll=99, remat="block"), 1e-4)


@each_block
def test_eight_bits_are_near_also_under_an_adapter(name):
    out, want = operated(name, Chain((Quantise(), LoRA(2)))), exact(name)
    error = np.linalg.norm(out - want) / np.linalg.norm(want)
    assert 0 < error < 0.1


@each_block
def test_residuals_are_added_after_each_layer(name):
    """Control enters here: residuals of zero change nothing, others do."""
    model = ALBUM[name].model
    stage = model.stages[0].name
    taps = jax.device_get(forward(name).taps[stage])

    @jax.jit
    def run(residuals):
        given = params(name), batch(name), TIME, ALBUM[name].conditions
        return model.apply(*given, inject={stage: residuals}).prediction

    near(name, run(jax.tree.map(np.zeros_like, taps)), 1e-5)
    assert np.abs(run(jax.tree.map(np.cos, taps)) - exact(name)).max() > 1e-4


def layers(model):
    return [(stage.name, type(stage.block)) for stage in model.stages]


@pytest.mark.parametrize("name", list(ALIKE))
def test_members_that_are_left_out_have_the_layers_of_another(name):
    other = layers(ALBUM[ALIKE[name]].model)
    assert set(layers(ALBUM[name].model)) <= set(other)
