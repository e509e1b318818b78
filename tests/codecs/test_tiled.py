# SPDX-License-Identifier: Apache-2.0
"""Tiles: exact for local codecs, linear where they meet, one at a time."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import start

from jdit.codecs import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderTiny,
    Posterior,
    Tiled,
    taesd,
)
from jdit.codecs.layers import double

TINY = AutoencoderTiny(encoder_blocks=(1, 0), decoder_blocks=(1, 0), widths=(8, 8))
WEIGHTS = start(TINY)


@dataclass(frozen=True)
class Pointwise:
    """A codec that only resizes; `whole` makes a tile its first value instead."""

    whole: bool = False
    channels = latent_channels = 1
    factor = 2

    def encode(self, params, x):
        x = x[:, ::2, ::2]
        return Posterior(x, jnp.full_like(x, -jnp.inf))

    def decode(self, params, z):
        return double(jnp.full_like(z, z[0, 0, 0, 0]) if self.whole else z)


def noise(*shape):
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize("side", [(4, 4), (5, 9), (23, 6)], ids=str)
@pytest.mark.parametrize("sizes", [(5, 0, 0), (5, 4, 0), (6, 2, 1), (7, 3, 1)], ids=str)
def test_a_pointwise_codec_is_reproduced(side, sizes):
    codec = Tiled(Pointwise(), *sizes)
    z = noise(2, *side, 1)
    np.testing.assert_allclose(codec.decode({}, z), double(z), atol=1e-6)
    posterior = codec.encode({}, double(z))
    np.testing.assert_allclose(posterior.mean, z, atol=1e-6)
    assert np.all(np.isneginf(posterior.logvar))


def test_overlaps_are_blended_linearly():
    z = jnp.arange(14.0).reshape(1, 1, 14, 1)  # tiles start, and are, 0 and 6
    row = Tiled(Pointwise(whole=True), tile=8, overlap=2, margin=0).decode({}, z)
    want = [0] * 12 + [0.75, 2.25, 3.75, 5.25] + [6] * 12
    np.testing.assert_allclose(row[0, 0, :, 0], want, atol=1e-6)
    row = Tiled(Pointwise(whole=True), tile=8, overlap=2, margin=1).decode({}, z)
    np.testing.assert_allclose(row[0, 0, :, 0], [0] * 14 + [6] * 14, atol=1e-6)


def changed(before, after):
    """The rows and columns where two images differ."""
    off = np.abs(np.asarray(before) - np.asarray(after)).max((0, 3))
    return np.nonzero(off.max(1) > 1e-6)[0], np.nonzero(off.max(0) > 1e-6)[0]


@pytest.mark.parametrize("codec", [TINY, replace(TINY, encoder_blocks=(0, 1))], ids=str)
def test_reach_is_how_far_a_change_is_seen(codec):
    weights = start(codec)
    x, z = noise(1, 40, 2, 3), noise(1, 20, 1, 4)
    x, z = jnp.repeat(x, 10, 2), jnp.repeat(z, 20, 2)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    moved = encode(weights, x.at[:, 20:22].add(3.0)).mean
    rows, _ = changed(encode(weights, x).mean, moved)
    assert max(10 - rows.min(), rows.max() - 10) == codec.reach[0]
    moved = decode(weights, z.at[:, 10].add(3.0))
    rows, _ = changed(decode(weights, z), moved)
    assert max(10 - rows.min() // 2, rows.max() // 2 - 10) == codec.reach[1]


def test_reach_of_the_published_tiny_codec():
    """By hand: the encoder reads 145 pixels to the left, the decoder 18.1 latents."""
    pixels = 1 + 3 * (1 + 3 * 2 + 3 * 4 + 3 * 8) + (1 + 2 + 4) + 8
    latents = 1 + 3 * (3 + 3 / 2 + 3 / 4 + 1 / 8) + (1 / 2 + 1 / 4 + 1 / 8) + 1 / 8
    assert taesd().reach == (-(-pixels // 8), np.ceil(latents))


def test_a_local_codec_is_equal_with_a_margin_of_its_reach():
    far = max(TINY.reach)
    tiled = Tiled(TINY, tile=2 * far + 4, overlap=2 * far, margin=far)
    x, z = noise(2, 40, 52, 3), noise(2, 20, 26, 4)
    for part, values in (("encode", x), ("decode", z)):
        want = jax.jit(getattr(TINY, part))(WEIGHTS, values)
        have = jax.jit(getattr(tiled, part))(WEIGHTS, values)
        if part == "encode":
            want, have = want.mean, have.mean
        np.testing.assert_allclose(have, want, atol=2e-6)


def test_videos_are_cut_in_rows_and_columns():
    """LTX-Video's codec has no statistics over the image: a wide margin is exact."""
    levels = dict(widths=(4,), halves=(True,), blocks=(1, 1))
    sides = levels | {f"decoder_{name}": value for name, value in levels.items()}
    codec = AutoencoderKLLTXVideo(latent_channels=2, patch=1, **sides)
    weights, x, z = start(codec), noise(1, 3, 24, 40, 3), noise(1, 2, 12, 20, 2)
    tiled = Tiled(codec, tile=14, overlap=13, margin=6)
    for part, values in (("encode", x), ("decode", z)):
        want = jax.jit(getattr(codec, part))(weights, values)
        have = jax.jit(getattr(tiled, part))(weights, values)
        if part == "encode":
            want, have = want.mean, have.mean
        np.testing.assert_allclose(have, want, atol=2e-6 * np.std(want))
    bare = jax.jit(replace(tiled, overlap=2, margin=0).decode)(weights, z)
    assert 1e-3 < np.abs(bare - want).max() / np.std(want) < 2
    assert tiled.data_grid((2, 12, 20)) == x.shape[1:4] and tiled.factor[1:] == (2, 2)
    assert tiled.latent_grid(x.shape[1:4]) == z.shape[1:4]


def test_without_a_margin_only_the_reach_of_edges_differs():
    tiled = Tiled(TINY, tile=16, overlap=2, margin=0)
    z = noise(1, 16, 30, 4)  # two tiles, which share columns 14 and 15
    want, have = (jax.jit(c.decode)(WEIGHTS, z) for c in (TINY, tiled))
    _, columns = changed(want, have)
    far = TINY.reach[1]
    assert columns.size and columns.min() >= 2 * (16 - far)
    assert columns.max() < 2 * (14 + far)
    assert np.abs(want - have).max() < 2 * np.std(want)  # 1.14 of it when measured


def test_group_norms_see_tiles():
    """Untrained weights and white noise, in units of the image's spread."""
    codec = AutoencoderKL(widths=(8, 8), blocks=1, groups=4)
    weights, z = start(codec), noise(1, 24, 40, 4)
    tiled = Tiled(codec, tile=16, overlap=8, margin=2)
    want, have = (jax.jit(c.decode)(weights, z) for c in (codec, tiled))
    off = np.abs(want - have) / np.std(want)
    assert 0.01 < off.mean() < 0.2 and off.max() < 1.5  # 0.16 and 1.3 when measured


def test_a_small_image_is_one_tile():
    z = noise(1, 4, 6, 4)
    want = jax.jit(TINY.decode)(WEIGHTS, z)
    np.testing.assert_array_equal(jax.jit(Tiled(TINY).decode)(WEIGHTS, z), want)


def test_one_tile_is_held_and_gradients_pass():
    tiled, z = Tiled(TINY, tile=8, overlap=2, margin=0), noise(1, 64, 64, 4)

    def room(codec):
        run = jax.jit(codec.decode).lower(WEIGHTS, z).compile()
        return run.memory_analysis().temp_size_in_bytes

    assert room(tiled) < room(TINY) / 3
    grad = jax.jit(jax.grad(lambda z: tiled.decode(WEIGHTS, z).sum()))(z[:, :10, :10])
    assert np.all(np.isfinite(grad)) and np.all(np.any(grad, -1))
