# SPDX-License-Identifier: Apache-2.0
"""Wan against diffusers, on shared random weights, block by block."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare
from safetensors.numpy import load_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.wan import load_wan, save_wan  # noqa: E402
from jdit.models.wan import wan_1b, wan_14b  # noqa: E402

pytestmark = pytest.mark.parity


def make(patch=(1, 2, 2), heads=2, width=16):
    torch.manual_seed(0)
    net = diffusers.WanTransformer3DModel(
        patch_size=patch,
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=3,
        out_channels=3,
        text_dim=12,
        freq_dim=20,
        ffn_dim=40,
        num_layers=2,
    )
    for name, parameter in net.named_parameters():
        scale = "norm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(scale), 0.15)
    return net.eval()


@pytest.mark.parametrize(
    "net, grid",
    [(dict(), (3, 4, 6)), (dict(patch=(2, 1, 2), heads=3, width=14), (2, 3, 4))],
    ids=["published", "other"],
)
def test_every_block(tmp_path, net, grid):
    net = make(**net)
    net.save_pretrained(tmp_path)
    model, params = load_wan(tmp_path, grid=grid, text_tokens=7)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *grid, 3)).astype(np.float32)
    text = rng.normal(size=(2, 5, 12)).astype(np.float32)
    mask, time = np.arange(5) < np.array([[5], [3]]), np.float32([0.25, 0.875])
    theirs = {}
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(
            lambda _, inputs, out, name=f"block {i}": theirs.update({name: out.numpy()})
        )
    shown = np.pad(text * mask[..., None], ((0, 0), (0, 2), (0, 0)))
    with torch.no_grad():
        out = net(
            torch.from_numpy(x).movedim(-1, 1),
            torch.from_numpy(1000 * time),
            torch.from_numpy(shown),
        ).sample
    theirs["output"] = out.movedim(1, -1).numpy()
    conditions = dict(text=jnp.asarray(text), mask=jnp.asarray(mask))
    out = jax.jit(model.apply)(params, jnp.asarray(x), jnp.asarray(time), conditions)
    ours = {f"block {i}": tap for i, tap in enumerate(out.taps["blocks"])}
    print(compare(ours | {"output": out.prediction}, theirs, 2e-5))


def test_folders_and_files_return_bitwise(tmp_path):
    """The folder's tensors; the file's, which diffusers converts to the same."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    net = make()
    net.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    model, params = load_wan(tmp_path / "a")
    save_wan(tmp_path / "b", model, params)
    again = load_file(tmp_path / "b" / "diffusion_pytorch_model.safetensors")
    assert again.keys() == net.state_dict().keys()
    path = tmp_path / "c.safetensors"
    save_wan(path, model, params)
    tensors = {key: torch.from_numpy(x) for key, x in load_file(path).items()}
    theirs = convert_wan_transformer_to_diffusers(tensors)
    assert theirs.keys() == net.state_dict().keys()
    for key, value in net.state_dict().items():
        assert torch.equal(value, torch.from_numpy(again[key])), key
        assert torch.equal(value, theirs[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}
    other, loaded = load_wan(path, heads=model.heads)
    assert other == model
    assert jax.tree.all(jax.tree.map(np.array_equal, params, loaded))


@pytest.mark.parametrize(
    "ours, config",
    [
        (
            wan_1b(),
            dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
        ),
        (wan_14b(), {}),
    ],
    ids=["1b", "14b"],
)
def test_published_sizes(ours, config):
    with torch.device("meta"):
        net = diffusers.WanTransformer3DModel(**config)
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
    print(want)
