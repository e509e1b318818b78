# SPDX-License-Identifier: Apache-2.0
"""HunyuanDiT against diffusers, stage by stage: at most 8.4e-6 apart."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stages import compare

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.embeddings import get_2d_rotary_pos_embed  # noqa: E402
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (  # noqa: E402
    get_resize_crop_region_for_grid,
)

from jdit.conditioning import LinearClock  # noqa: E402
from jdit.interop.hunyuan_dit import (  # noqa: E402
    load_hunyuan_dit,
    save_hunyuan_dit,
)
from jdit.models.hunyuan_dit import hunyuan_dit  # noqa: E402

pytestmark = pytest.mark.parity


def make(sizes, depth=6):
    torch.manual_seed(0)
    net = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=2,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=depth,
        mlp_ratio=4.3637,
        cross_attention_dim=12,
        cross_attention_dim_t5=16,
        pooled_projection_dim=10,
        text_len=5,
        text_len_t5=4,
        use_style_cond_and_image_meta_size=sizes,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net.eval()


def arrays(grid):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    given = dict(text=normal(2, 5, 12), second_text=normal(2, 4, 16))
    given["mask"] = np.arange(5) < np.array([[5], [2]])
    given["second_mask"] = np.arange(4) < np.array([[1], [4]])
    told = np.array([[64, 96, 32, 48, 0, 0], [8, 8, 512, 512, 4, 2]], np.float32)
    return normal(2, *grid, 2), given, {"sizes": told, "style": np.array([0, 0])}


def reference(net, x, index, given, told, grid):
    """What diffusers computes after every block, and at both ends."""
    stages = {}

    def keep(module, name):
        module.register_forward_hook(
            lambda module, inputs, output: stages.__setitem__(name, output.numpy())
        )

    keep(net.time_extra_emb, "conditioning")
    for i, block in enumerate(net.blocks):
        keep(block, f"block {i}")
    tokens = (grid[0] // 2, grid[1] // 2)
    crop = get_resize_crop_region_for_grid(tokens, 32)
    rotary = get_2d_rotary_pos_embed(8, crop, tokens, output_type="pt")
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in (given | told).items()}
    with torch.no_grad():
        output = net(
            torch.from_numpy(x).permute(0, 3, 1, 2),
            torch.from_numpy(index),
            encoder_hidden_states=tensors["text"],
            text_embedding_mask=tensors["mask"],
            encoder_hidden_states_t5=tensors["second_text"],
            text_embedding_mask_t5=tensors["second_mask"],
            image_meta_size=tensors.get("sizes"),
            style=tensors.get("style"),
            image_rotary_emb=rotary,
        ).sample
    return stages | {"output": output.permute(0, 2, 3, 1).numpy()}


@pytest.mark.parametrize(
    "sizes, grid", [(True, (8, 8)), (False, (8, 12))], ids=["told-8-8", "untold-8-12"]
)
def test_every_stage_is_that_of_diffusers(tmp_path, sizes, grid):
    net = make(sizes)
    net.save_pretrained(tmp_path)
    model, params = load_hunyuan_dit(tmp_path)
    model = replace(model, grid=grid, clock=LinearClock(1.0))
    x, given, told = arrays(grid)
    told = told if sizes else {}
    index = np.array([3.0, 700.0], np.float32)
    theirs = reference(net, x, index, given, told, grid)
    conditions = {k: jnp.asarray(v) for k, v in (given | told).items()}

    def ours(x, time):
        _, context = model.embed(params, x, time, conditions)
        out = model.apply(params, x, time, conditions)
        return context.vector, out.taps, out.prediction

    vector, taps, output = jax.jit(ours)(jnp.asarray(x), jnp.asarray(index))
    taps = np.concatenate([taps[stage.name] for stage in model.stages])
    stages = {"conditioning": vector, "output": output}
    stages |= {f"block {i}": tap for i, tap in enumerate(taps)}
    compare(stages, theirs, 2e-5)


def test_diffusers_reads_what_was_saved(tmp_path):
    net = make(True, 4)
    net.save_pretrained(tmp_path / "a")
    model, params = load_hunyuan_dit(tmp_path / "a")
    save_hunyuan_dit(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    want, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"
    )
    version = "_diffusers_version"
    assert written | {version: 0} == want | {version: 0}


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_parameters_are_as_many_as_the_reference_has(version):
    with torch.device("meta"):
        net = diffusers.HunyuanDiT2DModel(
            in_channels=4,
            patch_size=2,
            sample_size=128,
            hidden_size=1408,
            num_layers=40,
            mlp_ratio=4.3637,
            use_style_cond_and_image_meta_size=version == "1.1",
        )
    ours = jax.eval_shape(hunyuan_dit(version).init, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(ours))
    print(count)
    assert count == sum(p.numel() for p in net.parameters())
