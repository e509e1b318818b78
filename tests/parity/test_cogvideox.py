# SPDX-License-Identifier: Apache-2.0
"""CogVideoX against diffusers, on shared random weights, block by block."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare
from safetensors.numpy import load_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.cogvideox import load_cogvideox, save_cogvideox  # noqa: E402
from jdit.models.cogvideox import cogvideox_2b, cogvideox_5b  # noqa: E402

pytestmark = pytest.mark.parity


def make(rotary):
    torch.manual_seed(0)
    net = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=3,
        out_channels=3,
        time_embed_dim=20,
        text_embed_dim=12,
        num_layers=2,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=5,
        temporal_interpolation_scale=1.5,
        use_rotary_positional_embeddings=rotary,
    )
    for name, parameter in net.named_parameters():
        scale = "norm" in name and "linear" not in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(scale), 0.15)
    return net.eval()


def table(grid):
    """The rotary table as the published pipeline makes it."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import (
        get_resize_crop_region_for_grid,
    )

    size = grid[1] // 2, grid[2] // 2
    crop = get_resize_crop_region_for_grid(size, 6, 4)
    return get_3d_rotary_pos_embed(16, crop, size, grid[0])


@pytest.mark.parametrize(
    "rotary, grid",
    [(False, (3, 8, 12)), (True, (2, 10, 6)), (True, (3, 6, 14))],
    ids=["sincos", "tall", "wide"],
)
def test_every_block(tmp_path, rotary, grid):
    net = make(rotary)
    net.save_pretrained(tmp_path)
    model, params = load_cogvideox(tmp_path)
    model = replace(model, grid=grid)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *grid, 3)).astype(np.float32)
    text = rng.normal(size=(2, 5, 12)).astype(np.float32)
    index, theirs = np.array([0, 701]), {}

    def keep(name):
        def hook(module, inputs, out):
            theirs[name] = np.concatenate([out[1].numpy(), out[0].numpy()], 1)

        return hook

    for i, block in enumerate(net.transformer_blocks):
        block.register_forward_hook(keep(f"block {i}"))
    with torch.no_grad():
        out = net(
            torch.from_numpy(x).movedim(-1, 2),
            torch.from_numpy(text),
            torch.from_numpy(index),
            image_rotary_emb=table(grid) if rotary else None,
        ).sample
    theirs["output"] = out.movedim(2, -1).numpy()
    time = jnp.asarray((index + 1) / 1000, jnp.float32)
    conditions = {"text": jnp.asarray(text)}
    model = replace(model, clock=lambda time: jnp.asarray(index, jnp.float32))
    out = jax.jit(model.apply)(params, jnp.asarray(x), time, conditions)
    taps = out.taps["blocks"]
    both = np.concatenate([taps["text"], taps["image"]], 2)
    ours = {f"block {i}": tap for i, tap in enumerate(both)}
    print(compare(ours | {"output": out.prediction}, theirs, 2e-5))


@pytest.mark.parametrize("rotary", [False, True], ids=["sincos", "rotary"])
def test_folders_return_bitwise(tmp_path, rotary):
    net = make(rotary)
    net.save_pretrained(tmp_path / "a", max_shard_size="40KB")
    model, params = load_cogvideox(tmp_path / "a")
    save_cogvideox(tmp_path / "b", model, params)
    again = load_file(tmp_path / "b" / "diffusion_pytorch_model.safetensors")
    assert again.keys() == net.state_dict().keys()
    for key, value in net.state_dict().items():
        assert torch.equal(value, torch.from_numpy(again[key])), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    told = dict(_diffusers_version=0, max_text_seq_length=0)
    assert written | told == want | told


@pytest.mark.parametrize(
    "ours, config",
    [
        (cogvideox_2b(), {}),
        (
            cogvideox_5b(),
            dict(
                num_attention_heads=48,
                num_layers=42,
                use_rotary_positional_embeddings=True,
            ),
        ),
    ],
    ids=["2b", "5b"],
)
def test_published_sizes(ours, config):
    with torch.device("meta"):
        net = diffusers.CogVideoXTransformer3DModel(
            **dict(use_rotary_positional_embeddings=True) | config
        )
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)


@pytest.mark.parametrize("shift", [3.0, 1.0], ids=["2b", "5b"])
def test_the_chain_is_the_scheduler_s(shift):
    """Where diffusers' last level is 0, ours is 1e-8."""
    from jdit.processes import ZeroTerminal

    scheduler = diffusers.CogVideoXDDIMScheduler(
        rescale_betas_zero_snr=True, snr_shift_scale=shift
    )
    time = jnp.arange(1, 1001) / 1000
    ours = np.square(np.asarray(ZeroTerminal(shift=shift)(time).alpha))
    np.testing.assert_allclose(ours, scheduler.alphas_cumprod.numpy(), atol=1e-5)
