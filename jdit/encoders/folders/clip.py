# SPDX-License-Identifier: Apache-2.0
"""Folders of CLIP's text encoder, alone or in a whole CLIP."""

from collections.abc import Collection
from typing import Any

from jdit.encoders.clip import CLIPText
from jdit.encoders.folders.family import Family, prefixed
from jdit.encoders.folders.fields import Fields, name_of
from jdit.interop.layout import Layout, linear, norm, same

SKIPPED = (
    "vision_model.",
    "visual_projection.",
    "logit_scale",
    "text_model.embeddings.position_ids",
    "embeddings.position_ids",
)
"""Prefixes of the tensors of a whole CLIP, and of a table that counts."""


def towers(prefix: str, ours: str = "layers") -> tuple[Any, ...]:
    """The rules of a stack of CLIP's or SigLIP's layers."""
    layer = f"{prefix}encoder.layers.{{}}"
    names = dict(q_proj="q", k_proj="k", v_proj="v", out_proj="out")
    return (
        *(
            rule
            for theirs, name in names.items()
            for rule in linear(
                f"{layer}.self_attn.{theirs}", f"{ours}/attention/{name}"
            )
        ),
        *norm(f"{layer}.layer_norm1", f"{ours}/attention_norm"),
        *linear(f"{layer}.mlp.fc1", f"{ours}/mlp/in"),
        *linear(f"{layer}.mlp.fc2", f"{ours}/mlp/out"),
        *norm(f"{layer}.layer_norm2", f"{ours}/mlp_norm"),
    )


def read(fields: Fields) -> CLIPText:
    kinds = fields.any("architectures") or []
    projected = "CLIPTextModelWithProjection" in kinds
    width = fields.take("projection_dim", 512)
    eos = fields.any("eos_token_id", 49407)
    if not isinstance(eos, int) or isinstance(eos, bool):
        raise fields.refuse("eos_token_id", "a whole number")
    encoder = CLIPText(
        vocab=fields.take("vocab_size", 49408),
        positions=fields.take("max_position_embeddings", 77),
        dim=fields.take("hidden_size", 512),
        depth=fields.take("num_hidden_layers", 12),
        heads=fields.take("num_attention_heads", 8),
        hidden=fields.take("intermediate_size", 2048),
        activation=fields.activation("hidden_act", "quick_gelu"),
        projection=width if projected else None,
        eos=eos,
        eps=fields.take("layer_norm_eps", 1e-5),
    )
    fields.done()
    return encoder


def write(encoder: CLIPText) -> dict[str, Any]:
    projected = encoder.projection is not None
    return dict(
        model_type="clip_text_model",
        architectures=[
            "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        ],
        vocab_size=encoder.vocab,
        max_position_embeddings=encoder.positions,
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.hidden,
        hidden_act=name_of(encoder.activation),
        projection_dim=encoder.projection or encoder.dim,
        eos_token_id=encoder.eos,
        layer_norm_eps=encoder.eps,
    )  # fmt: skip


def layout(encoder: CLIPText) -> Layout:
    top = "text_model."
    out = linear("text_projection", "projection", bias=False)
    return Layout(
        "transformers' CLIPTextModel",
        (
            same(f"{top}embeddings.token_embedding.weight", "token/table"),
            same(f"{top}embeddings.position_embedding.weight", "position/table"),
            *towers(top),
            *norm(f"{top}final_layer_norm", "norm"),
            *(out if encoder.projection else ()),
        ),
    )


def rename(key: str, keys: Collection[str]) -> str | None:
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return prefixed(key, "text_model.", SKIPPED, bare)


CLIP_TEXT = Family(
    CLIPText, read, write, layout, rename, ("dtype", "skip", "normed")
)  # fmt: skip
