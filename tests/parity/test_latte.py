# SPDX-License-Identifier: Apache-2.0
"""Latte against diffusers (text), and against arrays of the published code (labels).

The published code was Vchitect/Latte b27c24a (models/latte.py), run in float32 on CPU
with random weights and timm's classes written anew: at most 2e-6 apart. diffusers'
module: 2.3e-5, of values up to 6.
"""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare, stored
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.conditioning import LinearClock  # noqa: E402
from jdit.interop.latte import load_latte, save_latte  # noqa: E402
from jdit.models.latte import latte_text  # noqa: E402

pytestmark = pytest.mark.parity

PLAIN = dict(
    activation_fn="gelu-approximate",
    attention_bias=True,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    num_embeds_ada_norm=1000,
)


def make(frames):
    torch.manual_seed(0)
    net = diffusers.LatteTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=6,
        in_channels=2,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=8,
        patch_size=2,
        caption_channels=20,
        video_length=frames,
        **PLAIN,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net.eval()


def reference(net, x, index, text, mask):
    """What diffusers computes after every pair of blocks, and at the end."""
    stages, (b, f) = {}, x.shape[:2]

    def keep(i):
        def hook(module, inputs, output):
            tokens = output.numpy().reshape(b, -1, f, output.shape[-1])
            stages[f"block {i}"] = tokens.swapaxes(1, 2).reshape(b, -1, 24)

        return hook

    for i, block in enumerate(net.temporal_transformer_blocks):
        block.register_forward_hook(keep(i))
    bias = torch.from_numpy(np.where(mask, 0, -10000.0)).float()[:, None]
    with torch.no_grad():
        output = net(
            torch.from_numpy(x).permute(0, 4, 1, 2, 3),
            torch.from_numpy(index),
            torch.from_numpy(text),
            bias.repeat_interleave(f, 0),
        ).sample
    return stages | {"output": output.permute(0, 2, 3, 4, 1).numpy()}


def stages_of(model, params, x, index, conditions):
    model = replace(model, clock=LinearClock(1.0))  # told the index, without rounding
    time = jnp.asarray(index, jnp.float32)
    out = jax.jit(model.apply)(params, jnp.asarray(x), time, conditions)
    ours = {f"block {i}": tap for i, tap in enumerate(out.taps["blocks"])}
    return ours | {"output": out.prediction}


@pytest.mark.parametrize("frames, size", [(3, (8, 12)), (1, (8, 8))], ids=["3", "1"])
def test_every_pair_is_that_of_diffusers(tmp_path, frames, size):
    net = make(frames)
    net.save_pretrained(tmp_path)
    model, params = load_latte(tmp_path)
    model = replace(model, grid=(frames, *size))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, *size, 2)).astype(np.float32)
    text = rng.normal(size=(2, 7, 20)).astype(np.float32)
    mask, index = np.arange(7) < np.array([[7], [4]]), np.array([0, 700])
    theirs = reference(net, x, index, text, mask)
    conditions = dict(text=jnp.asarray(text), mask=jnp.asarray(mask))
    compare(stages_of(model, params, x, index, conditions), theirs, 5e-5)


def test_diffusers_reads_what_was_saved(tmp_path):
    net = make(3)
    net.save_pretrained(tmp_path / "a")
    model, params = load_latte(tmp_path / "a")
    save_latte(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


@pytest.mark.parametrize("name", ["labels", "plain"])
def test_every_pair_is_the_published_one(tmp_path, name):
    case, path = stored("latte")[name], tmp_path / "a.safetensors"
    save_file(case["weights"], path)
    model, params = load_latte(path, heads=2)
    given = case["inputs"]
    label = {"label": jnp.asarray(given["label"], jnp.int32)}
    ours = stages_of(model, params, given["x"], given["index"], label)
    compare(ours, case["outputs"], 1e-5)
    save_latte(tmp_path / "b.safetensors", model, params)
    again = load_file(tmp_path / "b.safetensors")
    assert again.keys() == case["weights"].keys()
    for key, value in case["weights"].items():
        room = 1e-6 if key in ("pos_embed", "temp_embed") else 0  # made anew
        np.testing.assert_allclose(again[key], value, rtol=0, atol=room, err_msg=key)


def test_parameters_are_as_many_as_the_reference_has():
    with torch.device("meta"):
        net = diffusers.LatteTransformer3DModel(
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            cross_attention_dim=1152,
            patch_size=2,
            caption_channels=4096,
            **PLAIN,
        )
    ours = jax.eval_shape(latte_text().init, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(ours))
    print(count)
    assert count == sum(p.numel() for p in net.parameters())
