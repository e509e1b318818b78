# SPDX-License-Identifier: Apache-2.0
"""PixArt against diffusers, and against arrays that the published code computed.

The published code was PixArt-alpha/PixArt-sigma 1ce521a (nets/PixArtMS.py), run in
float32 on CPU with random weights, timm's and xformers' functions written anew: told
sizes ("alpha"), and with compressed keys and values ("sigma"), on 4 x 6 tokens: at most
6e-6 apart. diffusers' module, told the index where ours is told the time: 2e-5.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare, stored
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from dataclasses import replace  # noqa: E402

from jdit.interop.pixart import NULL, load_pixart, null_caption, save_pixart  # noqa: E402
from jdit.models.pixart import pixart_alpha, pixart_sigma  # noqa: E402

pytestmark = pytest.mark.parity


def make(sizes, depth=3, **config):
    torch.manual_seed(0)
    net = diffusers.PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=6,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        cross_attention_dim=24,
        sample_size=8,
        interpolation_scale=2,
        use_additional_conditions=sizes,
        caption_channels=20,
        **config,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net.eval()


def reference(net, x, index, text, mask, told):
    """What diffusers computes after the embedding, every block, and at the end."""
    stages = {}

    def keep(module, name):
        module.register_forward_hook(
            lambda module, inputs, output: stages.__setitem__(name, output.numpy())
        )

    keep(net.pos_embed, "patches")
    keep(net.adaln_single.emb, "conditioning")
    keep(net.caption_projection, "text")
    for i, block in enumerate(net.transformer_blocks):
        keep(block, f"block {i}")
    with torch.no_grad():
        output = net(
            torch.from_numpy(x).permute(0, 3, 1, 2),
            torch.from_numpy(text),
            torch.from_numpy(index),
            added_cond_kwargs={k: torch.from_numpy(v) for k, v in told.items()},
            encoder_attention_mask=torch.from_numpy(mask),
        ).sample
    return stages | {"output": output.permute(0, 2, 3, 1).numpy()}


def stages_of(model, params, x, time, conditions):
    x, time = jnp.asarray(x), jnp.asarray(time, jnp.float32)
    conditions = {k: jnp.asarray(v) for k, v in conditions.items()}
    stream, context = model.embed(params, x, time, conditions)
    out = model.apply(params, x, time, conditions)
    taps = np.concatenate([out.taps[stage.name] for stage in model.stages])
    ours = {"patches": stream, "conditioning": context.vector, "text": context.text}
    ours |= {f"block {i}": tap for i, tap in enumerate(taps)}
    return ours | {"output": out.prediction}


@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (14, 6)], ids=str)
@pytest.mark.parametrize("sizes", [True, False], ids=["told", "untold"])
def test_every_stage_is_that_of_diffusers(tmp_path, sizes, grid):
    net = make(sizes)
    net.save_pretrained(tmp_path)
    model, params = load_pixart(tmp_path)
    model = replace(model, grid=grid)
    rng = np.random.default_rng(0)
    x, text = (
        rng.normal(size=size).astype(np.float32) for size in ((3, *grid, 4), (3, 7, 20))
    )
    mask = np.arange(7) < np.array([[7], [1], [4]])
    index = np.array([0, 500, 999])
    told = {}
    if sizes:
        told["resolution"] = np.array([[64, 96], [512, 768], [8, 8]], np.float32)
        told["aspect_ratio"] = np.array([[0.6], [1.7], [1.0]], np.float32)
    theirs = reference(net, x, index, text, mask.astype(np.float32), told)
    conditions = dict(text=text, mask=mask, **told)
    ours = stages_of(model, params, x, (index + 1) / 1000, conditions)
    compare(ours, theirs, 2e-5)


def test_sizes_that_are_not_told_are_the_grids(tmp_path):
    make(True, 1).save_pretrained(tmp_path)
    model, params = load_pixart(tmp_path)
    model = replace(model, grid=(8, 12))
    x, time = jnp.ones((2, 8, 12, 4)), jnp.array([0.1, 0.9])
    conditions = {"text": jnp.ones((2, 3, 20))}
    told = dict(
        resolution=jnp.array([[64.0, 96.0]] * 2), aspect_ratio=jnp.full(2, 64 / 96)
    )
    one = model.apply(params, x, time, conditions).prediction
    two = model.apply(params, x, time, conditions | told).prediction
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_diffusers_reads_what_was_saved(tmp_path, kind):
    net = make(True).to(getattr(torch, kind))
    net.save_pretrained(tmp_path / "a")
    model, params = load_pixart(tmp_path / "a")
    save_pixart(tmp_path / "b", model, params, dtype=kind)
    again, notes = type(net).from_pretrained(
        tmp_path / "b", torch_dtype=getattr(torch, kind), output_loading_info=True
    )
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


def load(tmp_path, name):
    case, path = stored("pixart")[name], tmp_path / "a.safetensors"
    save_file(case["weights"], path)
    model, params = load_pixart(path, heads=2)
    return case, path, model, params


@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_every_block_is_the_published_one(tmp_path, name):
    case, _, model, params = load(tmp_path, name)
    given = dict(case["inputs"])
    x, index = given.pop("x"), given.pop("index")
    given["mask"] = given["mask"] > 0
    assert (model.base, model.interpolation) == (4, 2.0)
    assert (model.compression is not None) == (name == "sigma")
    model = replace(model, grid=x.shape[1:3])
    ours = stages_of(model, params, x, (index + 1) / 1000, given)
    ours = {stage: ours[stage] for stage in case["outputs"]}
    compare(ours, case["outputs"], 2e-5)


@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_published_files_round_trip_bitwise(tmp_path, name):
    case, path, model, params = load(tmp_path, name)
    null = null_caption(path)
    np.testing.assert_array_equal(null, case["weights"][NULL])
    save_pixart(tmp_path / "b.safetensors", model, params, null=null)
    again = load_file(tmp_path / "b.safetensors")
    assert again.keys() == case["weights"].keys()
    for key, value in case["weights"].items():
        room = 1e-6 if key == "pos_embed" else 0  # made anew
        np.testing.assert_allclose(again[key], value, rtol=0, atol=room, err_msg=key)


def test_a_training_checkpoint_is_read(tmp_path):
    case, _, model, params = load(tmp_path, "sigma")
    state = {key: torch.from_numpy(value) for key, value in case["weights"].items()}
    torch.save(dict(state_dict=state, epoch=3), tmp_path / "a.pth")
    again, same = load_pixart(tmp_path / "a.pth", heads=2)
    assert again == model
    np.testing.assert_array_equal(same["patch"]["kernel"], params["patch"]["kernel"])


def test_parameters_are_as_many_as_the_reference_has():
    for model, sizes in ((pixart_alpha(1024), True), (pixart_sigma(1024), False)):
        with torch.device("meta"):
            net = diffusers.PixArtTransformer2DModel(
                caption_channels=4096, use_additional_conditions=sizes
            )
        import jax

        ours = jax.eval_shape(model.init, jax.random.key(0))
        count = sum(x.size for x in jax.tree.leaves(ours))
        print(count)
        assert count == sum(p.numel() for p in net.parameters())
