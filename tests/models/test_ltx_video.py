# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count, shape_of_prediction

from jdit.conditioning import Text
from jdit.interop.ltx_video import load_ltx_video, save_ltx_video
from jdit.models.ltx_video import LTXVideo, ltx_video_2b, ltx_video_13b
from jdit.recipe import load_recipe
from jdit.tokens import Patches
from jdit.tokens.fractional import Fractional

TINY = LTXVideo(
    grid=(2, 3, 4), channels=2, dim=32, depth=1, heads=2, conditioning=Text(6)
)


@pytest.mark.parametrize(
    "model, parameters",
    [(ltx_video_2b(), 1_923_385_472), (ltx_video_13b(), 13_042_569_344)],
    ids=["2b", "13b"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on diffusers' module."""
    assert count(model) == parameters


def places(*rows):
    return np.array(rows, np.float32)


def test_latents_stand_where_they_begin():
    """8 frames a latent and 25 a second; a causal codec's first latent is a frame."""
    grid = places([0, 0, 0], [1, 2, 3], [2, 64, 0])
    want = np.array([[0, 0, 0], [8 / 25, 64, 96], [16 / 25, 2048, 0]])
    scale = np.array([20, 2048, 2048])
    np.testing.assert_allclose(Fractional().fractions(grid) * scale, want, rtol=1e-6)
    want[:, 0] = [0, 1 / 25, 9 / 25]
    causal = Fractional(causal=True).fractions(grid) * scale
    np.testing.assert_allclose(causal, want, rtol=1e-6)


def test_a_faster_video_is_a_longer_one():
    """50 frames a second for twice as many latents fill the same seconds."""
    slow, fast = Fractional(frame_rate=25.0), Fractional(frame_rate=50.0)
    one, two = places([3, 1, 1]), places([6, 1, 1])
    np.testing.assert_array_equal(slow.fractions(one), fast.fractions(two))


def test_heads_turn_from_slow_to_fast():
    """Pairs fill the width from a quarter turn to 10,000 of them, axes in turn."""
    positions = Fractional(largest=(1.0, 1.0, 1.0), pixels=(1, 1, 1), frame_rate=1.0)
    cos, sin = positions(places([1, 0, 0]), width=32, heads=2)
    angles = np.arctan2(sin, cos).reshape(-1)  # heads, then pairs: 1 idle, 3 x 5
    want = np.array([0, *(10.0**i * s for i in range(5) for s in (1, -1, -1))])
    np.testing.assert_allclose(
        np.exp(1j * angles), np.exp(1j * np.pi / 2 * want), atol=1e-3
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=34), "multiple of twice heads"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(4, 4)), "three axes: frames, height, width"),
    ],
    ids=["heads", "depth", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="positions.frame_rate is 0"):
        Fractional(frame_rate=0.0)


def test_folders_of_other_models_say_so(tmp_path):
    params = jax.jit(TINY.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="model.clock is"):
        clock = replace(TINY.clock, shift=1.0)
        save_ltx_video(tmp_path, replace(TINY, clock=clock), params)
    save_ltx_video(tmp_path, TINY, params)
    path = tmp_path / "config.json"
    config = path.read_text()
    path.write_text(config.replace('"patch_size": 1', '"patch_size": 2'))
    with pytest.raises(ValueError, match="patch_size 2, but only 1 is"):
        load_ltx_video(tmp_path)
    path.write_text(config.replace('_dim": 32', '_dim": 64'))
    with pytest.raises(ValueError, match="cross_attention_dim 64, but only 32 is"):
        load_ltx_video(tmp_path)


def test_other_sizes_have_the_same_parameters():
    params = jax.jit(TINY.init)(jax.random.key(0))
    wide = replace(TINY, grid=(1, 2, 5))
    text = {"text": jnp.zeros((1, 3, 6))}
    x, time = jnp.ones((1, *wide.sample_shape)), jnp.ones(1)
    shape = jax.eval_shape(wide.apply, params, x, time, text).prediction.shape
    assert shape == x.shape and Patches(wide.grid, 1).count == 10


def test_the_recipe_is_the_published_setting():
    model = load_recipe("ltx_video").model
    assert count(model) == 1_923_385_472
    text = {"text": ((128, 4096), np.float32), "mask": ((128,), bool)}
    assert shape_of_prediction(model, text) == (2, 16, 16, 24, 128)
