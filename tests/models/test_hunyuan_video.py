# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count, shape_of_prediction
from tiny_dit import awake, program

from jdit.conditioning import Text
from jdit.interop.flux import save_flux
from jdit.interop.hunyuan_video import load_hunyuan_video, save_hunyuan_video
from jdit.models.hunyuan_video import HunyuanVideo, hunyuan_video
from jdit.recipe import load_recipe
from jdit.tokens.rotary_geometries import Axes, Centred

TINY = HunyuanVideo(
    grid=(2, 4, 2),
    channels=2,
    dim=16,
    depth=1,
    single_depth=1,
    refiner_depth=1,
    heads=2,
    guidance=False,
    geometry=Axes((2, 2, 4), 256.0),
    conditioning=Text(6, 3),
)


def test_the_published_size_has_the_published_parameters():
    """Counted on diffusers' module."""
    assert count(hunyuan_video()) == 12_821_012_544


def test_padding_is_not_seen_wherever_it_is():
    """By the image, by the mean that the refiner is told, or by the other tokens."""
    params = awake(TINY)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, *TINY.sample_shape)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(1, 3, 6)), jnp.float32)
    pooled, time = jnp.ones((1, 3)), jnp.array([0.5])

    @jax.jit
    def run(text, mask):
        told = dict(text=text, pooled=pooled, mask=mask)
        return program(TINY)(params, x, time, told).prediction

    last, first = jnp.array([[True, True, False]]), jnp.array([[False, True, True]])
    want = run(text, last)
    other = run(text.at[:, 2].set(9.0), last)
    np.testing.assert_allclose(other, want, atol=1e-5)
    np.testing.assert_allclose(run(jnp.roll(text, 1, 1), first), want, atol=1e-5)
    assert np.abs(run(text, jnp.ones((1, 3), bool)) - want).max() > 1e-4
    assert np.all(np.isfinite(run(text, jnp.zeros((1, 3), bool))))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(grid=(4, 4)), "three axes: frames, height, width"),
        (dict(refiner_depth=0), "refiner_depth is 0"),
        (dict(conditioning=Text(6)), "but HunyuanVideo reads pooled text"),
        (dict(geometry=Axes((2, 2, 2))), "add up to the width of a head, 8"),
    ],
    ids=["grid", "refiner", "pooled", "axes"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_folders_of_other_models_say_so(tmp_path):
    params = jax.jit(TINY.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="a HunyuanVideo, but this layout holds a F"):
        save_flux(tmp_path, TINY, params)
    with pytest.raises(ValueError, match="model.geometry is Centred"):
        centred = replace(TINY, geometry=Centred((2, 2, 4)))
        save_hunyuan_video(tmp_path, centred, params)
    save_hunyuan_video(tmp_path, TINY, params)
    path = tmp_path / "config.json"
    config = path.read_text()
    path.write_text(config.replace('type": null', 'type": "token_replace"'))
    with pytest.raises(ValueError, match="image_condition_type 'token_replace'"):
        load_hunyuan_video(tmp_path)
    path.write_text(config.replace('"in_channels": 2', '"in_channels": 5'))
    with pytest.raises(ValueError, match="only text-to-video is supported"):
        load_hunyuan_video(tmp_path)


def test_the_recipe_is_the_published_setting():
    model = load_recipe("hunyuan_video").model
    assert count(model) == count(hunyuan_video(guidance=False))
    given = {
        "text": ((256, 4096), np.float32),
        "mask": ((256,), bool),
        "pooled": ((768,), np.float32),
    }
    assert shape_of_prediction(model, given) == (2, 33, 90, 160, 16)
