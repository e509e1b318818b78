# SPDX-License-Identifier: Apache-2.0
"""Codecs of videos against diffusers on shared random weights, whole and in stages.

Clips of several lengths are compared with diffusers' default way to encode and decode
them, which streams over chunks of frames.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit import codecs  # noqa: E402
from jdit.codecs import load_codec, save_codec  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 3e-5  # of values up to 7


def perturbed(net, size=0.1):
    """Values that are not the initial ones: norms scale and shift, biases are there."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return net.eval()


def wan(cls="AutoencoderKLWan", **config):
    torch.manual_seed(0)
    config = dict(base_dim=4, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1) | config
    config |= dict(temperal_downsample=[True, True])
    config |= dict(latents_mean=[0.1, -1, 0, 2], latents_std=[1, 2, 0.5, 3])
    if cls == "AutoencoderKLWan":
        config |= dict(scale_factor_spatial=4 * (config.get("patch_size") or 1))
    return perturbed(getattr(diffusers, cls)(**config))


def cogvideox():
    torch.manual_seed(0)
    config = dict(
        down_block_types=["CogVideoXDownBlock3D"] * 3,
        up_block_types=["CogVideoXUpBlock3D"] * 3,
        block_out_channels=[4, 8, 8],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=32,
        sample_width=48,
        scaling_factor=0.7,
    )
    return perturbed(diffusers.AutoencoderKLCogVideoX(**config))


def ltx():
    torch.manual_seed(0)
    levels = dict(
        block_out_channels=(8, 16, 16),
        spatio_temporal_scaling=(True, True, False),
        layers_per_block=(1, 1, 1, 2),
    )
    config = dict(latent_channels=4, patch_size=2, scaling_factor=0.5)
    config |= levels | {f"decoder_{key}": value for key, value in levels.items()}
    config |= dict(
        down_block_types=("LTXVideoDownBlock3D",) * 3,
        downsample_type=("conv",) * 3,
        upsample_residual=(False,) * 3,
        upsample_factor=(1,) * 3,
        decoder_inject_noise=(False,) * 4,
        decoder_block_out_channels=(16, 8, 16),
    )
    net = perturbed(diffusers.AutoencoderKLLTXVideo(**config))
    net.latents_mean.copy_(torch.tensor([0.1, -1, 0, 2]))
    net.latents_std.copy_(torch.tensor([1, 2, 0.5, 3]))
    return net


def hunyuan_video():
    torch.manual_seed(0)
    config = dict(
        latent_channels=4,
        down_block_types=["HunyuanVideoDownBlock3D"] * 3,
        up_block_types=["HunyuanVideoUpBlock3D"] * 3,
        block_out_channels=[4, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        spatial_compression_ratio=4,
    )
    return perturbed(diffusers.AutoencoderKLHunyuanVideo(**config))


NETS = {
    "wan": wan,
    "wan 2.2": partial(
        wan, decoder_base_dim=8, is_residual=True, patch_size=2, in_channels=12,
        out_channels=12, dim_mult=[1, 2, 2],
    ),
    "qwen image": partial(wan, "AutoencoderKLQwenImage"),
    "cogvideox": cogvideox,
    "ltx": ltx,
    "hunyuan video": hunyuan_video,
}  # fmt: skip


def batch(seed, *shape):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def theirs(x):
    return torch.from_numpy(np.array(x)).permute(0, 4, 1, 2, 3)


def near(ours, want, name, room=TOLERANCE):
    want = want.permute(0, 2, 3, 4, 1).numpy()
    off = float(np.abs(ours - want).max())
    print(f"{name}: {off:.2g} of {np.abs(want).max():.2g}")
    assert ours.shape == want.shape and off < room, f"{name} is {off:.2g} off"
    assert np.std(want) > 1e-3, name  # the weights are not trivial
    assert np.mean(np.abs(want) == 1) < 0.5, name  # nor is most of it clipped


CLIPS = {
    "wan": ((1, 2, 3), (5, 3, 2), (9, 1, 2), (17, 2, 1)),
    "wan 2.2": ((1, 2, 3), (9, 3, 1)),
    "qwen image": ((1, 2, 3),),
    "cogvideox": ((1, 2, 3), (5, 3, 2), (9, 3, 2), (16, 1, 2), (25, 2, 1)),
    "ltx": ((1, 2, 3), (5, 3, 2), (9, 1, 2)),
    "hunyuan video": ((1, 2, 3), (9, 3, 2), (17, 1, 2), (29, 2, 1)),
}


@pytest.mark.parametrize("kind", NETS)
def test_clips_are_coded_alike(tmp_path, kind):
    """Clips: frames of pixels, height and width of latents."""
    net = NETS[kind]()
    net.save_pretrained(tmp_path)
    codec, params = load_codec(tmp_path)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    for frames, height, width in CLIPS[kind]:
        _, p, q = codec.factor
        x = batch(frames, 2, frames, height * p, width * q, codec.channels)
        with torch.no_grad():
            want = net.encode(theirs(x)).latent_dist
        ours = encode(params, x)
        assert ours.mean.shape[1:4] == codec.latent_grid(x.shape[1:4])
        near(ours.mean, want.mean, f"{kind} {frames} mean")
        near(ours.logvar, want.logvar, f"{kind} {frames} logvar")
        z = batch(frames + 1, *ours.mean.shape)
        with torch.no_grad():
            want = net.decode(theirs(z)).sample
        ours = decode(params, z)
        assert ours.shape[1:4] == codec.data_grid(z.shape[1:4])
        near(ours, want, f"{kind} {frames} video")


@pytest.mark.parametrize("kind", NETS)
def test_diffusers_reads_what_was_saved(tmp_path, kind):
    net = NETS[kind]()
    net.save_pretrained(tmp_path / "a")
    save_codec(tmp_path / "b", *load_codec(tmp_path / "a"))
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


FULL = {
    "wan": codecs.wan_vae(),
    "wan 2.2": codecs.wan_2_2_vae((0.0,) * 48, (1.0,) * 48),
    "qwen image": codecs.qwen_image_vae(),
    "cogvideox": codecs.cogvideox_vae(),
    "ltx": codecs.ltx_vae(),
    "hunyuan video": codecs.hunyuan_video_vae(),
}


@pytest.mark.parametrize("kind", FULL)
def test_published_sizes_have_as_many_parameters(kind):
    codec = FULL[kind]
    shapes = jax.eval_shape(codec.init, jax.random.key(0))
    ours = sum(x.size for x in jax.tree.leaves(shapes))
    cls = getattr(diffusers, type(codec).__name__)
    with torch.device("meta"):
        net = cls.from_config(codecs.diffusers.config_of(codec))
    theirs = sum(x.numel() for x in net.parameters())
    print(kind, ours)
    assert ours == theirs
