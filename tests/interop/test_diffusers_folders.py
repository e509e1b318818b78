# SPDX-License-Identifier: Apache-2.0
"""diffusers' folders, without diffusers or torch."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_states import (
    CONFIG,
    diffusers_state,
    grid_positions,
    published,
    write_diffusers,
)
from safetensors.numpy import load_file, save_file

from jdit.conditioning import Labels, LinearClock, Sinusoids
from jdit.interop import from_diffusers, load_dit, process_from_diffusers, to_diffusers
from jdit.processes import DDPMCosine, DDPMLinear

FILE = "diffusion_pytorch_model.safetensors"


def bits(state):
    return {key: value.tobytes() for key, value in state.items()}


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_round_trip_is_bitwise(tmp_path, kind):
    state = {k: v.astype(kind) for k, v in diffusers_state().items()}
    write_diffusers(tmp_path / "a", state)
    model, params = from_diffusers(tmp_path / "a")
    to_diffusers(tmp_path / "b", model, params, dtype=kind)
    assert bits(load_file(tmp_path / "b" / FILE)) == bits(state)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    version = "_diffusers_version"
    assert config | {version: 0} == CONFIG | {version: 0}
    again, params_again = from_diffusers(tmp_path / "b")
    equal = jax.tree.map(np.array_equal, params_again, params)
    assert again == model and jax.tree.all(equal)


def test_the_model_is_the_one_of_the_config(tmp_path):
    model, _ = from_diffusers(write_diffusers(tmp_path))
    assert (model.grid, model.patch, model.dim, model.heads) == ((8, 8), 2, 32, 4)
    assert (model.depth, model.channels, model.out_channels) == (2, 4, 8)
    assert model.conditioning == Labels(10) and model.clock == LinearClock(1000, -1)
    assert model.basis == Sinusoids(shift=1.0) and model.eps == (1e-6, 1e-5)


def test_both_layouts_hold_the_same_model(tmp_path):
    """The same weights under either's names give the same parameters."""
    state = published(seed=3)
    save_file(state, tmp_path / "a.safetensors")
    model, params = load_dit(tmp_path / "a.safetensors", heads=4)
    model = replace(model, basis=Sinusoids(shift=1.0), eps=(1e-6, 1e-5))
    to_diffusers(tmp_path / "b", model, params)
    theirs = load_file(tmp_path / "b" / FILE)
    q, k, v = np.split(state["blocks.1.attn.qkv.weight"], 3)
    for name, want in dict(to_q=q, to_k=k, to_v=v).items():
        key = f"transformer_blocks.1.attn1.{name}.weight"
        assert np.array_equal(theirs[key], want)
    again, params_again = from_diffusers(tmp_path / "b")
    assert again == model
    assert jax.tree.all(jax.tree.map(np.array_equal, params, params_again))


def test_shards_pipelines_and_old_configs(tmp_path):
    _, want = from_diffusers(write_diffusers(tmp_path / "whole"))
    folder = tmp_path / "pipeline" / "transformer"
    legacy = dict(
        _class_name="Transformer2DModel",
        norm_eps=...,
        cross_attention_dim=None,
        num_vector_embeds=None,
        only_cross_attention=False,
        use_linear_projection=False,
    )
    write_diffusers(folder, **legacy)
    (folder / FILE).unlink()
    state = diffusers_state() | {"pos_embed.pos_embed": grid_positions(4, 32)}
    keys = sorted(state)
    index = {}
    for i, part in enumerate((keys[::2], keys[1::2])):
        name = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": index}))
    model, params = from_diffusers(tmp_path / "pipeline")
    assert model.eps == (1e-6, 1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, want))

    (folder / FILE).touch()
    with pytest.raises(ValueError, match="holds both .* remove the stale ones"):
        from_diffusers(folder)
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match="holds a sharded model already"):
        to_diffusers(folder, model, params)
    (folder / f"{FILE}.index.json").write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(ValueError, match="names '../b', which is no file beside it"):
        from_diffusers(folder)


@pytest.mark.parametrize(
    "config, sentence",
    [
        (dict(caption_channels=7), "unknown field 'caption_channels'"),
        (dict(activation_fn="geglu"), "activation_fn 'geglu', but only 'gelu-approx"),
        (dict(norm_type="ada_norm"), "norm_type 'ada_norm', but only 'ada_norm_zero'"),
        (dict(attention_bias=False), "attention_bias False, but only True"),
        (dict(dropout=0.1), "dropout 0.1, but only 0.0"),
        (dict(upcast_attention=True), "upcast_attention True, but only False"),
        (dict(cross_attention_dim=64), "cross_attention_dim 64, but only None"),
        (dict(num_layers="two"), "num_layers 'two', but it must be a positive whole"),
        (dict(num_embeds_ada_norm=None), "num_embeds_ada_norm None, but it must be"),
        (dict(patch_size=3), r"patch \(3, 3\) does not divide grid"),
        (dict(_class_name="UNet2DModel"), "is of a UNet2DModel, but accepted is a DiT"),
        (dict(num_layers=3), "lacks 'transformer_blocks.2.norm1.emb.timestep_emb"),
        (dict(num_layers=1), "has 'transformer_blocks.1"),
        (dict(num_embeds_ada_norm=9), r"shape \(11, 32\), but .* \(10, 32\)"),
    ],
)
def test_a_config_that_cannot_be_honoured(tmp_path, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_diffusers(write_diffusers(tmp_path, **config))


def test_layers_must_repeat_the_embedding(tmp_path):
    key = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    state = diffusers_state()
    state[key] = state[key] + 1
    with pytest.raises(ValueError, match=f"'{key}' .* differs from that of layer 0"):
        from_diffusers(write_diffusers(tmp_path, state))


def test_stored_positions_are_checked(tmp_path):
    state = diffusers_state() | {"pos_embed.pos_embed": np.zeros((1, 16, 32), "f")}
    with pytest.raises(ValueError, match="'pos_embed.pos_embed' .* differs by 1 "):
        from_diffusers(write_diffusers(tmp_path, state))


def test_folders_that_are_not_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json, but accepted"):
        from_diffusers(tmp_path)
    write_diffusers(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="has none of diffusion_pytorch_model"):
        from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, not a JSON object"):
        from_diffusers(tmp_path)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(basis=Sinusoids()), "model.basis is .*shift=0.0.*means .*shift=1.0"),
        (dict(mlp_ratio=2.0), "model.mlp_ratio is 2.0"),
        (dict(clock=LinearClock()), "model.clock is"),
        (dict(conditioning=Labels(11, 0)), "always has a null class"),
        (dict(eps=(1e-5, 1e-5)), "model.eps is"),
    ],
)
def test_a_model_diffusers_cannot_hold(tmp_path, change, sentence):
    model, params = from_diffusers(write_diffusers(tmp_path / "a"))
    with pytest.raises(ValueError, match=sentence):
        to_diffusers(tmp_path / "b", replace(model, **change), params)
    assert not (tmp_path / "b").exists()


def write_scheduler(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(config))


def test_the_published_scheduler(tmp_path):
    """The config of DiT's pipeline is the process that DiT was trained with."""
    write_scheduler(
        tmp_path / "scheduler",
        _class_name="DDIMScheduler",
        beta_end=0.02,
        beta_schedule="linear",
        beta_start=0.0001,
        clip_sample=False,
        num_train_timesteps=1000,
        prediction_type="epsilon",
        set_alpha_to_one=True,
        steps_offset=0,
        trained_betas=None,
    )
    process = process_from_diffusers(tmp_path)
    assert process.path == DDPMLinear() and process.target == "noise"


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_betas_are_those_of_the_config(tmp_path, schedule):
    write_scheduler(
        tmp_path,
        beta_schedule=schedule,
        beta_start=0.001,
        beta_end=0.03,
        num_train_timesteps=500,
        prediction_type="v_prediction",
    )
    process = process_from_diffusers(tmp_path)
    root = 1 if schedule == "linear" else 2
    betas = np.linspace(0.001 ** (1 / root), 0.03 ** (1 / root), 500) ** root
    alpha = process.path(jnp.array([1 / 500, 0.5, 1.0])).alpha
    want = np.sqrt(np.cumprod(1 - betas)[[0, 249, 499]])
    np.testing.assert_allclose(alpha, want, rtol=1e-6)
    assert process.target == "v"


@pytest.mark.parametrize(
    "config, sentence",
    [
        (dict(beta_schedule="sigmoid"), "beta_schedule 'sigmoid', but it must be one"),
        (dict(prediction_type="flow"), "prediction_type 'flow', but it must be one of"),
        (dict(rescale_betas_zero_snr=True), "sets rescale_betas_zero_snr to True"),
        (dict(trained_betas=[0.1]), "sets trained_betas to"),
    ],
)
def test_a_scheduler_that_cannot_be_honoured(tmp_path, config, sentence):
    write_scheduler(tmp_path, **config)
    with pytest.raises(ValueError, match=sentence):
        process_from_diffusers(tmp_path)


def test_the_cosine_schedule_and_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no scheduler/scheduler_config"):
        process_from_diffusers(tmp_path)
    write_scheduler(tmp_path, beta_schedule="squaredcos_cap_v2")
    assert process_from_diffusers(tmp_path).path == DDPMCosine(1000)
