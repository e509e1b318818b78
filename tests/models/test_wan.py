# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count, shape_of_prediction
from tiny_dit import awake, program

from jdit.conditioning import Text
from jdit.interop.wan import (
    load_wan,
    load_wan_experts,
    save_wan,
    save_wan_experts,
)
from jdit.models.wan import Wan, WanExperts, wan_1b, wan_2_2_14b, wan_14b
from jdit.policies import Reuse
from jdit.recipe import load_recipe

TINY = Wan(
    grid=(2, 4, 4),
    channels=2,
    dim=24,
    depth=1,
    heads=2,
    hidden=32,
    text_tokens=5,
    conditioning=Text(6),
)


@pytest.mark.parametrize(
    "model, parameters",
    [
        (wan_1b(), 1_418_996_800),
        (wan_14b(), 14_288_491_584),
        (wan_2_2_14b(), 2 * 14_288_491_584),
    ],
    ids=["1b", "14b", "2.2"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on diffusers' module."""
    assert count(model) == parameters


def test_padding_is_zero_vectors_whatever_the_encoder_says():
    """Masked tokens, zeros, and absent tokens are one; and these are attended to."""
    params = awake(TINY)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, *TINY.sample_shape)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(1, 3, 6)), jnp.float32)
    mask, time = jnp.array([[True, True, False]]), jnp.array([0.5])

    def run(model=TINY, **conditions):
        return program(model)(params, x, time, conditions).prediction

    want = run(text=text, mask=mask)
    np.testing.assert_allclose(run(text=text[:, :2]), want, atol=1e-6)
    np.testing.assert_allclose(run(text=text.at[:, 2].set(0)), want, atol=1e-6)
    fewer = run(replace(TINY, text_tokens=2), text=text[:, :2])
    assert np.abs(fewer - want).max() > 1e-4
    with pytest.raises(ValueError, match="at most text_tokens = 5"):
        run(text=jnp.zeros((1, 6, 6)))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=22, heads=2), "multiple of twice heads"),
        (dict(hidden=0), "hidden is 0"),
        (dict(grid=(4, 4)), "three axes: frames, height, width"),
    ],
    ids=["heads", "hidden", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_folders_of_other_models_say_so(tmp_path):
    params = jax.jit(TINY.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="model.clock is"):
        save_wan(tmp_path, replace(TINY, clock=replace(TINY.clock, shift=1.0)), params)
    save_wan(tmp_path, TINY, params)
    path = tmp_path / "config.json"
    config = path.read_text()
    path.write_text(config.replace('"image_dim": null', '"image_dim": 1280'))
    with pytest.raises(ValueError, match="image_dim 1280"):
        load_wan(tmp_path)
    path.write_text(config.replace('"in_channels": 2', '"in_channels": 4'))
    with pytest.raises(ValueError, match="only text-to-video is supported"):
        load_wan(tmp_path)


def test_the_recipe_is_the_published_setting():
    model = load_recipe("wan").model
    assert count(model) == 1_418_996_800
    text = {"text": ((512, 4096), np.float32)}
    assert shape_of_prediction(model, text) == (2, 21, 60, 104, 16)


PAIR = WanExperts(**vars(TINY), boundary=0.6)


@pytest.fixture(scope="module")
def pair():
    return awake(PAIR)


def told(time):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *TINY.sample_shape)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)
    return x, jnp.array(time), {"text": text}


def test_each_time_has_its_own_network(pair):
    """The boundary is the first's; a batch may lie on both sides."""
    run, one = program(PAIR), program(TINY)
    for time in ((0.9, 0.6), (0.59, 0.1), (0.2, 0.8)):
        given = told(time)
        found = run(pair, *given).prediction
        sides = [one(pair[name], *given).prediction for name in ("high", "low")]
        assert np.abs(sides[0] - sides[1]).max() > 1e-2
        for row, when in enumerate(time):
            want = sides[0 if when >= 0.6 else 1][row]
            np.testing.assert_allclose(found[row], want, atol=1e-5)


def test_what_a_policy_remembers_is_handed_over(pair):
    """Reused at the second step: what the other network's branches gave before."""
    policy = Reuse(2)
    step, one = program(PAIR, policy=policy), program(TINY, policy=policy)
    early, late = told((0.9, 0.9)), told((0.3, 0.3))
    memory = PAIR.memory(pair, early[0], early[2], policy)
    first = step(pair, *early, memory=memory, step=jnp.asarray(0))
    found = step(pair, *late, memory=first.memory, step=jnp.asarray(1))
    alone = one(pair["high"], *early, memory=memory, step=jnp.asarray(0))
    want = one(pair["low"], *late, memory=alone.memory, step=jnp.asarray(1))
    np.testing.assert_allclose(found.prediction, want.prediction, atol=1e-5)


def test_folders_of_two_networks_round_trip(pair, tmp_path):
    save_wan_experts(tmp_path, PAIR, pair)
    index = tmp_path / "model_index.json"
    index.write_text('{"boundary_ratio": 0.6}')
    config = dict(grid=PAIR.grid, text_tokens=PAIR.text_tokens)
    again, same = load_wan(tmp_path, **config)
    assert again == PAIR
    assert jax.tree.all(jax.tree.map(np.array_equal, same, pair))
    save_wan(
        tmp_path / "transformer_2", deeper := replace(TINY, depth=2), awake(deeper)
    )
    with pytest.raises(ValueError, match="a transformer and a transformer_2 of two"):
        load_wan_experts(tmp_path, **config)
    index.write_text("{}")
    with pytest.raises(ValueError, match="boundary_ratio None, but it must be a num"):
        load_wan_experts(tmp_path, **config)
    with pytest.raises(ValueError, match="boundary is 1.0, but it must lie between"):
        replace(PAIR, boundary=1.0)
    with pytest.raises(ValueError, match="model is a Wan, but this layout holds a Wan"):
        save_wan_experts(tmp_path, TINY, pair)
