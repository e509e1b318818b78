# SPDX-License-Identifier: Apache-2.0
"""DiT and SiT against the reference libraries on shared random weights.

Each check goes stage by stage (patches, conditioning, every block, read-out), so that
a difference is reported where it first appears.

The published code itself is no dependency. It was run beside these models on
2026-11-21, with timm's three classes written anew: facebookresearch/DiT ed81ce2
(models.py), willisma/SiT 947f95b (models.py, transport/path.py); depths 1, 2, 3 and 12,
patches 2, 4 and 8, grids 8, 16 and 32, with and without learned variance, outputs up to
1.8: at most 8.4e-7 absolute apart, float32, CPU; saved files equal, bitwise. SiT's
`x_t` and the negative of its velocity equal ours within 4e-6 on its three paths.
"""

import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest
from interop.foreign_states import published

torch = pytest.importorskip("torch")
F = pytest.importorskip("torch.nn.functional")

from jdit.interop import (  # noqa: E402
    from_diffusers,
    load_dit,
    load_sit,
    save_dit,
    save_sit,
    to_diffusers,
)

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


def forward(state, x, value, label, heads):
    """DiT's equations in torch, over a published state dict: every stage by name."""
    w = {key: torch.from_numpy(x) for key, x in state.items()}

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    patch = w["x_embedder.proj.weight"].shape[-1]
    dim = w["x_embedder.proj.weight"].shape[0]
    stages = {}

    x = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], patch)
    side = x.shape[-1]
    x = stages["patches"] = x.flatten(2).mT + w["pos_embed"]
    rate = torch.exp(-np.log(10000.0) * torch.arange(128) / 128)
    angle = value[:, None].float() * rate
    basis = torch.cat([angle.cos(), angle.sin()], -1)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", basis)))
    vector = time + w["y_embedder.embedding_table.weight"][label]
    stages["conditioning"] = vector
    for i in range(sum(key.endswith("attn.qkv.bias") for key in w)):
        block = f"blocks.{i}"
        six = linear(f"{block}.adaLN_modulation.1", F.silu(vector))[:, None].chunk(
            6, -1
        )
        h = norm(x) * (1 + six[1]) + six[0]
        qkv = linear(f"{block}.attn.qkv", h).unflatten(-1, (3, heads, dim // heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + six[2] * linear(f"{block}.attn.proj", h)
        h = norm(x) * (1 + six[4]) + six[3]
        h = F.gelu(linear(f"{block}.mlp.fc1", h), approximate="tanh")
        x = x + six[5] * linear(f"{block}.mlp.fc2", h)
        stages[f"block {i}"] = x
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(vector)).chunk(2, -1)
    x = norm(x) * (1 + scale[:, None]) + shift[:, None]
    x = linear("final_layer.linear", x)
    x = x.unflatten(-1, (patch, patch, -1)).unflatten(1, (side, side))
    stages["output"] = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # b h w c
    return {name: stage.numpy() for name, stage in stages.items()}


def compare(model, params, x, time, label, stages):
    """Every stage of ours against the reference's, in the order of computation."""
    x, conditions = jnp.asarray(x), {"label": jnp.asarray(label)}
    time = jnp.asarray(time, jnp.float32)
    stream, context = model.embed(params, x, time, conditions)
    out = model.apply(params, x, time, conditions)
    ours = {"patches": stream, "conditioning": context.vector}
    ours |= {f"block {i}": tap for i, tap in enumerate(out.taps["blocks"])}
    ours["output"] = out.prediction
    assert ours.keys() == stages.keys()
    for name, want in stages.items():
        off = np.abs(np.asarray(ours[name]) - want).max()
        assert off < TOLERANCE, f"{name} is {off:.2g} from the reference's"
    assert np.abs(stages["output"]).max() > 0.1  # the weights are not trivial


def write(path, state):
    torch.save({key: torch.from_numpy(x) for key, x in state.items()}, path)


SIZES = pytest.mark.parametrize(
    "size",
    [
        dict(depth=1, patch=2, side=4),
        dict(depth=3, patch=4, side=4, out=4),
        dict(depth=2, patch=8, side=3, channels=3, out=6),
        dict(depth=4, patch=2, side=7),
    ],
    ids=lambda size: "-".join(map(str, size.values())),
)


def latents(size):
    side = size["patch"] * size["side"]
    shape = (4, size.get("channels", 4), side, side)
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float()


@SIZES
def test_published_dit(tmp_path, size):
    state, x = published(**size), latents(size)
    write(tmp_path / "dit.pt", state)
    model, params = load_dit(tmp_path / "dit.pt", heads=4)
    index, label = np.array([0, 1, 500, 999]), np.array([0, 3, 9, 10])  # 10 is null
    stages = forward(state, x, torch.from_numpy(index), torch.from_numpy(label), 4)
    compare(
        model, params, x.permute(0, 2, 3, 1).numpy(), (index + 1) / 1000, label, stages
    )


@SIZES
def test_published_sit(tmp_path, size):
    state, x = published(**size), latents(size)
    write(tmp_path / "sit.pt", state)
    model, params = load_sit(tmp_path / "sit.pt", heads=4)
    their_time = np.array([0.0, 0.125, 0.7, 1.0], np.float32)  # 1 is data
    label = np.array([0, 3, 9, 10])
    value = torch.from_numpy(their_time)
    stages = forward(state, x, value, torch.from_numpy(label), 4)
    velocity = -stages["output"][
        ..., : model.channels
    ]  # d / d time, and ours runs back
    rest = stages["output"][..., model.channels :]
    stages["output"] = np.concatenate([velocity, rest], -1)
    compare(model, params, x.permute(0, 2, 3, 1).numpy(), 1 - their_time, label, stages)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("load, save", [(load_dit, save_dit), (load_sit, save_sit)])
def test_torch_files_round_trip_bitwise(tmp_path, load, save, kind):
    state = {k: torch.from_numpy(x) for k, x in published().items()}
    state = {key: x.to(getattr(torch, kind)) for key, x in state.items()}
    torch.save(state, tmp_path / "a.pt")
    model, params = load(tmp_path / "a.pt", heads=4)
    save(tmp_path / "b.pt", model, params, dtype=kind)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert again.keys() == state.keys()
    for key, x in state.items():
        assert x.dtype == again[key].dtype and torch.equal(x, again[key]), key


def test_training_checkpoints_give_their_ema(tmp_path):
    ema, model = (
        {k: torch.from_numpy(x) for k, x in published(seed=seed).items()}
        for seed in (0, 1)
    )
    arguments = argparse.Namespace(model="DiT-XL/2")
    whole = dict(model=model, ema=ema, opt={"state": {}}, args=arguments)
    torch.save(whole, tmp_path / "a.pt")
    torch.save(dict(model=model, args=arguments), tmp_path / "b.pt")
    for file, state in (("a.pt", ema), ("b.pt", model)):
        _, params = load_dit(tmp_path / file, heads=4)
        table = state["y_embedder.embedding_table.weight"]
        assert np.array_equal(params["label"]["table"], table)


def test_torch_files_that_are_not_weights(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="a.pt is not a torch file of plain tensors"):
        load_dit(tmp_path / "a.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "b.pt")  # code, not tensors
    with pytest.raises(ValueError, match="b.pt is not a torch file of plain tensors"):
        load_dit(tmp_path / "b.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt holds a list, not a state dict"):
        load_dit(tmp_path / "c.pt")
    torch.save({"opt": {}, "step": 3}, tmp_path / "d.pt")
    with pytest.raises(ValueError, match="'opt' of .*d.pt is a dict, not a tensor"):
        load_dit(tmp_path / "d.pt")


def make_diffusers(depth, patch, side, channels=4, out=8, seed=0):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=channels,
        out_channels=None if out == channels else out,
        num_layers=depth,
        sample_size=patch * side,
        patch_size=patch,
        num_embeds_ada_norm=10,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first = net.transformer_blocks[0].norm1.emb.state_dict()
    for block in net.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return net.eval()


def diffusers_stages(net, x, index, label):
    """What diffusers computes at each stage, read by hooks."""
    stages, handles = {}, []

    def keep(module, name):
        def hook(module, inputs, output):
            stages[name] = output.numpy()

        handles.append(module.register_forward_hook(hook))

    keep(net.pos_embed, "patches")
    keep(net.transformer_blocks[0].norm1.emb, "conditioning")
    for i, block in enumerate(net.transformer_blocks):
        keep(block, f"block {i}")
    with torch.no_grad():
        output = net(x, torch.from_numpy(index), torch.from_numpy(label)).sample
    for handle in handles:
        handle.remove()
    return stages | {"output": output.permute(0, 2, 3, 1).numpy()}


@SIZES
def test_diffusers_dit(tmp_path, size):
    net, x = make_diffusers(**size), latents(size)
    net.save_pretrained(tmp_path)
    model, params = from_diffusers(tmp_path)
    index, label = np.array([0, 1, 500, 999]), np.array([0, 3, 9, 10])
    stages = diffusers_stages(net, x, index, label)
    compare(
        model, params, x.permute(0, 2, 3, 1).numpy(), (index + 1) / 1000, label, stages
    )


@pytest.mark.parametrize("shard", ["20KB", "1GB"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_diffusers_reads_what_was_saved(tmp_path, kind, shard):
    net = make_diffusers(depth=2, patch=2, side=4).to(getattr(torch, kind))
    net.save_pretrained(tmp_path / "a", max_shard_size=shard)
    model, params = from_diffusers(tmp_path / "a")
    to_diffusers(tmp_path / "b", model, params, dtype=kind)
    dtype = getattr(torch, kind)
    again, notes = type(net).from_pretrained(
        tmp_path / "b", torch_dtype=dtype, output_loading_info=True
    )
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}
