# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from models.counting import count, shape_of_prediction

from jdit.conditioning import Text
from jdit.interop.files import Source
from jdit.interop.mmdit import affine, load_mmdit, save_mmdit, table
from jdit.models.mmdit import MMDiT, sd3, sd35_large, sd35_medium
from jdit.recipe import load_recipe
from jdit.tokens import sincos

TINY = MMDiT(
    grid=(4, 4),
    channels=2,
    dim=16,
    depth=2,
    heads=2,
    max_size=6,
    conditioning=Text(4, 3),
)

COUNTS = {"sd3": 2_028_328_000, "medium": 2_243_171_520, "large": 8_056_627_520}
"""Of diffusers' modules; the parity test counts them anew."""


def test_published_sizes():
    models = {"sd3": sd3(), "medium": sd35_medium(), "large": sd35_large()}
    assert {name: count(model) for name, model in models.items()} == COUNTS


def test_positions_are_the_middle_of_the_table():
    whole = table(TINY)[0].reshape(6, 6, 16)
    for grid, rows, columns in [
        ((4, 4), slice(2, 4), slice(2, 4)),
        ((10, 4), slice(0, 5), slice(2, 4)),
        ((12, 12), slice(0, 6), slice(0, 6)),
    ]:
        model = replace(TINY, grid=grid)
        want = whole[rows, columns].reshape(-1, 16)
        np.testing.assert_array_equal(sincos(model.coordinates(), 16), want)


@pytest.mark.parametrize("spacing, offset", [(3.0, 0.0), (4.0, 16.0), (0.75, -2.5)])
def test_spacing_and_offset_are_read_off_a_table(spacing, offset):
    """(4, 16) is the paper's table for 1024 pixels: (p - 64) * 256 / 1024."""
    stored = table(replace(TINY, max_size=12, spacing=spacing, offset=offset, dim=32))
    source = Source("a", {"x": stored.shape}, lambda key: stored)
    assert affine(source, "x") == (spacing, offset)
    half = Source("a", {"x": stored.shape}, lambda key: stored.astype(np.float16))
    assert affine(half, "x") == (spacing, offset)


@pytest.mark.parametrize("name, size", [("sd3", 32), ("sd35_medium", 128)])
def test_recipes_at_full_size(name, size):
    model = load_recipe(name).model
    given = {"text": ((154, 4096), np.float32), "pooled": ((2048,), np.float32)}
    assert shape_of_prediction(model, given) == (2, size, size, 16)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(heads=3), "dim 16 is not a multiple of heads 3"),
        (dict(dual_layers=2), "depth is 2 and dual_layers 2"),
        (dict(depth=1), "depth must be at least 2"),
        (dict(grid=(14, 4)), r"grid is \(14, 4\).* at most 12"),
        (dict(grid=(4,)), "it must have 2 axes"),
        (dict(conditioning=Text(4)), "conditioning.pooled is None"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_folders_are_read_strictly(tmp_path):
    params = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32),
        jax.eval_shape(TINY.init, jax.random.key(0)),
    )
    save_mmdit(tmp_path, TINY, params)
    assert load_mmdit(tmp_path)[0] == TINY
    with pytest.raises(ValueError, match="heads is given, but .* is a folder"):
        load_mmdit(tmp_path, heads=2)
    with pytest.raises(ValueError, match=r"model.grid is \(8, 4\)"):
        save_mmdit(tmp_path, replace(TINY, grid=(8, 4)), params)
    with pytest.raises(ValueError, match="model.mlp_ratio is 2.0"):
        save_mmdit(tmp_path, replace(TINY, mlp_ratio=2.0), params)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for field, value, words in [
        ("dual_attention_layers", [1], "only the first layers"),
        ("qk_norm", "layer_norm", "qk_norm 'layer_norm', but it must be null or"),
        ("out_channels", 4, "out_channels 4, but it must be 2"),
        ("caption_projection_dim", 8, "caption_projection_dim 8, but it must be 16"),
        ("wings", 2, "unknown field 'wings'"),
    ]:
        path.write_text(json.dumps(config | {field: value}))
        with pytest.raises(ValueError, match=words):
            load_mmdit(tmp_path)
