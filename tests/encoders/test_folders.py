# SPDX-License-Identifier: Apache-2.0
"""Folders of encoders: what is skipped, what is refused, and in which words."""

import json
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_dit import start

from jdit.encoders import (
    Bert,
    CLIPText,
    Decoder,
    Llama3Scaling,
    Rotary,
    T5Encoder,
    VisionTransformer,
    load_encoder,
    save_encoder,
)
from jdit.encoders.layers import OffsetRMSNorm

SMALL = dict(vocab=20, dim=16, depth=2, heads=2, hidden=12)
IMAGE = dict(size=8, patch=4, dim=16, depth=1, heads=2, hidden=64)
T5 = T5Encoder(**SMALL, width=8)
CLIP = CLIPText(**SMALL, positions=6, projection=10)
BERT = Bert(**SMALL, positions=6)
LLAMA = Decoder(
    **SMALL, groups=1, width=8, rotary=Rotary(5e5, Llama3Scaling(original=64))
)
DINO = VisionTransformer(**IMAGE, layer_scale=True, mask_token=True)
PLAIN = {"t5": T5, "clip": CLIP, "bert": BERT, "llama": LLAMA, "dinov2": DINO}


@cache
def params_of(encoder):
    return start(encoder)


def saved(folder, encoder, **config):
    """A folder with this encoder, and some other fields of its config."""
    save_encoder(folder, encoder, params_of(encoder))
    rewrite(folder, **config)
    return folder


def rewrite(folder, name="config.json", **fields):
    given = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(given | fields))


def retensor(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize(
    "encoder, key",
    [
        (T5, "decoder.block.0.layer.0.SelfAttention.q.weight"),
        (T5, "lm_head.weight"),
        (T5, "encoder.embed_tokens.weight"),
        (CLIP, "vision_model.post_layernorm.weight"),
        (CLIP, "logit_scale"),
        (BERT, "cls.predictions.bias"),
        (LLAMA, "lm_head.weight"),
        (LLAMA, "layers.0.self_attn.rotary_emb.inv_freq"),
        (DINO, "classifier.weight"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_other_parts_of_a_model_are_skipped(tmp_path, encoder, key):
    saved(tmp_path, encoder)
    retensor(tmp_path, lambda x: x | {key: np.zeros(3, np.float32)})
    again, params = load_encoder(tmp_path)
    assert again == encoder and same(params, params_of(encoder))


@pytest.mark.parametrize(
    "encoder, rename",
    [
        (CLIP, lambda key: key.removeprefix("text_model.")),
        (BERT, lambda key: f"bert.{key}"),
        (BERT, lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma")),
        (LLAMA, lambda key: f"model.{key}"),
        (DINO, lambda key: f"dinov2.{key}"),
        (T5, lambda key: key.replace("shared", "encoder.embed_tokens")),
    ],
    ids=["clip, bare", "bert.", "gamma", "model.", "dinov2.", "t5, one table"],
)
def test_names_of_other_files(tmp_path, encoder, rename):
    saved(tmp_path, encoder)
    retensor(tmp_path, lambda x: {rename(key): value for key, value in x.items()})
    again, params = load_encoder(tmp_path)
    assert again == encoder and same(params, params_of(encoder))


@pytest.mark.parametrize("encoder", PLAIN.values(), ids=PLAIN)
def test_unknown_fields_and_tensors_are_errors(tmp_path, encoder):
    saved(tmp_path, encoder, novelty=3)
    with pytest.raises(ValueError, match=r"unknown field 'novelty' \(3\)"):
        load_encoder(tmp_path)
    saved(tmp_path, encoder)
    retensor(tmp_path, lambda x: x | {"novelty": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="has 'novelty', which is no part of"):
        load_encoder(tmp_path)
    retensor(tmp_path, lambda x: dict(list(x.items())[2:]))
    with pytest.raises(ValueError, match="lacks"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "encoder, fields, words",
    [
        (T5, dict(num_layers=0), "num_layers 0, but it must be a positive whole"),
        (T5, dict(is_decoder=True), "is_decoder True, but only False"),
        (T5, dict(feed_forward_proj="gated-snake"), "feed_forward_proj 'gated-snake'"),
        (
            CLIP,
            dict(hidden_act="mish"),
            "hidden_act 'mish', but it must be one of gelu",
        ),
        (CLIP, dict(eos_token_id=[1, 2]), r"eos_token_id \[1, 2\]"),
        (CLIP, dict(layer_norm_eps="small"), "layer_norm_eps 'small', .* a number"),
        (
            BERT,
            dict(position_embedding_type="relative_key"),
            "'relative_key', but only",
        ),
        (BERT, dict(pruned_heads={"0": [1]}), "pruned_heads"),
        (
            LLAMA,
            dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}),
            "rope_scaling",
        ),
        (LLAMA, dict(mlp_bias=1), "mlp_bias 1, but it must be true or false"),
        (DINO, dict(hidden_size=15), "dim 15 is not a multiple of heads 2"),
        (DINO, dict(image_size=[8, 8]), r"image_size \[8, 8\]"),
        (DINO, dict(model_type="vit"), "model_type 'vit', but it must be one of t5"),
        (DINO, dict(model_type="clip"), "tower is None, but .* a whole clip"),
    ],
    ids=range(14),
)
def test_values_that_cannot_be_honoured(tmp_path, encoder, fields, words):
    saved(tmp_path, encoder, **fields)
    with pytest.raises(ValueError, match=words):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "encoder, words",
    [
        (replace(LLAMA, embed_scale=3.0), "embed_scale is 3.0, but .* llama means 1.0"),
        (replace(LLAMA, softcap=3.0), "softcap is 3.0, but .* llama means None"),
        (replace(LLAMA, order="sandwich"), "order is 'sandwich'"),
        (replace(LLAMA, windows=(4,)), r"windows is \(4,\), but .* means \(\)"),
        (replace(LLAMA, norm=OffsetRMSNorm), "hidden_act 'silu'"),
        (replace(DINO, antialias=True), "antialias is True, but .* dinov2 means False"),
        (replace(DINO, hidden=63), "hidden is 63, but DINOv2's layout"),
        (3, "encoder is a int, but it must be one of T5Encoder"),
    ],
    ids=range(8),
)
def test_what_no_folder_can_express(tmp_path, encoder, words):
    with pytest.raises(ValueError, match=words):
        save_encoder(tmp_path, encoder, {})


def test_fields_that_are_chosen(tmp_path):
    saved(tmp_path, LLAMA)
    encoder, _ = load_encoder(tmp_path, layer=-2, dtype="bfloat16")
    assert encoder == replace(LLAMA, layer=-2, dtype="bfloat16")
    with pytest.raises(ValueError, match="depth is no field to choose.*dtype, layer"):
        load_encoder(tmp_path, depth=1)
    with pytest.raises(ValueError, match="tower is 'vision', but .* is of a llama"):
        load_encoder(tmp_path, tower="vision")


def test_folders_that_are_not_whole(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_encoder(tmp_path)
    saved(tmp_path, BERT)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match="holds both model.safetensors and"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match="holds model.safetensors.index.json already"):
        save_encoder(tmp_path, BERT, params_of(BERT))
    index.unlink()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has none of model.safetensors"):
        load_encoder(tmp_path)


def test_mean_and_deviation_are_those_of_the_folder(tmp_path):
    model = replace(DINO, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    saved(tmp_path, model)
    name = "preprocessor_config.json"
    assert load_encoder(tmp_path)[0] == model
    rewrite(tmp_path, name, image_mean=[0.1])
    with pytest.raises(
        ValueError, match=r"image_mean \[0.1\], but it must be 3 numbers"
    ):
        load_encoder(tmp_path)
    rewrite(tmp_path, name, do_normalize=False)
    assert load_encoder(tmp_path)[0].std == (1.0, 1.0, 1.0)
    (tmp_path / name).unlink()
    assert load_encoder(tmp_path)[0] == DINO


def test_pooling_is_that_of_sentence_transformers(tmp_path):
    saved(tmp_path, BERT)
    kinds = ["Transformer", "Pooling"]
    modules = [
        dict(type=f"sentence_transformers.models.{kind}", path=path)
        for kind, path in zip(kinds, ("", "1_Pooling"), strict=True)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    modes = dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text(json.dumps(modes | dict(word_embedding_dimension=16)))
    assert load_encoder(tmp_path)[0] == replace(BERT, pooling="class", unit=False)
    path.write_text(json.dumps(modes | dict(pooling_mode_mean_tokens=True)))
    with pytest.raises(
        ValueError, match="pooling_mode_cls_token and pooling_mode_mean"
    ):
        load_encoder(tmp_path)
    modules[1]["type"] = "sentence_transformers.models.Dense"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="a module 'Dense', but only"):
        load_encoder(tmp_path)
