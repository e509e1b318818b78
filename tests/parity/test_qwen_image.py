# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image against diffusers, on shared random weights, block by block."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.qwen_image import load_qwen_image, save_qwen_image  # noqa: E402
from jdit.models.qwen_image import qwen_image  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


def make(seed=0):
    torch.manual_seed(seed)
    net = diffusers.QwenImageTransformer2DModel(
        in_channels=12,
        out_channels=3,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 4, 8),
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def reference(net, x, time, text, mask):
    """What diffusers computes after each block, read by hooks."""
    stages, handles = [], []
    for block in net.transformer_blocks:
        handles.append(
            block.register_forward_hook(lambda _, inputs, out: stages.append(out))
        )
    height, width = x.shape[2] // 2, x.shape[3] // 2
    tokens = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    shapes = [[(1, height, width)]] * len(x)
    with torch.no_grad():
        out = net(tokens, text, mask, time, img_shapes=shapes).sample
    for handle in handles:
        handle.remove()
    sizes = dict(h=height, p=2, q=2)
    return stages, rearrange(out, "b (h w) (c p q) -> b (h p) (w q) c", **sizes)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("grid", [(8, 8), (6, 14)], ids=str)
def test_every_block(tmp_path, masked, grid):
    net = make()
    net.save_pretrained(tmp_path)
    model, params = load_qwen_image(tmp_path, grid=grid)
    x, text = torch.randn(2, 3, *grid), torch.randn(2, 5, 12)
    time = torch.tensor([0.25, 0.875])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool() if masked else None
    stages, want = reference(net, x, time, text, mask)
    conditions = {"text": jnp.asarray(text)}
    if masked:
        conditions["mask"] = jnp.asarray(mask)
    out = jax.jit(model.apply)(
        params, jnp.asarray(x.permute(0, 2, 3, 1)), jnp.asarray(time), conditions
    )
    errors = {}
    for i, (text_there, image_there) in enumerate(stages):
        tap = jax.tree.map(lambda x, i=i: x[i], out.taps["joint_blocks"])
        for name, value in (("text", text_there), ("image", image_there)):
            errors[f"{name} {i}"] = np.abs(tap[name] - value.numpy()).max()
    errors["output"] = np.abs(np.asarray(out.prediction) - want.numpy()).max()
    assert np.abs(want).max() > 0.1
    for name, error in errors.items():
        assert error < TOLERANCE, f"{name} is {error:.2g} away"
    print(f"{grid}: {max(errors.values()):.2g}")


def test_folders_return_bitwise(tmp_path):
    net = make()
    net.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    model, params = load_qwen_image(tmp_path / "a")
    save_qwen_image(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


def test_published_size():
    with torch.device("meta"):
        net = diffusers.QwenImageTransformer2DModel()
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(qwen_image().init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)
