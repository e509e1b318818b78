# SPDX-License-Identifier: Apache-2.0
"""SD3 and SD3.5 against diffusers, on shared random weights, block by block."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.mmdit import load_mmdit, save_mmdit  # noqa: E402
from jdit.models import sd3, sd35_large, sd35_medium  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
KINDS = {
    "sd3": dict(num_layers=2),
    "sd35-medium": dict(num_layers=3, qk_norm="rms_norm", dual_attention_layers=(0,)),
    "sd35-all-dual": dict(
        num_layers=3, qk_norm="rms_norm", dual_attention_layers=(0, 1)
    ),
    "sd35-large": dict(num_layers=2, qk_norm="rms_norm"),
}


def make(seed=0, **changes):
    torch.manual_seed(seed)
    config = dict(
        sample_size=8,
        patch_size=2,
        in_channels=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=32,
        pooled_projection_dim=10,
        out_channels=3,
        pos_embed_max_size=7,
    )
    net = diffusers.SD3Transformer2DModel(**config | changes)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def reference(net, x, time, text, pooled):
    """What diffusers computes after each block, read by hooks."""
    stages, handles = {}, []
    for i, block in enumerate(net.transformer_blocks):

        def hook(module, inputs, output, i=i):
            stages[i] = output

        handles.append(block.register_forward_hook(hook))
    with torch.no_grad():
        out = net(x, text, pooled, time * 1000).sample
    for handle in handles:
        handle.remove()
    return stages, out.permute(0, 2, 3, 1).numpy()


def close(name, ours, theirs):
    off = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    assert off < TOLERANCE, f"{name} is {off:.2g} from the reference's"
    return off


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(8, 8), (4, 14)], ids=str)
def test_every_block(tmp_path, kind, grid):
    net = make(**KINDS[kind])
    net.save_pretrained(tmp_path)
    model, params = load_mmdit(tmp_path)
    assert (model.spacing, model.offset) == (7 / 4, 0.0)
    model = replace(model, grid=grid)
    x, text, pooled = (
        torch.randn(2, 3, *grid),
        torch.randn(2, 5, 12),
        torch.randn(2, 10),
    )
    time = torch.tensor([0.25, 0.875])
    stages, want = reference(net, x, time, text, pooled)
    conditions = {"text": jnp.asarray(text), "pooled": jnp.asarray(pooled)}
    out = jax.jit(model.apply)(
        params, jnp.asarray(x.permute(0, 2, 3, 1)), jnp.asarray(time), conditions
    )
    layer, worst = 0, 0.0
    for stage in model.stages:
        for i in range(stage.depth):
            tap = jax.tree.map(lambda x, i=i: x[i], out.taps[stage.name])
            text_there, image_there = stages[layer]
            if stage.name == "last_blocks":
                tap = {"image": tap}
            else:
                worst = max(worst, close(f"text {layer}", tap["text"], text_there))
            worst = max(worst, close(f"image {layer}", tap["image"], image_there))
            layer += 1
    worst = max(worst, close("output", out.prediction, want))
    assert layer == len(stages) and np.abs(want).max() > 0.1
    print(f"{kind} {grid}: {worst:.2g}")


@pytest.mark.parametrize("kind", ["sd3", "sd35-medium"])
def test_folders_return_bitwise(tmp_path, kind):
    net = make(**KINDS[kind])
    net.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    model, params = load_mmdit(tmp_path / "a")
    save_mmdit(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


@pytest.mark.parametrize("kind", ["sd3", "sd35-medium"])
def test_the_original_layout_is_what_diffusers_converts(tmp_path, kind):
    """Our single file, with the prefix and neighbours of a published one."""
    from diffusers.loaders import single_file_utils

    net = make(**KINDS[kind])
    net.save_pretrained(tmp_path)
    model, params = load_mmdit(tmp_path)
    save_mmdit(tmp_path / "a.safetensors", model, params)
    state = load_file(tmp_path / "a.safetensors")
    convert = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers
    theirs = convert({key: torch.from_numpy(x) for key, x in state.items()})
    for key, value in net.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    whole = {f"model.diffusion_model.{key}": x for key, x in state.items()}
    whole["first_stage_model.decoder.conv_in.bias"] = np.zeros(4, np.float32)
    save_file(whole, tmp_path / "whole.safetensors")
    config = dict(grid=model.grid, heads=model.heads)
    again, loaded = load_mmdit(tmp_path / "whole.safetensors", **config)
    assert again == model
    assert jax.tree.all(jax.tree.map(np.array_equal, params, loaded))


@pytest.mark.parametrize(
    "ours, config",
    [
        (sd3(), dict(num_layers=24, num_attention_heads=24, pos_embed_max_size=192)),
        (
            sd35_medium(),
            dict(
                num_layers=24,
                num_attention_heads=24,
                pos_embed_max_size=384,
                qk_norm="rms_norm",
                dual_attention_layers=tuple(range(13)),
            ),
        ),
        (
            sd35_large(),
            dict(
                num_layers=38,
                num_attention_heads=38,
                pos_embed_max_size=192,
                qk_norm="rms_norm",
            ),
        ),
    ],
    ids=["sd3-medium", "sd35-medium", "sd35-large"],
)
def test_published_sizes(ours, config):
    wide = dict(caption_projection_dim=64 * config["num_attention_heads"])
    with torch.device("meta"):
        net = diffusers.SD3Transformer2DModel(**config | wide)
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)
