# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import awake

from jdit.conditioning import Labels, Text
from jdit.interop.latte import load_latte, save_latte
from jdit.models.latte import Latte, latte, latte_text
from jdit.recipe import load_recipe

TINY = Latte(grid=(3, 4, 4), dim=16, depth=2, heads=2, base=2, conditioning=Labels(3))


@cache
def params(model=TINY):
    return awake(model)


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (latte("XL"), 673_681_568),
        (latte("XL", conditioning=Labels(101)), 673_799_072),
    ],
    ids=["plain", "ucf101"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on the published module, without its fixed tables."""
    assert count(model) == parameters


def test_frames_are_told_apart_by_time_alone():
    """Without the frames' positions, permuted frames would give permuted outputs."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 3, 4, 4, 4)), jnp.float32)
    both = jnp.concatenate([x, x[:, ::-1]])
    time = jnp.full(2, 0.4)
    label = {"label": jnp.array([1, 1])}
    out = jax.jit(TINY.apply)(params(), both, time, label).prediction
    assert np.abs(out[0] - out[1, ::-1]).max() > 1e-3
    taps = jax.jit(TINY.embed)(params(), both, time, label)
    np.testing.assert_allclose(
        taps[0][0].reshape(3, 4, 16), taps[0][1].reshape(3, 4, 16)[::-1], atol=1e-6
    )


def test_files_round_trip_and_say_what_does_not_fit(tmp_path):
    path = tmp_path / "a.safetensors"
    save_latte(path, TINY, params())
    model, again = load_latte(path, heads=2)
    assert model == TINY
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params()))
    with pytest.raises(ValueError, match="pass heads"):
        load_latte(path)
    with pytest.raises(ValueError, match="is a folder, which is Text's"):
        save_latte(tmp_path / "folder", TINY, params())
    for change, words in [
        (dict(conditioning=Text(4)), "is a file, which holds Labels or None"),
        (dict(interpolation=2.0), "model.interpolation is 2.0"),
        (dict(grid=(3, 4, 8)), "frames are square"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_latte(path, replace(TINY, **change), params())


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=15), "not a multiple of heads"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(4, 4)), "three axes: frames, height, width"),
    ],
    ids=["heads", "depth", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="size is 'XXL'"):
        latte("XXL")


def test_the_recipe_is_the_published_setting():
    model = load_recipe("latte").model
    assert count(model) == 673_681_568
    x = jax.ShapeDtypeStruct((2, 16, 32, 32, 4), np.float32)
    time = jax.ShapeDtypeStruct((2,), np.float32)
    weights = jax.eval_shape(model.init, jax.random.key(0))
    out = jax.eval_shape(model.apply, weights, x, time, {})
    assert out.prediction.shape == (2, 16, 32, 32, 8)


def test_the_text_model_has_the_size_of_its_paper():
    model = latte_text()
    weights = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, 16, 64, 64, 4), np.float32)
    text = {"text": jax.ShapeDtypeStruct((1, 120, 4096), np.float32)}
    time = jax.ShapeDtypeStruct((1,), np.float32)
    out = jax.eval_shape(model.apply, weights, x, time, text)
    assert out.prediction.shape == (1, 16, 64, 64, 8)
