# SPDX-License-Identifier: Apache-2.0
"""Codecs of videos: grids, causality, pieces, folders, errors."""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jdit.codecs import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLSTVAE,
    AutoencoderKLWan,
    Frames,
    Stills,
    cogvideox_vae,
    hunyuan_video_vae,
    lavin_vae,
    load_codec,
    load_lavin_vae,
    ltx_vae,
    qwen_image_vae,
    save_codec,
    save_lavin_vae,
    wan_2_2_vae,
    wan_vae,
)
from jdit.codecs.hunyuan_video import overlapped

SMALL = dict(
    latent_channels=2,
    width=4,
    multipliers=(1, 2, 2),
    blocks=1,
    halves_time=(True, True),
    latents_mean=(1.0, -1.0),
    latents_std=(0.5, 3.0),
)
LEVELLED = dict(latent_channels=2, widths=(4, 4, 8), blocks=1, groups=2)
LEVELS = dict(widths=(4, 8), halves=(True, True), blocks=(1, 1, 1))
CODECS = {
    "wan": AutoencoderKLWan(**SMALL),
    "wan 2.2": AutoencoderKLWan(**SMALL, decoder_width=8, shortcuts=True, patch=2),
    "qwen image": AutoencoderKLQwenImage(**SMALL),
    "cogvideox": AutoencoderKLCogVideoX(**LEVELLED),
    "st-vae": AutoencoderKLSTVAE(**LEVELLED),
    "ltx": AutoencoderKLLTXVideo(
        latent_channels=2,
        **LEVELS,
        **{f"decoder_{name}": value for name, value in LEVELS.items()},
        patch=1,
        scaling_factor=2.0,
        latents_mean=(1.0, -1.0),
        latents_std=(0.5, 3.0),
    ),
    "hunyuan video": AutoencoderKLHunyuanVideo(**LEVELLED),
}
each = pytest.mark.parametrize("name", CODECS)


@cache
def params(name):
    """Every parameter is random, scales about one."""
    shapes = jax.eval_shape(CODECS[name].init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        values = rng.normal(size=leaf.shape) / np.sqrt(fan)
        return jnp.asarray(values + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def noise(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def clip(name, frames, height=1, width=2):
    """Noise of so many frames, and of so many latents in height and width."""
    _, p, q = CODECS[name].factor
    return noise(1, frames, height * p, width * q, 3)


@each
def test_grids_are_those_of_the_arrays(name):
    for frames, dtype in ((1, "float32"), (9, "bfloat16")):
        codec = replace(CODECS[name], dtype=dtype)
        x = jax.eval_shape(partial(clip, name, frames, 2, 3))
        grid = codec.latent_grid(x.shape[1:4])
        assert grid == (1 + frames // 4, 2, 3) and codec.data_grid(grid) == x.shape[1:4]
        posterior = jax.eval_shape(codec.encode, params(name), x)
        assert posterior.mean.shape == posterior.logvar.shape == (1, *grid, 2)
        back = jax.eval_shape(codec.decode, params(name), posterior.mean)
        assert back.shape == x.shape
        assert back.dtype == posterior.mean.dtype == jnp.float32


@each
def test_normalise_has_an_inverse_and_does_what_the_fields_say(name):
    codec, z = CODECS[name], noise(1, 2, 1, 3, 2)
    np.testing.assert_allclose(codec.denormalise(codec.normalise(z)), z, atol=1e-6)
    if codec.latents_mean:
        at = np.add(codec.latents_mean, codec.latents_std)
        want = [codec.scaling_factor] * 2
        np.testing.assert_allclose(codec.normalise(jnp.asarray(at)), want, rtol=1e-6)


def same_frames(before, after):
    """For each frame, whether it is the same."""
    return list(np.abs(before - after).max((0, 2, 3, 4)) < 1e-5)


@pytest.mark.parametrize("name", ["wan", "wan 2.2"])
def test_no_frame_reads_a_later_one(name):
    codec, weights = CODECS[name], params(name)
    x, z = clip(name, 9), noise(1, 3, 1, 2, 2)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    mean, moved = (encode(weights, y).mean for y in (x, x.at[:, 5:].add(1.0)))
    assert same_frames(mean, moved) == [True, True, False]
    video, moved = (decode(weights, y) for y in (z, z.at[:, 2].add(1.0)))
    assert same_frames(video, moved) == [True] * 5 + [False] * 4


def test_cogvideox_is_causal_between_chunks_and_not_within():
    codec, weights = CODECS["cogvideox"], params("cogvideox")
    x, encode = clip("cogvideox", 17), jax.jit(codec.encode)
    mean = encode(weights, x).mean
    moved = encode(weights, x.at[:, 9:].add(noise(3))).mean
    assert same_frames(mean, moved) == [True] * 3 + [False] * 2
    moved = encode(weights, x.at[:, 8].multiply(3.0)).mean
    assert not any(same_frames(mean, moved))


def test_ltx_has_a_causal_encoder_and_a_decoder_that_is_not():
    codec, weights = CODECS["ltx"], params("ltx")
    x, z = clip("ltx", 9), noise(1, 3, 1, 2, 2)
    mean, moved = (
        jax.jit(codec.encode)(weights, y).mean for y in (x, x.at[:, 5:].add(noise(3)))
    )
    assert same_frames(mean, moved) == [True, True, False]
    video, moved = (
        jax.jit(codec.decode)(weights, y) for y in (z, z.at[:, 2].add(noise(2)))
    )
    assert not any(same_frames(video, moved))


@pytest.mark.parametrize("frames", [17, 25, 53])
def test_pieces_of_what_is_not_changed_are_the_whole(frames):
    x = noise(2, frames, 1, 2, 3)
    run = partial(overlapped, lambda x: x[:, ::4])
    np.testing.assert_allclose(run(x, 17, 12), x[:, ::4], atol=1e-6)

    def slow(z):
        return jnp.concatenate([z[:, :1], jnp.repeat(z[:, 1:], 4, 1)], 1)

    z = x[:, ::4]
    np.testing.assert_allclose(overlapped(slow, z, 5, 3), slow(z), atol=1e-6)


def test_pieces_are_blended_linearly():
    z = jnp.arange(8.0).reshape(1, 8, 1, 1, 1)  # pieces start at 0, 3 and 6

    def start(z):
        return jnp.broadcast_to(z[:, :1], (1, 4 * z.shape[1] - 3, 1, 1, 1))

    want = [0] * 13 + [0, 0.75, 1.5, 2.25] + [3] * 8 + [3, 3.75, 4.5, 5.25]
    np.testing.assert_allclose(overlapped(start, z, 5, 3).ravel(), want, atol=1e-6)


def test_an_image_is_a_video_of_one_frame():
    codec, weights = CODECS["qwen image"], params("qwen image")
    stills, x = Stills(codec), clip("qwen image", 1)
    assert (stills.factor, stills.channels, stills.latent_channels) == (4, 3, 2)

    @jax.jit
    def through(weights):
        z = stills.encode(weights, x[:, 0])
        image = stills.decode(weights, stills.denormalise(stills.normalise(z.mode)))
        return z, image, codec.encode(weights, x)

    z, image, want = through(weights)
    np.testing.assert_allclose(z.mean[:, None], want.mean, atol=1e-6)
    np.testing.assert_allclose(z.logvar[:, None], want.logvar, atol=1e-6)
    assert image.shape == x[:, 0].shape and jnp.abs(image).max() <= 1
    with pytest.raises(ValueError, match="both must be multiples of 4"):
        stills.encode(weights, jnp.zeros((1, 4, 5, 3)))


@pytest.mark.parametrize("name", ["wan", "hunyuan video"])
def test_gradients_reach_every_parameter(name):
    codec, x = CODECS[name], clip(name, 5)

    @jax.jit
    @jax.grad
    def gradient(weights):
        z = codec.encode(weights, x).sample(jax.random.key(0))
        return jnp.square(codec.decode(weights, z)[:, :5] - x).mean()

    grads = jax.tree_util.tree_leaves_with_path(gradient(params(name)))
    for path, grad in grads:
        assert np.all(np.isfinite(grad)) and np.any(grad), jax.tree_util.keystr(path)


@each
def test_files_round_trip_bitwise(tmp_path, name):
    codec, weights = CODECS[name], params(name)
    if name == "st-vae":  # diffusers has no folder of it
        save_lavin_vae(tmp_path / "a.safetensors", codec, weights)
        again, read = load_lavin_vae(tmp_path / "a.safetensors", codec)
        assert jax.tree.all(jax.tree.map(np.array_equal, read, weights))
        return
    save_codec(tmp_path / "vae", codec, weights)
    for folder in (tmp_path, tmp_path / "vae"):  # a pipeline's, and the codec's
        again, read = load_codec(folder)
        assert again == codec
        assert jax.tree.all(jax.tree.map(np.array_equal, read, weights))


PUBLISHED = {
    "wan": (wan_vae, 126_892_531),
    "wan 2.2": (wan_2_2_vae, 704_688_668),
    "qwen image": (qwen_image_vae, 126_892_531),
    "cogvideox": (cogvideox_vae, 215_583_907),
    "st-vae": (lavin_vae, 215_583_907),
    "ltx": (ltx_vae, 419_193_649),
    "hunyuan video": (hunyuan_video_vae, 246_478_803),
}
FACTORS = {
    "wan 2.2": (4, 16, 16),
    "ltx": (8, 32, 32),
}


@each
def test_published_sizes(name):
    make, count = PUBLISHED[name]
    shapes = jax.eval_shape(make().init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    assert make().factor == FACTORS.get(name, (4, 8, 8))


def test_other_lengths_of_cogvideox_decode_to_others():
    codec = cogvideox_vae()
    assert [codec.latent_grid((t, 8, 8))[0] for t in (1, 5, 8, 9, 49)] == [
        1, 2, 2, 3, 13,
    ]  # fmt: skip
    assert [codec.data_grid((t, 1, 1))[0] for t in (1, 2, 3, 13)] == [1, 8, 9, 49]


def test_st_vae_decodes_the_first_latent_to_one_frame():
    codec = lavin_vae()
    assert [codec.latent_grid((t, 8, 8))[0] for t in (1, 4, 5, 6, 9)] == [1, 1, 2, 2, 3]
    assert [codec.data_grid((t, 1, 1))[0] for t in (1, 2, 3, 13)] == [1, 5, 9, 49]


def test_st_vae_is_cogvideox_s_first_chunk():
    """Of which all norms are told at once, to the last frame."""
    weights, codec = params("st-vae"), CODECS["st-vae"]
    x, z = clip("st-vae", 9), noise(1, 3, 1, 2, 2)

    @partial(jax.jit, static_argnums=0)
    def run(codec, x, z):
        return codec.encode(weights, x).mean, codec.decode(weights, z)

    found, want = run(codec, x, z), run(CODECS["cogvideox"], x, z)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, want, strict=True))
    moved = run(codec, x.at[:, -1].multiply(3.0), z.at[:, -1].multiply(3.0))
    for before, after in zip(found, moved, strict=True):
        assert not any(same_frames(before, after))


def test_lavin_dit_s_images_are_frames_by_themselves():
    codec, weights = CODECS["st-vae"], params("st-vae")
    single, x = Frames(Stills(codec)), clip("st-vae", 2)
    z = jax.jit(single.encode)(weights, x).mean
    want = jax.jit(codec.encode)(weights, x[:, 1:]).mean
    np.testing.assert_allclose(z[:, 1:], want, atol=1e-5)
    back = jax.eval_shape(single.decode, weights, single.normalise(z))
    assert back.shape == x.shape and single.factor == (1, 4, 4)
    raw = single.denormalise(jnp.zeros(2))  # as the published sampler does
    np.testing.assert_allclose(raw, 0.032470703125, rtol=1e-6)


def test_torch_files_of_lavin_dit_are_nested_as_published(tmp_path):
    torch = pytest.importorskip("torch")
    codec, weights = CODECS["st-vae"], params("st-vae")
    save_lavin_vae(tmp_path / "stvae.pt", codec, weights)
    assert [*torch.load(tmp_path / "stvae.pt")] == ["state_dict"]
    _, read = load_lavin_vae(tmp_path / "stvae.pt", codec)
    assert jax.tree.all(jax.tree.map(np.array_equal, read, weights))


def test_other_files_and_codecs_are_refused(tmp_path):
    codec = CODECS["st-vae"]
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="holds an AutoencoderKLSTVAE"):
        save_lavin_vae(path, CODECS["cogvideox"], {})
    with pytest.raises(ValueError, match="AutoencoderKLSTVAE"):
        save_codec(tmp_path, codec, params("st-vae"))
    save_lavin_vae(path, codec, params("st-vae"))
    with pytest.raises(ValueError, match="lacks 'encoder.down_blocks.0.resnets.1"):
        load_lavin_vae(path)
    save_file(load_file(path) | {"loss.scale": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match="'loss.scale', which is no part of LaVin"):
        load_lavin_vae(path, codec)


@each
def test_wrong_shapes_say_so(unchecked, name):
    codec, weights = CODECS[name], params(name)
    _, p, q = codec.factor
    for shape, words in (
        ((1, 1, p, q, 4), r"videos are \(b, t, h, w, 3\)"),
        ((1, p, q, 3), r"videos are \(b, t, h, w, 3\)"),
        ((1, 1, p, q + 1, 3), rf"they must be multiples of {p} and {q}"),
        ((1, 0, p, q, 3), "the video has 0 frames"),
    ):
        with pytest.raises(ValueError, match=words):
            codec.encode(weights, jnp.zeros(shape))
    for shape in ((1, 1, 1, 1, 3), (1, 1, 1, 2), (1, 0, 1, 1, 2)):
        with pytest.raises(ValueError, match=r"z has shape .* latents are \(b, t, h"):
            codec.decode(weights, jnp.zeros(shape))
    if name not in ("cogvideox", "st-vae"):
        with pytest.raises(ValueError, match="1 more than a multiple of 4"):
            codec.latent_grid((4, p, q))


@pytest.mark.parametrize(
    "make, words",
    [
        (partial(AutoencoderKLWan, halves_time=(True,)), "halves_time is"),
        (partial(AutoencoderKLWan, blocks=0), "blocks is 0"),
        (
            partial(AutoencoderKLWan, multipliers=(1, 2, 4, 5), shortcuts=True),
            "with shortcuts",
        ),
        (partial(AutoencoderKLWan, latents_std=(1.0,)), "latents_std has 1 values"),
        (partial(AutoencoderKLQwenImage, patch=2), "those of Wan 2.1"),
        (partial(AutoencoderKLCogVideoX, groups=48), "multiple of groups, 48"),
        (partial(AutoencoderKLCogVideoX, blocks=0), "blocks is 0"),
        (partial(AutoencoderKLCogVideoX, time_factor=3), "time_factor is 3"),
        (partial(AutoencoderKLCogVideoX, scaling_factor=0.0), "scaling_factor is 0"),
        (partial(AutoencoderKLSTVAE, groups=48), "multiple of groups, 48"),
        (partial(AutoencoderKLLTXVideo, blocks=(1, 1)), "4, 4 and 2 values"),
        (partial(AutoencoderKLLTXVideo, halves=(True,) * 4), "decoder_halves is"),
        (partial(AutoencoderKLHunyuanVideo, widths=(32, 32)), "at least 3 multiples"),
        (partial(AutoencoderKLHunyuanVideo, blocks=0), "blocks is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_fields_say_so(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    for name in ("wan", "cogvideox", "ltx", "hunyuan video"):
        save_codec(folder / name, CODECS[name], params(name))
    return folder


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("wan", {"flavour": 1}, "unknown field 'flavour'"),
        ("wan", {"attn_scales": [1.0]}, r"attn_scales \[1.0\], but only \[\] is"),
        ("wan", {"scale_factor_spatial": 8}, "scale_factor_spatial 8, but a codec"),
        ("wan", {"out_channels": 4}, "in_channels 3 and out_channels 4, but they"),
        ("wan", {"temperal_downsample": [1, 0]}, "must be a list of true or false"),
        ("wan", {"is_residual": True}, "lacks 'encoder.down_blocks.0.resnets.0.norm1"),
        ("cogvideox", {"use_quant_conv": True}, "only False is supported"),
        ("cogvideox", {"up_block_types": ["Up"] * 3}, "'CogVideoXUpBlock3D', 3 times"),
        ("cogvideox", {"temporal_compression_ratio": 3}, "but it must be 1, 2, 4 or 8"),
        ("cogvideox", {"out_channels": 4}, "out_channels 4, but it must be in_chann"),
        ("ltx", {"timestep_conditioning": True}, "only False is supported"),
        ("ltx", {"downsample_type": ["spatial"]}, "as in LTX-Video 0.9.0"),
        ("ltx", {"spatial_compression_ratio": 32}, "spatial_compression_ratio 32, but"),
        ("hunyuan video", {"spatial_compression_ratio": 8}, "with 3 levels only 4 is"),
        ("hunyuan video", {"temporal_compression_ratio": 8}, "only 4 is supported"),
        ("hunyuan video", {"down_block_types": ["Down"]}, "VideoDownBlock3D', 3 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_named(saved, tmp_path, name, change, words):
    config = json.loads((saved / name / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).symlink_to(saved / name / weights)
    with pytest.raises(ValueError, match=words):
        load_codec(tmp_path)
