# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import awake, program

from jdit.interop.hunyuan_dit import load_hunyuan_dit, save_hunyuan_dit
from jdit.models.hunyuan_dit import HunyuanDiT, TwoTexts, hunyuan_dit
from jdit.recipe import load_recipe

TEXTS = TwoTexts(features=6, second_features=8, length=3, second_length=2)
TINY = HunyuanDiT(
    grid=(4, 4), dim=8, depth=4, heads=2, pooled=5, conditioning=TEXTS
)  # fmt: skip
GIVEN = {"text": jnp.ones((1, 3, 6)), "second_text": jnp.ones((1, 2, 8))}


@cache
def params():
    return awake(TINY)


def run(conditions):
    x, time = jnp.ones((1, 4, 4, 4)), jnp.array([0.4])
    return program(TINY)(params(), x, time, conditions).prediction


@pytest.mark.parametrize(
    "version, parameters", [("1.1", 1_516_534_048), ("1.2", 1_499_952_032)]
)
def test_published_sizes_have_the_published_parameters(version, parameters):
    """Counted on diffusers' module."""
    shapes = jax.eval_shape(hunyuan_dit(version).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
    with pytest.raises(ValueError, match="version is '2', but it must be one of"):
        hunyuan_dit("2")


def test_masked_tokens_are_the_padding_and_defaults_are_the_grids():
    mask = jnp.array([[True, False, True]])
    plain = run(GIVEN | {"mask": mask})
    other = GIVEN["text"].at[0, 1].set(9.0)
    np.testing.assert_array_equal(plain, run(GIVEN | {"mask": mask, "text": other}))
    sizes = jnp.array([[32.0, 32, 32, 32, 0, 0]])
    told = {"mask": mask, "sizes": sizes, "style": jnp.array([0])}
    np.testing.assert_array_equal(plain, run(GIVEN | told))
    assert np.abs(plain - run(GIVEN)).max() > 1e-6


def test_null_is_zeros_of_both_texts_or_the_negative():
    null = TINY.null(GIVEN)
    assert not np.any(null["text"]) and not np.any(null["second_text"])
    negative = {name: 2 * value for name, value in GIVEN.items()}
    null = TINY.null(GIVEN | {"negative": negative})
    np.testing.assert_array_equal(null["second_text"], negative["second_text"])


def test_positions_are_centred_in_the_base_square():
    for grid, rows, columns in [
        ((64, 64), (0, 31), (0, 31)),
        ((64, 32), (0, 31), (8, 23)),
        ((16, 32), (8, 22), (0, 30)),
    ]:
        at = replace(TINY, grid=grid).coordinates
        np.testing.assert_allclose(
            (at[:, 0].min(), at[:, 1].min()), (rows[0], columns[0])
        )
        assert at[:, 0].max() <= rows[1] + 1 and at[:, 1].max() <= columns[1] + 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=12), "the width of a head must be a multiple of 4"),
        (dict(depth=5), "depth is 5, but it must be even"),
        (dict(grid=(4,)), "two axes"),
    ],
    ids=["heads", "depth", "grid"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(second_text=jnp.ones((1, 3, 8))), r"needs it with shape \(batch, 2, 8\)"),
        (dict(second_mask=jnp.ones((1, 3), bool)), r"conditions\['second_mask'\]"),
        (dict(sizes=jnp.ones((1, 2))), "'sizes' of shape"),
    ],
    ids=["text", "mask", "sizes"],
)
def test_bad_conditions_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        run(GIVEN | change)


def test_folders_that_do_not_fit_say_so(tmp_path):
    save_hunyuan_dit(tmp_path, TINY, params())
    model, again = load_hunyuan_dit(tmp_path)
    assert model == TINY
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params()))
    for change, words in [
        (dict(base=16), "model.base is 16"),
        (dict(grid=(4, 8)), "means a square grid"),
        (dict(out_channels=3), "3 output channels"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_hunyuan_dit(tmp_path, replace(TINY, **change), params())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 9}))
    with pytest.raises(ValueError, match="has hidden_size 9, but"):
        load_hunyuan_dit(tmp_path)


def test_the_recipe_is_the_published_size():
    model = load_recipe("hunyuan_dit").model
    weights = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, 128, 128, 4), np.float32)
    time = jax.ShapeDtypeStruct((1,), np.float32)
    given = dict(
        text=jax.ShapeDtypeStruct((1, 77, 1024), np.float32),
        second_text=jax.ShapeDtypeStruct((1, 256, 2048), np.float32),
    )
    out = jax.eval_shape(model.apply, weights, x, time, given)
    assert out.prediction.shape == x.shape
