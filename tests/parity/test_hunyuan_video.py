# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo against diffusers, on shared random weights, block by block."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from jdit.interop.hunyuan_video import (  # noqa: E402
    load_hunyuan_video,
    save_hunyuan_video,
)
from jdit.models.hunyuan_video import hunyuan_video  # noqa: E402

pytestmark = pytest.mark.parity


def make(guidance=True, **changes):
    torch.manual_seed(0)
    config = dict(
        in_channels=3,
        out_channels=3,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        guidance_embeds=guidance,
        text_embed_dim=12,
        pooled_projection_dim=10,
        rope_axes_dim=(4, 4, 8),
    )
    net = diffusers.HunyuanVideoTransformer3DModel(**config | changes)
    for name, parameter in net.named_parameters():
        scale = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(scale), 0.07)
    return net.eval()


def converted(state, dim):
    """What diffusers makes of an original file; its code knows the width 3072 only."""
    from diffusers.loaders import single_file_utils

    convert = single_file_utils.convert_hunyuan_video_transformer_to_diffusers
    source = inspect.getsource(convert)
    assert source.count("3072") == 1
    names = dict(vars(single_file_utils))
    exec(source.replace("3072", str(dim)), names)
    tensors = {key: torch.from_numpy(x) for key, x in state.items()}
    return names[convert.__name__](tensors)


def reference(net, x, time, text, mask, pooled, guidance):
    """What diffusers computes after each layer, text before image."""
    stages = {}

    def keep(name):
        def hook(_, inputs, out):
            out = out[::-1] if isinstance(out, tuple) else (out,)
            stages[name] = np.concatenate([part.numpy() for part in out], 1)

        return hook

    layers = {
        "refiner_blocks": net.context_embedder.token_refiner.refiner_blocks,
        "double_blocks": net.transformer_blocks,
        "single_blocks": net.single_transformer_blocks,
    }
    for stage, blocks in layers.items():
        for i, block in enumerate(blocks):
            block.register_forward_hook(keep(f"{stage} {i}"))
    given = (x.transpose(0, 4, 1, 2, 3), 1000 * time, text, mask, pooled)
    scale = None if guidance is None else torch.from_numpy(1000 * guidance)
    with torch.no_grad():
        out = net(*map(torch.from_numpy, given), guidance=scale).sample
    return stages | {"output": out.movedim(1, -1).numpy()}


@pytest.mark.parametrize(
    "changes, grid",
    [
        (dict(), (3, 4, 6)),
        (dict(guidance=False, mlp_ratio=3.0, patch_size=1, rope_theta=99.0), (2, 5, 3)),
    ],
    ids=["published", "other"],
)
def test_every_block(tmp_path, changes, grid):
    net = make(**changes)
    net.save_pretrained(tmp_path)
    model, params = load_hunyuan_video(tmp_path, grid=grid)
    rng = np.random.default_rng(0)
    x, text, pooled = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((2, *grid, 3), (2, 5, 12), (2, 10))
    )
    mask, time = np.arange(5) < np.array([[5], [3]]), np.float32([0.25, 0.875])
    guidance = np.float32([6.0, 1.0]) if model.guidance else None
    theirs = reference(net, x, time, text, mask, pooled, guidance)
    conditions = dict(text=text, mask=mask, pooled=pooled)
    if model.guidance:
        conditions["guidance"] = guidance
    conditions = jax.tree.map(jnp.asarray, conditions)
    out = jax.jit(model.apply)(params, jnp.asarray(x), jnp.asarray(time), conditions)
    ours = {}
    for stage, taps in out.taps.items():
        if stage == "double_blocks":
            taps = np.concatenate([taps["text"], taps["image"]], 2)
        ours |= {f"{stage} {i}": np.array(tap) for i, tap in enumerate(taps)}
    for stages in (ours, theirs):  # nobody reads padding
        for name in ours:
            stages[name][:, :5] *= mask[..., None]
    print(compare(ours | {"output": out.prediction}, theirs))


@pytest.mark.parametrize("guidance", [True, False], ids=["distilled", "plain"])
def test_folders_and_files_return_bitwise(tmp_path, guidance):
    """The folder's tensors; the file's, which diffusers converts to the same."""
    net = make(guidance)
    net.save_pretrained(tmp_path / "a", max_shard_size="50KB")
    model, params = load_hunyuan_video(tmp_path / "a")
    save_hunyuan_video(tmp_path / "b", model, params)
    again = load_file(tmp_path / "b" / "diffusion_pytorch_model.safetensors")
    path = tmp_path / "c.safetensors"
    save_hunyuan_video(path, model, params)
    state = load_file(path)
    theirs = converted(state, model.dim)
    assert again.keys() == theirs.keys() == net.state_dict().keys()
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
    tensors = {key: torch.from_numpy(x) for key, x in state.items()}
    torch.save({"module": tensors}, tmp_path / "published.pt")
    config = dict(heads=model.heads, geometry=model.geometry)
    for file in (path, tmp_path / "published.pt"):
        other, loaded = load_hunyuan_video(file, **config)
        assert other == model
        assert jax.tree.all(jax.tree.map(np.array_equal, params, loaded))


def test_published_size():
    with torch.device("meta"):
        net = diffusers.HunyuanVideoTransformer3DModel()
    want = sum(parameter.numel() for parameter in net.parameters())
    shapes = jax.eval_shape(hunyuan_video().init, jax.random.key(0))
    print(want)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == want
