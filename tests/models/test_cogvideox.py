# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import numpy as np
import pytest
from models.counting import count, shape_of_prediction

from jdit.conditioning import Text
from jdit.interop.cogvideox import load_cogvideox, save_cogvideox
from jdit.models.cogvideox import CogVideoX, Resized, cogvideox_2b, cogvideox_5b
from jdit.recipe import load_recipe
from jdit.tokens.rotary_geometries import Axes

TINY = CogVideoX(
    grid=(2, 4, 4),
    channels=2,
    dim=32,
    depth=1,
    heads=2,
    condition=8,
    conditioning=Text(6),
)


@pytest.mark.parametrize(
    "model, parameters",
    [(cogvideox_2b(), 1_693_783_872), (cogvideox_5b(), 5_570_283_072)],
    ids=["2b", "5b"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on diffusers' module."""
    assert count(model) == parameters


def test_the_trained_grid_stands_on_whole_rows_and_columns():
    """And a smaller video of its shape spans the same."""
    own, plain = Resized((4, 6, 6), (4, 6)), Axes((4, 6, 6))
    place = replace(TINY, grid=(3, 8, 12)).tokens.coordinates()
    for ours, want in zip(own(5, place), plain(5, place), strict=True):
        np.testing.assert_allclose(ours, want, atol=1e-6)
    half = replace(TINY, grid=(3, 4, 6)).tokens.coordinates()
    for ours, want in zip(own(5, half), plain(5, half * [1, 2, 2]), strict=True):
        np.testing.assert_allclose(ours, want, atol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=33), "not a multiple of heads"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(4, 4)), "three axes: frames, height, width"),
        (dict(dim=24), "multiple of 16"),
        (dict(rotary=Resized()), "add up to the width of a head"),
    ],
    ids=["heads", "depth", "grid", "sincos", "rotary"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_folders_of_other_models_say_so(tmp_path):
    params = jax.jit(TINY.init)(jax.random.key(0))
    for change, words in [
        (dict(mlp_ratio=2.0), "model.mlp_ratio is 2.0"),
        (dict(rotary=Axes((4, 6, 6))), "model.rotary is Axes"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_cogvideox(tmp_path, replace(TINY, **change), params)
    save_cogvideox(tmp_path, TINY, params)
    path = tmp_path / "config.json"
    config = path.read_text()
    path.write_text(config.replace('"patch_size_t": null', '"patch_size_t": 2'))
    with pytest.raises(ValueError, match="patch_size_t 2"):
        load_cogvideox(tmp_path)
    path.write_text(config.replace('"in_channels": 2', '"in_channels": 4'))
    with pytest.raises(ValueError, match="only text-to-video is supported"):
        load_cogvideox(tmp_path)


def test_the_recipe_is_the_published_setting():
    model = load_recipe("cogvideox").model
    assert count(model) == 1_693_783_872
    text = {"text": ((226, 4096), np.float32)}
    assert shape_of_prediction(model, text) == (2, 13, 60, 90, 16)
