# SPDX-License-Identifier: Apache-2.0
"""LTX-Video against diffusers, on shared random weights, block by block."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.ltx_video import load_ltx_video, save_ltx_video  # noqa: E402
from jdit.models.ltx_video import ltx_video_2b, ltx_video_13b  # noqa: E402
from jdit.tokens import Patches  # noqa: E402
from jdit.tokens.fractional import Fractional  # noqa: E402

pytestmark = pytest.mark.parity


def make(heads=2, width=16):
    torch.manual_seed(0)
    net = diffusers.LTXVideoTransformer3DModel(
        in_channels=3,
        out_channels=3,
        num_attention_heads=heads,
        attention_head_dim=width,
        cross_attention_dim=heads * width,
        num_layers=2,
        caption_channels=12,
    )
    for name, parameter in net.named_parameters():
        scale = "norm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(scale), 0.07)
    return net.eval()


def told(positions, grid):
    """How diffusers' two pipelines tell where the latents are."""
    frames, high, wide = positions.pixels
    if not positions.causal:
        scale = frames / positions.frame_rate, high, wide
        return dict(rope_interpolation_scale=scale)
    pipeline = diffusers.LTXConditionPipeline
    ids = pipeline._prepare_video_ids(2, *grid)
    ids = pipeline._scale_video_ids(ids, high, frames).float()
    ids[:, 0] = ids[:, 0] * (1.0 / positions.frame_rate)
    return dict(video_coords=ids)


@pytest.mark.parametrize(
    "net, grid, positions",
    [
        (dict(), (3, 4, 6), Fractional()),
        (dict(heads=3, width=14), (4, 5, 3), Fractional(causal=True)),
        (dict(width=20), (2, 3, 7), Fractional(frame_rate=30.0)),
    ],
    ids=["published", "causal", "30 frames"],
)
def test_every_block(tmp_path, net, grid, positions):
    net = make(**net)
    net.save_pretrained(tmp_path)
    model, params = load_ltx_video(tmp_path, grid=grid, positions=positions)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *grid, 3)).astype(np.float32)
    text = rng.normal(size=(2, 5, 12)).astype(np.float32)
    mask, time = np.arange(5) < np.array([[5], [3]]), np.float32([0.25, 0.875])
    theirs = {}
    for i, block in enumerate(net.transformer_blocks):
        block.register_forward_hook(
            lambda _, inputs, out, name=f"block {i}": theirs.update({name: out.numpy()})
        )
    with torch.no_grad():
        out = net(
            torch.from_numpy(x.reshape(2, -1, 3)),
            torch.from_numpy(text),
            torch.from_numpy(1000 * time),
            torch.from_numpy(mask),
            *grid,
            **told(positions, grid),
        ).sample
    theirs["output"] = out.numpy().reshape(x.shape)
    conditions = dict(text=jnp.asarray(text), mask=jnp.asarray(mask))
    out = jax.jit(model.apply)(params, jnp.asarray(x), jnp.asarray(time), conditions)
    ours = {f"block {i}": tap for i, tap in enumerate(out.taps["blocks"])}
    print(compare(ours | {"output": out.prediction}, theirs))


@pytest.mark.parametrize("causal", [False, True], ids=["0.9", "0.9.5"])
@pytest.mark.parametrize("width", [2048, 4096], ids=str)
def test_positions_of_the_published_widths(width, causal):
    """Rates agree to float32's last digit; the fastest turns 15,708 rad a unit."""
    from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed

    positions, grid = Fractional(causal=causal), (5, 3, 4)
    shown = torch.zeros(2, 1)
    want = LTXVideoRotaryPosEmbed(width)(shown, *grid, **told(positions, grid))
    ours = positions(Patches(grid, 1).coordinates(), width, 32)
    worst = 0.0
    for table, reference in zip(ours, want, strict=True):
        flat = np.moveaxis(np.asarray(table[0]), 0, 1).reshape(len(reference[0]), -1)
        off = np.abs(flat - reference[0, :, ::2].numpy())
        assert np.mean(off) < 1e-4
        worst = max(worst, off.max())
    assert worst < 1e-2
    print(worst)


def test_folders_and_files_return_bitwise(tmp_path):
    """The folder's tensors; the file's, which diffusers converts to the same."""
    from diffusers.loaders.single_file_utils import (
        convert_ltx_transformer_checkpoint_to_diffusers,
    )

    net = make()
    net.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    model, params = load_ltx_video(tmp_path / "a")
    save_ltx_video(tmp_path / "b", model, params)
    again = load_file(tmp_path / "b" / "diffusion_pytorch_model.safetensors")
    assert again.keys() == net.state_dict().keys()
    path = tmp_path / "c.safetensors"
    save_ltx_video(path, model, params)
    state = load_file(path)
    tensors = {key: torch.from_numpy(x) for key, x in state.items()}
    theirs = convert_ltx_transformer_checkpoint_to_diffusers(tensors)
    assert theirs.keys() == net.state_dict().keys()
    for key, value in net.state_dict().items():
        assert torch.equal(value, torch.from_numpy(again[key])), key
        assert torch.equal(value, theirs[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}
    whole = {f"model.diffusion_model.{key}": x for key, x in state.items()}
    whole["vae.decoder.conv_in.conv.bias"] = np.zeros(4, np.float32)
    save_file(whole, path)
    other, loaded = load_ltx_video(path, heads=model.heads)
    assert other == model
    assert jax.tree.all(jax.tree.map(np.array_equal, params, loaded))


@pytest.mark.parametrize(
    "ours, config",
    [
        (ltx_video_2b(), {}),
        (
            ltx_video_13b(),
            dict(attention_head_dim=128, cross_attention_dim=4096, num_layers=48),
        ),
    ],
    ids=["2b", "13b"],
)
def test_published_sizes(ours, config):
    with torch.device("meta"):
        net = diffusers.LTXVideoTransformer3DModel(**config)
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)
