# SPDX-License-Identifier: Apache-2.0
"""Representation autoencoders: what latents are, where patches land, files, errors."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count
from safetensors.numpy import load_file, save_file
from tiny_dit import awake

from jdit.codecs import (
    AutoencoderRAE,
    AutoencoderTiny,
    PatchDecoder,
    load_codec,
    load_rae,
    rae,
    save_codec,
    save_rae,
)
from jdit.codecs.rae_layouts import encoder_of
from jdit.encoders import VisionTransformer

ENCODER = VisionTransformer(9, 3, dim=8, depth=1, heads=2, hidden=8, registers=2)
CODEC = AutoencoderRAE(ENCODER, PatchDecoder(8, (2, 3), 2, 3, 8, 2, 2, 8))


def images(codec, seed=2):
    size = [side * codec.factor for side in codec.decoder.grid]
    shape = (2, *size, codec.channels)
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1)


@pytest.fixture(scope="module")
def weights():
    return awake(CODEC)


@pytest.fixture(scope="module")
def bare(weights):
    """Latents without statistics."""
    plain = replace(CODEC, normalised=False)
    run = jax.jit(lambda p, x: plain.encode(p, x).mean)
    return np.asarray(run(weights, images(CODEC)))


def test_latents_are_normed_tokens_of_patches_alone(bare):
    assert bare.shape == (2, 2, 3, 8)
    np.testing.assert_allclose(bare.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(bare.var(-1), 1, atol=1e-3)


def test_statistics_centre_and_scale_each_place(weights, bare):
    rng = np.random.default_rng(0)
    own = {
        "mean": jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32),
        "std": jnp.asarray(rng.uniform(0.5, 2, (2, 3, 8)), jnp.float32),
    }
    told = {**weights, "statistics": own}
    found = jax.jit(lambda p, x: CODEC.encode(p, x).mean)(told, images(CODEC))
    want = (bare - own["mean"]) / (own["std"] + 1e-5)
    np.testing.assert_allclose(found, want, atol=1e-5)
    decode = jax.jit(CODEC.decode)
    plain = replace(CODEC, normalised=False)
    np.testing.assert_allclose(
        decode(told, found), jax.jit(plain.decode)(weights, bare), atol=1e-4
    )
    twice = replace(CODEC, scaling_factor=2.0)
    np.testing.assert_allclose(twice.normalise(found), 2 * found)


def test_without_its_branches_a_token_becomes_its_own_patch(weights):
    """Row by row, and nothing else changes."""
    zero = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if path[-2].key == "out" else x,
        weights["decoder"]["layers"],
    )
    still = {**weights, "decoder": {**weights["decoder"], "layers": zero}}
    z = jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    other = z.at[0, 1, 2].add(1.0)
    decode = jax.jit(CODEC.decode)
    moved = np.abs(decode(still, other) - decode(still, z)).max(-1)[0] > 1e-6
    want = np.zeros((4, 6), bool)
    want[2:4, 4:6] = True
    assert np.array_equal(moved, want)


def test_gradients_reach_every_parameter_and_bfloat16_is_near(weights):
    x = images(CODEC)

    def error(params, codec):
        z = codec.encode(params, x).mean
        return jnp.square(codec.decode(params, z) - x).mean()

    exact, grads = jax.jit(jax.value_and_grad(partial(error, codec=CODEC)))(weights)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.all(np.isfinite(grad)) and np.any(grad), jax.tree_util.keystr(path)
    low = replace(CODEC, dtype="bfloat16")
    assert jax.eval_shape(low.decode, weights, jnp.zeros((1, 2, 3, 8))).dtype == "f4"
    np.testing.assert_allclose(jax.jit(partial(error, codec=low))(weights), exact, 0.05)


@pytest.mark.parametrize("kind", ["dinov2", "siglip2", "mae"])
def test_folders_round_trip_bitwise(tmp_path, kind):
    patch = 14 if kind == "dinov2" else 16
    encoder = encoder_of(
        kind, dim=64, depth=1, heads=1, patch=patch, mean=(0.5,) * 3, std=(0.3,) * 3
    )
    decoder = PatchDecoder(64, (2, 2), 4, 3, 8, 2, 2, 8)
    codec = AutoencoderRAE(encoder, decoder, kind != "mae", scaling_factor=0.5)
    params = awake(codec)
    save_codec(tmp_path, codec, params)
    again, same = load_codec(tmp_path)
    assert again == codec
    assert jax.tree.all(jax.tree.map(np.array_equal, same, params))


@pytest.fixture(scope="module")
def published(tmp_path_factory, weights):
    """The authors' two files of a square codec, and what they hold."""
    folder = tmp_path_factory.mktemp("rae")
    codec = replace(CODEC, decoder=replace(CODEC.decoder, grid=(2, 2)))
    params = {k: weights[k] for k in ("encoder", "decoder")}
    save_rae(folder / "model.safetensors", codec, params)
    rng = np.random.default_rng(0)
    stats = {"mean": rng.normal(size=(8, 2, 2)), "var": rng.uniform(1, 2, (8, 2, 2))}
    stats = {k: x.astype(np.float32) for k, x in stats.items()}
    save_file(stats, folder / "stat.safetensors")
    return folder, codec, params, stats


def test_the_authors_files_make_the_codec(published):
    folder, codec, params, stats = published
    given = (ENCODER, {**params["encoder"], "norm": {"scale": jnp.zeros(8)}})
    files = (folder / "model.safetensors", given, folder / "stat.safetensors")
    again, read = load_rae(*files, heads=2)
    assert again == codec
    own = read.pop("statistics")
    assert jax.tree.all(jax.tree.map(np.array_equal, read, params))
    std = np.sqrt(stats["var"] + 1e-5).transpose(1, 2, 0)
    np.testing.assert_allclose(own["std"] + 1e-5, std, rtol=1e-6)
    assert np.array_equal(own["mean"], stats["mean"].transpose(1, 2, 0))
    with pytest.raises(ValueError, match="heads is None, but .* is 8 wide"):
        load_rae(*files)


def test_files_that_do_not_fit_say_so(published, tmp_path):
    folder, codec, params, stats = published
    tensors = load_file(folder / "model.safetensors")
    lacking, moved = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({k: v for k, v in tensors.items() if "cls" not in k}, lacking)
    zero = load_rae(lacking, (ENCODER, params["encoder"]), heads=2)[1]
    assert not np.any(zero["decoder"]["class"])  # as the authors' loader leaves it
    save_file(tensors | {"decoder_pos_embed": tensors["decoder_pos_embed"] + 1}, moved)
    with pytest.raises(ValueError, match="'decoder_pos_embed' of .* differs by 1"):
        load_rae(moved, (ENCODER, params["encoder"]), heads=2)
    save_file({k: x[:4] for k, x in stats.items()}, lacking)
    with pytest.raises(ValueError, match=r"shape \(4, 2, 2\), but it must be \(8, 2"):
        files = (folder / "model.safetensors", (ENCODER, params["encoder"]), lacking)
        load_rae(*files, heads=2)
    with pytest.raises(ValueError, match="codec is a AutoencoderTiny"):
        save_rae(tmp_path / "c.safetensors", AutoencoderTiny(), {})
    with pytest.raises(ValueError, match="codec.encoder is none that diffusers"):
        save_codec(tmp_path, codec, params)
    with pytest.raises(ValueError, match=r"decoder has grid \(2, 3\)"):
        save_rae(tmp_path / "c.safetensors", CODEC, params)


def test_what_does_not_fit_is_one_sentence(weights):
    with pytest.raises(ValueError, match="x is 6 by 6 pixels, but this codec's grid"):
        CODEC.encode(weights, jnp.zeros((1, 6, 6, 3)))
    with pytest.raises(ValueError, match=r"z is \(3, 3\), but this codec's grid is"):
        CODEC.decode(weights, jnp.zeros((1, 3, 3, 8)))
    with pytest.raises(ValueError, match="decoder has 9 features and 3 channels"):
        replace(CODEC, decoder=replace(CODEC.decoder, features=9))
    with pytest.raises(ValueError, match="dim is 6, but it must be a multiple of 4"):
        replace(CODEC.decoder, dim=6)
    with pytest.raises(ValueError, match=r"grid is \(2,\), but it must be rows"):
        replace(CODEC.decoder, grid=(2,))


def test_the_published_codec_has_the_published_parameters():
    codec = rae()
    assert count(codec.decoder) == 415_056_640 and codec.factor == 16
    assert codec.latent_channels == 768 and codec.decoder.grid == (16, 16)
