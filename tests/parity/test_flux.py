# SPDX-License-Identifier: Apache-2.0
"""Flux against diffusers, on shared random weights, block by block."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.flux import load_flux, save_flux  # noqa: E402
from jdit.models.flux import flux_dev, flux_schnell  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


def make(guidance, seed=0, **changes):
    torch.manual_seed(seed)
    config = dict(
        in_channels=12,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    net = diffusers.FluxTransformer2DModel(**config | changes)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.07)
    return net.eval()


def converted(state, dim):
    """What diffusers makes of an original file; its code knows the width 3072 only."""
    from diffusers.loaders import single_file_utils

    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    source = inspect.getsource(convert)
    assert source.count("3072") == 1
    names = dict(vars(single_file_utils))
    exec(source.replace("3072", str(dim)), names)
    tensors = {key: torch.from_numpy(x) for key, x in state.items()}
    return names[convert.__name__](tensors)


def ids(grid):
    rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
    return np.stack([0 * rows, rows, columns], -1).reshape(-1, 3)


def reference(net, x, time, text, pooled, guidance):
    """What diffusers computes after each block, read by hooks."""
    stages, handles = [], []
    for block in [*net.transformer_blocks, *net.single_transformer_blocks]:
        handles.append(
            block.register_forward_hook(lambda _, inputs, out: stages.append(out))
        )
    height, width = x.shape[2] // 2, x.shape[3] // 2
    tokens = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    with torch.no_grad():
        out = net(
            tokens,
            text,
            pooled,
            time,
            img_ids=torch.from_numpy(ids((height, width))),
            txt_ids=torch.zeros(text.shape[1], 3),
            guidance=guidance,
        ).sample
    for handle in handles:
        handle.remove()
    sizes = dict(h=height, p=2, q=2)
    return stages, rearrange(out, "b (h w) (c p q) -> b (h p) (w q) c", **sizes)


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
@pytest.mark.parametrize("grid", [(8, 8), (4, 14)], ids=str)
def test_every_block(tmp_path, guidance, grid):
    net = make(guidance)
    net.save_pretrained(tmp_path)
    model, params = load_flux(tmp_path, grid=grid)
    x, text, pooled = (
        torch.randn(2, 3, *grid),
        torch.randn(2, 5, 12),
        torch.randn(2, 10),
    )
    time, scale = torch.tensor([0.25, 0.875]), torch.tensor([3.5, 1.0])
    stages, want = reference(net, x, time, text, pooled, scale if guidance else None)
    conditions = {"text": jnp.asarray(text), "pooled": jnp.asarray(pooled)}
    if guidance:
        conditions["guidance"] = jnp.asarray(scale)
    out = jax.jit(model.apply)(
        params, jnp.asarray(x.permute(0, 2, 3, 1)), jnp.asarray(time), conditions
    )
    double, single = out.taps["double_blocks"], out.taps["single_blocks"]
    ours = [
        np.concatenate([double["text"][i], double["image"][i]], 1) for i in range(2)
    ]
    ours = {f"block {i}": x for i, x in enumerate([*ours, *single])}
    theirs = {f"block {i}": np.concatenate(x, 1) for i, x in enumerate(stages)}
    ours["output"], theirs["output"] = out.prediction, want
    assert ours.keys() == theirs.keys() and np.abs(want).max() > 0.1
    errors = {}
    for name, value in theirs.items():
        errors[name] = np.abs(np.asarray(ours[name]) - np.asarray(value)).max()
        assert errors[name] < TOLERANCE, f"{name} is {errors[name]:.2g} away"
    print(f"{grid}: {max(errors.values()):.2g}")


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_folders_and_files_return_bitwise(tmp_path, guidance):
    """The folder's tensors; the single file's, which diffusers converts to the same."""
    net = make(guidance)
    net.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    model, params = load_flux(tmp_path / "a")
    save_flux(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    save_flux(tmp_path / "c.safetensors", model, params)
    state = load_file(tmp_path / "c.safetensors")
    theirs = converted(state, model.dim)
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
        assert torch.equal(value, theirs[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}
    whole = {f"model.diffusion_model.{key}": x for key, x in state.items()}
    whole["first_stage_model.decoder.conv_in.bias"] = np.zeros(4, np.float32)
    save_file(whole, tmp_path / "whole.safetensors")
    config = dict(heads=model.heads, geometry=model.geometry)
    other, loaded = load_flux(tmp_path / "whole.safetensors", **config)
    assert other == model
    assert jax.tree.all(jax.tree.map(np.array_equal, params, loaded))


@pytest.mark.parametrize(
    "ours, guidance", [(flux_dev(), True), (flux_schnell(), False)], ids=["dev", "s"]
)
def test_published_sizes(ours, guidance):
    with torch.device("meta"):
        net = diffusers.FluxTransformer2DModel(guidance_embeds=guidance)
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)
