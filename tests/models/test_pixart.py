# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_dit import awake, program

from jdit.blocks.pixart import Compression, Merge
from jdit.conditioning import Labels, LogSigmaClock, Text
from jdit.interop.pixart import load_pixart, save_pixart
from jdit.models import DiT
from jdit.models.pixart import (
    PixArt,
    Sizes,
    from_class_conditional,
    pixart_alpha,
    pixart_sigma,
)
from jdit.recipe import load_recipe

TINY = PixArt(
    grid=(4, 4), dim=12, depth=2, heads=2, base=2, sizes=Sizes(), conditioning=Text(5)
)


@cache
def params(model=TINY):
    return awake(model)


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "model, parameters",
    [
        (pixart_alpha(256), 610_856_096),
        (pixart_alpha(1024), 611_349_152),
        (pixart_sigma(2048), 610_856_096),
        (pixart_sigma(1024, compression=Compression()), 610_856_096 + 14 * 1152 * 7),
    ],
    ids=["alpha-256", "alpha-1024", "sigma-2048", "sigma-compressed"],
)
def test_published_sizes_have_the_published_parameters(model, parameters):
    """Counted on diffusers' module; token merging adds 4 + 1 + 2 numbers a channel."""
    assert count(model) == parameters


SOURCE = DiT(
    grid=(8, 8), channels=2, out_channels=4, dim=24, depth=3, heads=2,
    conditioning=Labels(5), clock=pixart_alpha().clock,
)  # fmt: skip


def test_a_class_conditional_start_is_the_dit_at_its_time():
    """Any text: attention to it starts at zero; the null class is what is meant."""
    weights = awake(SOURCE)
    model, new = from_class_conditional(SOURCE, weights, text=Text(6))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
    text = {"text": jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)}
    null = {"label": jnp.array([5, 5])}
    at = jnp.full(2, 0.501)
    want = program(SOURCE)(weights, x, at, null).prediction
    np.testing.assert_allclose(
        program(model)(new, x, at, text).prediction, want, atol=2e-5
    )
    later = jnp.full(2, 0.9)
    off = program(model)(new, x, later, text).prediction
    assert (
        np.abs(off - program(SOURCE)(weights, x, later, null).prediction).max() > 1e-3
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(qk_norm=True), "model.qk_norm is True, but a PixArt starts"),
        (dict(positions="rotary"), "model.positions is 'rotary'"),
        (dict(grid=(8, 4)), "from a DiT of square images"),
    ],
    ids=["qk-norm", "rotary", "grid"],
)
def test_a_dit_that_is_no_start_says_so(change, words):
    with pytest.raises(ValueError, match=words):
        from_class_conditional(replace(SOURCE, **change), {})


def test_merged_tokens_start_as_normalised_means():
    x = np.random.default_rng(0).normal(size=(1, 4, 7, 3)).astype(np.float32)
    module = Merge((4, 7), 2)
    tokens = jnp.asarray(x.reshape(1, 28, 3))
    out = module.apply(module.init(jax.random.key(0), tokens), tokens)
    mean = x[:, :, :6].reshape(1, 2, 2, 3, 2, 3).mean((2, 4)).reshape(1, 6, 3)
    want = (mean - mean.mean(-1, keepdims=True)) / mean.std(-1, keepdims=True)
    np.testing.assert_allclose(out, want, atol=1e-3)


def test_positions_span_the_training_grid_at_every_size():
    for grid in ((4, 4), (12, 4), (2, 20)):
        model = replace(TINY, grid=grid, interpolation=2.0)
        rows, columns = (sorted(set(axis.tolist())) for axis in model.coordinates.T)
        for axis, size in ((rows, grid[0] // 2), (columns, grid[1] // 2)):
            np.testing.assert_allclose(axis, np.arange(size) / size, atol=1e-6)


def test_the_null_prediction_reads_no_text():
    x, time = jnp.ones((1, 4, 4, 4)), jnp.array([0.4])
    text = {"text": jnp.ones((1, 3, 5)), "mask": jnp.ones((1, 3), bool)}
    null = {"text": jnp.full((1, 3, 5), 2.0)}
    out = program(TINY)(params(), x, time, TINY.null(text | {"negative": null}))
    want = program(TINY)(params(), x, time, text | null)
    np.testing.assert_array_equal(out.prediction, want.prediction)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dim=13), "not a multiple of heads"),
        (dict(depth=0), "depth is 0"),
        (dict(grid=(4,)), "two axes"),
        (dict(dim=16), "with sizes it must be a multiple of 3"),
        (dict(compression=Compression(2, 3)), "compression.layers is 3, but the model"),
        (dict(compression=Compression(3, 1)), "compression.ratio is 3, but the grid"),
    ],
    ids=["heads", "depth", "grid", "sizes", "layers", "ratio"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


def test_bad_sizes_and_conditions_say_so():
    with pytest.raises(ValueError, match="compression.ratio is 0"):
        Compression(0)
    for make in (pixart_alpha, pixart_sigma):
        with pytest.raises(ValueError, match="size is 300, but it must be one of"):
            make(300)
    x, time = jnp.ones((1, 4, 4, 4)), jnp.ones(1)
    with pytest.raises(ValueError, match="needs 'text'"):
        TINY.apply(params(), x, time, {})
    bad = {"text": jnp.ones((1, 3, 5)), "resolution": jnp.ones((1, 3))}
    with pytest.raises(ValueError, match=r"conditions\['resolution'\] has shape"):
        TINY.apply(params(), x, time, bad)


def test_folders_and_files_that_do_not_fit_say_so(tmp_path):
    save_pixart(tmp_path / "a", TINY, params())
    model, again = load_pixart(tmp_path / "a")
    assert model == TINY
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params()))
    for change, words in [
        (dict(compression=Compression(2, 1)), "no token compression"),
        (dict(grid=(4, 8)), "means the square grid of 2 tokens"),
        (dict(clock=LogSigmaClock()), "model.clock is"),
        (dict(mlp_ratio=2.0), "mlp_ratio is 2.0"),
    ]:
        with pytest.raises(ValueError, match=words):
            save_pixart(tmp_path / "b", replace(TINY, **change), params())
    config = tmp_path / "a" / "config.json"
    good = json.loads(config.read_text())
    for change, words in [
        (dict(wings=2), "unknown field 'wings'"),
        (dict(norm_type="ada_norm"), "only 'ada_norm_single' is supported"),
        (dict(num_layers=0), "has num_layers 0, but it must be a positive whole"),
        (dict(caption_channels=None), "captions that are projected"),
        (dict(_class_name="FluxTransformer2DModel"), "is of a FluxTransformer2DModel"),
    ]:
        config.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=words):
            load_pixart(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_pixart(tmp_path / "c")


def test_published_files_without_positions_need_them_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_pixart(path, TINY, params())
    state = load_file(path)
    del state["pos_embed"]
    save_file(state, path)
    with pytest.raises(ValueError, match="pass grid, base, interpolation"):
        load_pixart(path, heads=2)
    with pytest.raises(ValueError, match="pass heads"):
        load_pixart(path, grid=(4, 4), base=2, interpolation=1.0)
    told = dict(grid=(4, 4), base=2, interpolation=1.0)
    model, again = load_pixart(path, heads=2, **told)
    assert model == TINY
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params()))


@pytest.mark.parametrize("name, tokens", [("pixart_alpha", 120), ("pixart_sigma", 300)])
def test_the_recipes_are_the_published_settings(name, tokens):
    model = load_recipe(name).model
    weights = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, *model.sample_shape), np.float32)
    time = jax.ShapeDtypeStruct((2,), np.float32)
    text = dict(
        text=jax.ShapeDtypeStruct((2, tokens, 4096), np.float32),
        mask=jax.ShapeDtypeStruct((2, tokens), np.bool_),
    )
    out = jax.eval_shape(model.apply, weights, x, time, text)
    assert out.prediction.shape == (*x.shape[:-1], 8)
