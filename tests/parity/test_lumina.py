# SPDX-License-Identifier: Apache-2.0
"""Flag-DiT and Next-DiT against their official modules and diffusers'.

The arrays were stored on 2026-11-21 from Alpha-VLLM/Lumina-T2X 1c60696
(lumina_t2i/models/model.py and lumina_next_t2i/models/model.py) with fairscale's layers
as plain ones: a grid that is not square, text masks, QK-norm; Flag-DiT with stretched
rotary positions and proportional attention; Next-DiT with grouped queries, and on both
sides of its watershed. Those of the class-conditional models are of
Flag-DiT-ImageNet/models/model.py and Next-DiT-ImageNet/models/models.py of the same
revision.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import bits, cases, last, near, write
from safetensors.numpy import load_file

from jdit.interop.lumina import (
    load_lumina,
    next_dit_from_diffusers,
    next_dit_to_diffusers,
    save_lumina,
)
from jdit.interop.models import load_model, save_model
from jdit.models.lumina_labels import FlagDiTLabels, NextDiTLabels
from jdit.tokens.stretched import Scaled, Watershed

pytestmark = pytest.mark.parity

CASES = cases("lumina")
CASES["next-late"]["weights"] = CASES["next-early"]["weights"]
LABELLED = cases("lumina_labels")
CHANGES = {
    "flag": dict(stretch=Scaled(1.5, 2.0), base_tokens=8),
    "next": {},
    "next-early": dict(stretch=Watershed(2.0, 0.3), base_tokens=5),
    "next-late": dict(stretch=Watershed(2.0, 0.3), base_tokens=5),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_every_block_and_the_velocity(tmp_path, name):
    case = CASES[name]
    model, params = load_lumina(write(tmp_path, case), heads=2, grid=(4, 6))
    model = replace(model, **CHANGES[name])
    conditions = {
        "text": jnp.asarray(case["text"]),
        "mask": jnp.asarray(case["mask"].astype(bool)),
    }
    x, time = jnp.asarray(last(case["x"])), 1 - jnp.asarray(case["time"])
    out = model.apply(params, x, time, conditions)
    for i, tap in enumerate(out.taps["blocks"]):
        near(f"block {i}", tap, case[f"block {i}"])
    near("output", -out.prediction[..., : model.channels], last(case["output"]))
    assert np.abs(case["output"]).max() > 0.2  # the weights are not trivial


@pytest.mark.parametrize("name", ["flag", "next"])
def test_the_file_round_trips_bitwise(tmp_path, name):
    model, params = load_lumina(write(tmp_path, CASES[name]), heads=2, grid=(4, 6))
    save_lumina(tmp_path / "b.safetensors", model, params)
    again, state = load_file(tmp_path / "b.safetensors"), dict(CASES[name]["weights"])
    assert not np.any(again.pop("pad_token"))
    state.pop("pad_token")
    assert bits(again) == bits(state)


@pytest.mark.parametrize("name", list(LABELLED))
def test_class_conditional_models(tmp_path, name):
    case = LABELLED[name]
    x, time = jnp.asarray(last(case["x"])), 1 - jnp.asarray(case["time"])
    path = write(tmp_path, case)
    model, params = load_lumina(path, heads=2, grid=x.shape[1:3])
    kind = FlagDiTLabels if name == "flag" else NextDiTLabels
    assert type(model) is kind and model.qk_norm == (name != "next-plain")
    out = model.apply(params, x, time, {"label": jnp.asarray(case["label"])})
    for i, tap in enumerate(out.taps["blocks"]):
        near(f"block {i}", tap, case[f"block {i}"])
    near("output", -out.prediction[..., : model.channels], last(case["output"]))

    save_lumina(tmp_path / "b.safetensors", model, params)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
    found, state = load_model(path, heads=2, grid=x.shape[1:3])
    assert found == model
    save_model(tmp_path / "c.safetensors", found, state)
    assert bits(load_file(tmp_path / "c.safetensors")) == bits(case["weights"])


def diffusers_model(groups):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=2,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=groups,
        multiple_of=8,
        cross_attention_dim=6,
    ).eval()
    for name, parameter in net.named_parameters():
        scale = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(scale), 0.2)
    for layer in net.layers:
        layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
        layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    return torch, net


@pytest.mark.parametrize("groups, grid", [(2, (8, 8)), (4, (4, 6))], ids=str)
def test_diffusers_next_dit(tmp_path, groups, grid):
    torch, net = diffusers_model(groups)
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    net.save_pretrained(tmp_path / "a")
    model, params = next_dit_from_diffusers(tmp_path / "a")
    model = replace(model, grid=grid, base_tokens=4, stretch=Scaled(linear=1.5))
    x, text = torch.randn(2, 2, *grid), torch.randn(2, 3, 6)
    mask, time = torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.tensor([0.25, 0.875])
    rotary = get_2d_rotary_pos_embed_lumina(8, 384, 384, linear_factor=1.5)
    stages = []
    for layer in net.layers:
        layer.register_forward_hook(lambda m, i, o: stages.append(o.numpy()))
    with torch.no_grad():
        more = dict(cross_attention_kwargs={"base_sequence_length": 4})
        want = net(x, time, text, mask, rotary, **more).sample
    conditions = {
        "text": jnp.asarray(text.numpy()),
        "mask": jnp.asarray(mask.bool().numpy()),
    }
    ours = jnp.asarray(x.movedim(1, -1).numpy())
    out = model.apply(params, ours, 1 - jnp.asarray(time.numpy()), conditions)
    for i, tap in enumerate(out.taps["blocks"]):
        near(f"block {i}", tap, stages[i], 2e-5)
    want = want.movedim(1, -1).numpy()
    near("output", -out.prediction[..., :2], want[..., :2], 2e-5)
    near("unused", out.prediction[..., 2:], want[..., 2:], 2e-5)

    model = replace(model, grid=(8, 8))
    next_dit_to_diffusers(tmp_path / "b", model, params)
    again, notes = type(net).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(notes.values())
    state = dict(again.state_dict())
    for key, value in net.state_dict().items():
        assert key == "pad_token" or torch.equal(value, state[key]), key


def test_diffusers_queries_must_be_one(tmp_path):
    torch, net = diffusers_model(2)
    torch.nn.init.normal_(net.layers[1].attn2.to_q.weight)
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="layers.1.attn2.to_q.weight"):
        next_dit_from_diffusers(tmp_path)
