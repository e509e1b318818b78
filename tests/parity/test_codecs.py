# SPDX-License-Identifier: Apache-2.0
"""Codecs against diffusers on shared random weights, stage by stage.

Each stage is compared in the order of computation, so that a failure says where.
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
from jdit.codecs.kl import Decoder, Encoder  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
KL = {
    "sd": dict(widths=(8, 16, 16), latents=4),
    "sdxl": dict(widths=(8, 8), latents=4, scaling_factor=0.13025, in_channels=4),
    "sd3": dict(
        widths=(8, 16, 24),
        latents=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    ),
    "no attention": dict(
        widths=(16, 8), latents=4, mid_block_add_attention=False, use_quant_conv=False
    ),
    "va": dict(
        widths=(8, 16, 16),
        latents=32,
        scaling_factor=1.0,
        latents_mean=list(np.linspace(-1, 1, 32)),
        latents_std=list(np.linspace(0.5, 2, 32)),
        down_block_types=[DOWN, DOWN, f"Attn{DOWN}"],
        up_block_types=[f"Attn{UP}", UP, UP],
    ),
}
kinds = pytest.mark.parametrize("kind", KL)


def perturb(net, size=0.1):
    """Values that are not the initial ones: norms scale and shift, biases are there."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return net.eval()


def kl(widths, latents, **rest):
    torch.manual_seed(0)
    config = dict(
        block_out_channels=widths,
        latent_channels=latents,
        layers_per_block=2,
        norm_num_groups=4,
        down_block_types=[DOWN] * len(widths),
        up_block_types=[UP] * len(widths),
    )
    return perturb(diffusers.AutoencoderKL(**config | rest))


def batch(channels, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, height, width, channels)), jnp.float32)


def theirs(x):
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def channels_last(x):
    return jnp.asarray(x.permute(0, 2, 3, 1).numpy())


def near(ours, want, name, room=TOLERANCE):
    want = channels_last(want)
    off = float(np.abs(ours - want).max())
    print(f"{name}: {off:.2g}")
    assert ours.shape == want.shape and off < room, f"{name} is {off:.2g} off"
    assert np.std(want) > 1e-3, name  # the weights are not trivial


def stages(net, x):
    """What each stage of one side of diffusers' network computes, read by hooks."""
    names = {"conv_in": net.conv_in, "mid": net.mid_block, "norm": net.conv_norm_out}
    for key in ("down_blocks", "up_blocks"):
        blocks = getattr(net, key, ())
        names |= {f"{key}.{i}": block for i, block in enumerate(blocks)}
    seen = {}
    handles = [
        part.register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output)
        )
        for name, part in names.items()
    ]
    with torch.no_grad():
        seen["out"] = net(x)
    for handle in handles:
        handle.remove()
    return seen


def compare(module, params, x, net):
    """One side; diffusers counts an upsampling to the level before it."""
    run = jax.jit(partial(module.apply, capture_intermediates=True))
    _, held = run({"params": params}, x)
    held = {
        name: value["__call__"][0]
        for name, value in held["intermediates"].items()
        if isinstance(value, dict) and "__call__" in value
    } | {"out": held["intermediates"]["__call__"][0]}
    last = len(module.codec.widths) - 1
    for name, want in stages(net, theirs(x)).items():
        i = int(name[-1]) if "blocks" in name else 0
        ours = {"conv_in": "in", "mid": "middle"}.get(name, name)
        if name.startswith("down"):
            ours = f"shrink_{i}" if i < last else f"level_{i}"
        if name.startswith("up"):
            ours = f"grow_{last - i}" if i < last else "level_0"
        near(held[ours], want, name, TOLERANCE * max(1, want.abs().max().item()))


@kinds
def test_autoencoder_kl(tmp_path, kind):
    net = kl(**KL[kind])
    net.save_pretrained(tmp_path)
    codec, params = load_codec(tmp_path)
    for height, width in ((16, 16), (8, 20)):
        x = batch(codec.channels, height, width)
        z = batch(codec.latent_channels, height // 4, width // 4, seed=1)
        with torch.no_grad():
            posterior = net.encode(theirs(x)).latent_dist
            image = net.decode(theirs(z)).sample
            read = net.post_quant_conv(theirs(z)) if codec.post_quant else theirs(z)
        if height == width:  # where a difference first appears
            compare(Encoder(codec), params["encoder"], x, net.encoder)
            compare(Decoder(codec), params["decoder"], channels_last(read), net.decoder)
        ours = jax.jit(codec.encode)(params, x)
        near(ours.mean, posterior.mean, "mean")
        near(ours.logvar, posterior.logvar, "logvar")
        np.testing.assert_allclose(ours.kl(), posterior.kl().numpy(), rtol=1e-5)
        near(jax.jit(codec.decode)(params, z), image, "image")


def tiny(latents=4, encoder=(1, 2, 1), decoder=(2, 1, 1), widths=(8, 16)):
    torch.manual_seed(0)
    config = dict(
        latent_channels=latents,
        num_encoder_blocks=encoder,
        num_decoder_blocks=decoder,
        encoder_block_out_channels=(widths[0],) * len(encoder),
        decoder_block_out_channels=(widths[1],) * len(decoder),
    )
    return perturb(diffusers.AutoencoderTiny(**config), 0.03)


TINY = {"sd": dict(), "sd3": dict(latents=16, encoder=(1, 0), decoder=(2, 1))}


@pytest.mark.parametrize("kind", TINY)
def test_autoencoder_tiny(tmp_path, kind):
    net = tiny(**TINY[kind])
    net.save_pretrained(tmp_path)
    codec, params = load_codec(tmp_path)
    for height, width in ((16, 16), (8, 20)):
        x = batch(3, height, width)
        shape = height // codec.factor, width // codec.factor
        z = 4 * batch(codec.latent_channels, *shape, seed=1)
        with torch.no_grad():
            latents, image = net.encode(theirs(x)).latents, net.decode(theirs(z)).sample
        posterior = jax.jit(codec.encode)(params, x)
        near(posterior.mode, latents, "mean")
        key = jax.random.key(0)
        assert np.array_equal(posterior.sample(key), posterior.mode)
        near(jax.jit(codec.decode)(params, z), image, "image")


NETS = {
    **{kind: partial(kl, **config) for kind, config in KL.items()},
    **{f"tiny {kind}": partial(tiny, **config) for kind, config in TINY.items()},
}


@pytest.mark.parametrize("kind", NETS)
def test_diffusers_reads_what_was_saved(tmp_path, kind):
    net, dtype = NETS[kind](), "bfloat16" if kind == "sdxl" else "float32"
    net = net.to(getattr(torch, dtype))
    shard = "20KB" if kind == "sd3" else "1GB"
    net.save_pretrained(tmp_path / "a", max_shard_size=shard)
    save_codec(tmp_path / "b", *load_codec(tmp_path / "a"), dtype=dtype)
    again, notes = type(net).from_pretrained(
        tmp_path / "b", torch_dtype=net.dtype, output_loading_info=True
    )
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


def test_old_names_of_attention(tmp_path):
    net = kl(**KL["va"])
    net.save_pretrained(tmp_path)
    _, want = load_codec(tmp_path)
    state = net.state_dict()
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        state = {key.replace(f".{new}.", f".{old}."): x for key, x in state.items()}
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    _, params = load_codec(tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, want))


FULL = {
    "sd": (codecs.sd_vae(), 83_653_863),
    "sdxl": (codecs.sdxl_vae(), None),
    "sd3": (codecs.sd3_vae(), None),
    "flux": (codecs.flux_vae(), None),
    "va": (codecs.va_vae(), None),
    "taesd": (codecs.taesd(), None),
    "taesd3": (codecs.taesd(16), None),
}


@pytest.mark.parametrize("kind", FULL)
def test_published_sizes_have_as_many_parameters(tmp_path, kind):
    codec, published = FULL[kind]
    shapes = jax.eval_shape(codec.init, jax.random.key(0))
    ours = sum(x.size for x in jax.tree.leaves(shapes))
    cls = getattr(diffusers, type(codec).__name__)
    with torch.device("meta"):
        net = cls.from_config(codecs.diffusers.config_of(codec))
    theirs = sum(x.numel() for x in net.parameters())
    assert ours == theirs and published in (None, ours)
