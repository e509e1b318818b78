# SPDX-License-Identifier: Apache-2.0
"""Codecs: shapes, statistics of latents, posteriors, gradients, files."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import awake

from jdit.codecs import (
    AutoencoderKL,
    AutoencoderRAE,
    AutoencoderTiny,
    PatchDecoder,
    Tiled,
    load_codec,
    save_codec,
)
from jdit.encoders import VisionTransformer
from jdit.surgery import LoRA, Quantise

KL = AutoencoderKL(widths=(8, 8), blocks=1, groups=4)
TINY = AutoencoderTiny(encoder_blocks=(1, 1), decoder_blocks=(1, 0), widths=(8, 8))
CODECS = {
    "kl": KL,
    "kl 16 channels": replace(
        KL,
        widths=(8, 16),
        latent_channels=16,
        quant=False,
        post_quant=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    ),
    "kl attended": replace(
        KL,
        latent_channels=2,
        channels=1,
        attention=(1,),
        mid_attention=False,
        latents_mean=(1.0, -1.0),
        latents_std=(0.5, 3.0),
        scaling_factor=2.0,
    ),
    "tiny": TINY,
    "tiled": Tiled(TINY, tile=5, overlap=2, margin=1),
    "rae": AutoencoderRAE(
        VisionTransformer(9, 3, dim=8, depth=1, heads=2, hidden=8, registers=1),
        PatchDecoder(8, (4, 8), 2, 3, 8, 1, 2, 8),
    ),
}
OWN_TESTS = ("tiled", "rae")
each = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
plain = pytest.mark.parametrize(
    "codec",
    [codec for name, codec in CODECS.items() if name not in OWN_TESTS],
    ids=[name for name in CODECS if name not in OWN_TESTS],
)


def images(codec, height=8, width=16):
    size = (2, height, width, codec.channels)
    return jax.random.uniform(jax.random.key(2), size, minval=-1)


@each
def test_shapes_and_types(codec):
    x = images(codec)
    posterior = jax.jit(codec.encode)(awake(codec), x)
    latent = (2, 8 // codec.factor, 16 // codec.factor, codec.latent_channels)
    assert posterior.mean.shape == posterior.logvar.shape == latent
    back = jax.jit(codec.decode)(awake(codec), posterior.mode)
    assert back.shape == x.shape and back.dtype == posterior.mean.dtype == jnp.float32
    assert np.std(posterior.mean) > 1e-3 and np.std(back) > 1e-3


@each
def test_normalise_has_an_inverse_and_does_what_the_fields_say(codec):
    z = jax.random.normal(jax.random.key(0), (2, 3, 4, codec.latent_channels))
    normal = codec.normalise(z)
    np.testing.assert_allclose(codec.denormalise(normal), z, atol=1e-5)
    own = codec.codec if isinstance(codec, Tiled) else codec
    zero = own.latents_mean or (own.shift_factor or 0.0,) * own.latent_channels
    one = np.add(zero, own.latents_std or 1.0)
    np.testing.assert_allclose(codec.normalise(jnp.asarray(zero)), 0, atol=1e-6)
    want = np.full(own.latent_channels, own.scaling_factor)
    np.testing.assert_allclose(codec.normalise(jnp.asarray(one)), want, rtol=1e-5)


@each
def test_samples_have_the_posterior_s_moments(codec):
    posterior = jax.jit(codec.encode)(awake(codec), images(codec))
    keys = jax.random.split(jax.random.key(3), 4000)
    samples = jax.jit(jax.vmap(posterior.sample))(keys)
    std = np.exp(posterior.logvar / 2)
    off = np.abs(samples.mean(0) - posterior.mode)
    assert np.all(off <= 6 * std / np.sqrt(len(keys)) + 1e-6)
    np.testing.assert_allclose(samples.std(0), std, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("codec", [KL, TINY], ids=["kl", "tiny"])
def test_images_are_independent(codec):
    weights, x = awake(codec), images(codec)
    run = jax.jit(codec.encode)
    whole = run(weights, x).mean
    np.testing.assert_allclose(run(weights, x[1:]).mean, whole[1:], atol=1e-5)


@plain
def test_gradients_reach_every_parameter(codec):
    x = images(codec)

    @jax.jit
    @jax.grad
    def gradient(weights):
        posterior = codec.encode(weights, x)
        z = posterior.mean
        if isinstance(codec, AutoencoderKL):
            z = posterior.sample(jax.random.key(0))
        return jnp.square(codec.decode(weights, z) - x).mean()

    grads = jax.tree_util.tree_leaves_with_path(gradient(awake(codec)))
    for path, grad in grads:
        assert np.all(np.isfinite(grad)) and np.any(grad), jax.tree_util.keystr(path)


@plain
def test_bfloat16_is_near_and_finite(codec):
    low, x = replace(codec, dtype="bfloat16"), images(codec)
    for size in (1.0, 100.0):
        exact = jax.jit(codec.encode)(awake(codec), size * x).mean
        rough = jax.jit(low.encode)(awake(codec), size * x).mean
        back = jax.jit(low.decode)(awake(codec), rough)
        assert rough.dtype == back.dtype == jnp.float32
        assert np.all(np.isfinite(rough)) and np.all(np.isfinite(back))
        if size == 1:
            np.testing.assert_allclose(rough, exact, atol=0.05 * np.abs(exact).max())


@plain
def test_files_round_trip_bitwise(tmp_path, codec):
    weights = awake(codec)
    save_codec(tmp_path / "vae", codec, weights)
    for folder in (tmp_path, tmp_path / "vae"):  # a pipeline's, and the codec's
        again, read = load_codec(folder)
        assert again == codec
        assert jax.tree.all(jax.tree.map(np.array_equal, read, weights))


@pytest.mark.parametrize("codec", [KL, TINY], ids=["kl", "tiny"])
def test_adapters_and_eight_bits_fit_every_kernel(codec):
    weights, x, key = awake(codec), images(codec), jax.random.key(0)
    run = jax.jit(codec.encode)
    want = run(weights, x).mean
    _, adapted = LoRA(2, targets="kernel$")(codec, weights, key)
    np.testing.assert_allclose(run(adapted, x).mean, want, atol=1e-5)
    _, small = Quantise(targets="kernel$")(codec, weights, key)
    off = np.abs(run(small, x).mean - want).max()
    assert 0 < off < 0.05 * np.abs(want).max()


@each
def test_wrong_shapes_say_so(unchecked, codec):
    weights, n, c = awake(codec), codec.factor, codec.channels
    for shape, words in (
        ((1, n, n, c + 1), rf"images are \(b, h, w, {c}\)"),
        ((n, n, c), rf"images are \(b, h, w, {c}\)"),
        ((1, n, n + 1, c), f"both must be multiples of {n}"),
        ((1, 0, n, c), f"both must be multiples of {n}"),
    ):
        with pytest.raises(ValueError, match=words):
            codec.encode(weights, jnp.zeros(shape))
    for shape in ((1, 2, 2, codec.latent_channels + 1), (2, 2, codec.latent_channels)):
        with pytest.raises(ValueError, match=r"z has shape .* latents are \(b, h, w"):
            codec.decode(weights, jnp.zeros(shape))


@pytest.mark.parametrize(
    "make, words",
    [
        (partial(AutoencoderKL, widths=(8, 12), groups=8), "multiple of groups, 8"),
        (partial(AutoencoderKL, widths=()), r"widths are \(\)"),
        (partial(AutoencoderKL, blocks=0), "blocks is 0"),
        (partial(AutoencoderKL, attention=(4,)), "levels are 0 to 3"),
        (partial(AutoencoderKL, scaling_factor=0.0), "scaling_factor is 0.0"),
        (partial(AutoencoderKL, latents_mean=(0.0,) * 4), "given together"),
        (
            partial(AutoencoderKL, latents_mean=(0.0,), latents_std=(1.0,)),
            "latents_mean has 1 values, but latent_channels is 4",
        ),
        (
            partial(AutoencoderKL, latents_mean=(0.0,) * 4, latents_std=(0.0,) * 4),
            "latents_std has 0.0",
        ),
        (
            partial(
                AutoencoderKL,
                latents_mean=(0.0,) * 4,
                latents_std=(1.0,) * 4,
                shift_factor=1.0,
            ),
            "both shift",
        ),
        (partial(AutoencoderTiny, encoder_blocks=(1,)), "as many levels"),
        (partial(Tiled, TINY, tile=8, overlap=8), "overlap is 8"),
        (partial(Tiled, TINY, overlap=4, margin=3), "half of overlap, 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_fields_say_so(make, words):
    with pytest.raises(ValueError, match=words):
        make()
