# SPDX-License-Identifier: Apache-2.0
"""What sets image encoders apart, and what they refuse."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import start

from jdit.encoders import VisionTransformer, dinov2, siglip_so400m
from jdit.encoders.resample import bicubic, resize_positions

MODEL = VisionTransformer(
    size=8, patch=4, dim=16, depth=2, heads=2, hidden=12, registers=2, layer_scale=True
)


def params_of(model):
    return start(model)


def images(height, width, seed=0):
    shape = (1, height, width, 3)
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1, maxval=1)


@pytest.mark.parametrize("antialias", [False, True])
def test_bicubic_keeps_constants_and_lines(antialias):
    """Cubic convolution reproduces lines away from the borders."""
    for source, target in ((12, 24), (12, 8), (9, 9)):
        matrix = bicubic(source, target, antialias)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        places = (np.arange(target) + 0.5) * source / target - 0.5
        inside = (places > 3.5) & (places < source - 4.5)
        # Only Keys' a = -0.5 keeps lines, and only in steps of at most one.
        if antialias and target >= source:
            line = matrix @ np.arange(source)
            np.testing.assert_allclose(line[inside], places[inside], atol=1e-4)
    np.testing.assert_allclose(bicubic(7, 7, antialias), np.eye(7), atol=1e-6)


def test_positions_of_the_native_grid_are_kept():
    rows = jax.random.normal(jax.random.key(0), (12, 5))
    assert resize_positions(rows, (3, 4), (3, 4)) is rows
    flat = resize_positions(jnp.ones((12, 5)), (3, 4), (5, 2))
    np.testing.assert_allclose(flat, np.ones((10, 5)), atol=1e-6)


def test_tokens_are_class_registers_and_patches():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    count = lambda h, w: jax.eval_shape(MODEL.apply, shapes, images(h, w)).tokens.shape  # noqa: E731
    assert count(8, 8) == (1, 1 + 2 + 4, 16)
    assert count(12, 20) == (1, 1 + 2 + 15, 16)
    assert count(14, 9) == (1, 1 + 2 + 6, 16)


def test_a_margin_is_not_read():
    params, run = params_of(MODEL), jax.jit(MODEL.apply)
    whole = images(10, 11)
    np.testing.assert_allclose(
        run(params, whole).tokens, run(params, whole[:, :8, :8]).tokens, atol=1e-6
    )


def test_images_are_normalised_by_mean_and_deviation():
    """An image of the mean colour gives zeros."""
    model = replace(MODEL, mean=(0.2, 0.5, 0.9), std=(0.1, 0.5, 2.0))
    grey = jnp.broadcast_to(2 * jnp.array(model.mean) - 1, (1, 8, 8, 3))
    np.testing.assert_allclose(model.normalise(grey), 0, atol=1e-6)
    white = model.normalise(jnp.ones((1, 1, 1, 3)))[0, 0, 0]
    np.testing.assert_allclose(white, [8, 1, 0.05], atol=1e-5)


def test_layer_scale_at_zero_leaves_the_stream():
    params = params_of(MODEL)
    layers = params["layers"]
    zero = {k: jnp.zeros_like(layers[k]) for k in ("attention_scale", "mlp_scale")}
    states = MODEL.hidden_states(params | {"layers": layers | zero}, images(8, 8))
    np.testing.assert_allclose(states[0], states[-1], atol=1e-6)


def test_a_hidden_layer_is_not_normed():
    params, x = params_of(MODEL), images(8, 8)
    states = MODEL.hidden_states(params, x)
    for layer in (0, 1, -2, -1):
        tokens = replace(MODEL, layer=layer).apply(params, x).tokens
        np.testing.assert_allclose(tokens, states[layer], atol=1e-6)


def test_published_grids():
    assert siglip_so400m().tokens.shape == (27, 27)
    assert siglip_so400m().tokens.grid == (378, 378)
    assert dinov2("g", registers=4).tokens.count == 37**2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: replace(MODEL, size=3), "size 3 is less than one patch, 4"),
        (lambda: replace(MODEL, heads=3), "dim 16 is not a multiple of heads 3"),
        (lambda: replace(MODEL, mean=(0.5,)), "mean and std have 1 and 3 values"),
        (lambda: replace(MODEL, readout="max"), "readout is 'max'"),
        (lambda: replace(MODEL, class_token=False), "class_token is False"),
        (lambda: replace(MODEL, layer=3), "layer is 3"),
        (lambda: dinov2("xl"), "size is 'xl', but it must be one of s, b, l, g"),
        (lambda: MODEL.apply({}, images(8, 3)), "8 by 3, which is less than one patch"),
        (lambda: MODEL.apply({}, images(8, 8)[0]), "they must be"),
        (lambda: MODEL.apply({}, images(8, 8), jnp.ones(4)), "mask is given"),
    ],
    ids=range(10),
)
def test_what_cannot_be_says_so(unchecked, make, words):
    with pytest.raises(ValueError, match=words):
        make()
