# SPDX-License-Identifier: Apache-2.0
"""Folders of T5, mT5 and umT5, with their decoder or without."""

from collections.abc import Collection
from typing import Any

from jdit.encoders.folders.family import Family
from jdit.encoders.folders.fields import ACTIVATIONS, Fields, name_of
from jdit.encoders.layers import gelu_tanh
from jdit.encoders.t5 import T5Encoder
from jdit.interop.layout import Layout, linear, norm, same

_BLOCK = "encoder.block.{}.layer"
_BIAS = "SelfAttention.relative_attention_bias.weight"
SKIPPED = ("decoder.", "lm_head.")
"""Prefixes of the tensors of a whole T5 that its encoder does not have."""


def read(fields: Fields) -> T5Encoder:
    kind = fields.any("model_type", "t5")
    gate = "relu" if kind == "t5" else "gated-gelu"
    spoken = fields.take("feed_forward_proj", gate)
    *gated, name = spoken.split("-")
    if gated not in ([], ["gated"]) or name not in ACTIVATIONS:
        raise fields.refuse("feed_forward_proj", "an activation, or 'gated-' and one")
    plain = kind == "t5"
    encoder = T5Encoder(
        vocab=fields.take("vocab_size", 32128 if plain else 250112),
        dim=fields.take("d_model", 512),
        depth=fields.take("num_layers", 6 if plain else 8),
        heads=fields.take("num_heads", 8 if plain else 6),
        width=fields.take("d_kv", 64),
        hidden=fields.take("d_ff", 2048 if plain else 1024),
        activation=gelu_tanh if spoken == "gated-gelu" else ACTIVATIONS[name],
        gated=bool(gated),
        buckets=fields.take("relative_attention_num_buckets", 32),
        reach=fields.take("relative_attention_max_distance", 128),
        biases="each" if kind == "umt5" else "first",
        eps=fields.take("layer_norm_epsilon", 1e-6),
    )
    # Made from feed_forward_proj, or said of the decoder.
    fields.ignore(
        "dense_act_fn", "is_gated_act", "num_decoder_layers", "n_positions",
        "scale_decoder_outputs", "scalable_attention",
    )  # fmt: skip
    fields.done()
    return encoder


def write(encoder: T5Encoder) -> dict[str, Any]:
    each = encoder.biases == "each"
    name = "gelu" if encoder.activation is gelu_tanh and encoder.gated else None
    name = name or name_of(encoder.activation, "gelu_new")
    return dict(
        model_type="umt5" if each else "t5",
        architectures=["UMT5EncoderModel" if each else "T5EncoderModel"],
        vocab_size=encoder.vocab,
        d_model=encoder.dim,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        d_kv=encoder.width,
        d_ff=encoder.hidden,
        feed_forward_proj=f"gated-{name}" if encoder.gated else name,
        relative_attention_num_buckets=encoder.buckets,
        relative_attention_max_distance=encoder.reach,
        layer_norm_epsilon=encoder.eps,
        is_encoder_decoder=False,
        use_cache=False,
    )


def layout(encoder: T5Encoder) -> Layout:
    ins = {"wi_0": "gate", "wi_1": "up"} if encoder.gated else {"wi": "in"}
    bias = f"{_BLOCK}.0.{_BIAS}"
    return Layout(
        "transformers' T5EncoderModel",
        (
            same("shared.weight", "token/table"),
            same(bias.format(0) if encoder.biases == "first" else bias, "bias/table"),
            *(
                rule
                for x, ours in zip("qkvo", ("q", "k", "v", "out"), strict=True)
                for rule in linear(
                    f"{_BLOCK}.0.SelfAttention.{x}", f"layers/attention/{ours}",
                    bias=False,
                )
            ),
            *norm(f"{_BLOCK}.0.layer_norm", "layers/attention_norm", bias=False),
            *(
                rule
                for x, ours in (ins | {"wo": "out"}).items()
                for rule in linear(
                    f"{_BLOCK}.1.DenseReluDense.{x}", f"layers/mlp/{ours}", bias=False
                )
            ),
            *norm(f"{_BLOCK}.1.layer_norm", "layers/mlp_norm", bias=False),
            *norm("encoder.final_layer_norm", "norm", bias=False),
        ),
    )  # fmt: skip


def rename(key: str, keys: Collection[str]) -> str | None:
    if key.startswith(SKIPPED):
        return None
    if key == "encoder.embed_tokens.weight":  # the same table, stored once more
        return None if "shared.weight" in keys else "shared.weight"
    return key


T5 = Family(T5Encoder, read, write, layout, rename)
