# SPDX-License-Identifier: Apache-2.0
"""Folders of BERT, also as sentence-transformers writes them."""

from collections.abc import Collection
from typing import Any

from jdit.encoders.bert import Bert
from jdit.encoders.folders.family import Family, stripped
from jdit.encoders.folders.fields import Fields, name_of
from jdit.interop.layout import Layout, linear, norm, same

_LAYER = "encoder.layer.{}"
SKIPPED = ("cls.", "classifier.", "embeddings.position_ids")
"""Prefixes of BERT's heads for other tasks, and of a table that counts."""


def read(fields: Fields) -> Bert:
    fields.fixed("position_embedding_type", "absolute")
    encoder = Bert(
        vocab=fields.take("vocab_size", 30522),
        positions=fields.take("max_position_embeddings", 512),
        types=fields.take("type_vocab_size", 2),
        dim=fields.take("hidden_size", 768),
        depth=fields.take("num_hidden_layers", 12),
        heads=fields.take("num_attention_heads", 12),
        hidden=fields.take("intermediate_size", 3072),
        activation=fields.activation("hidden_act", "gelu"),
        eps=fields.take("layer_norm_eps", 1e-12),
    )
    fields.ignore(  # of the first BERTs' other readers
        "directionality", "pooler_fc_size", "pooler_num_attention_heads",
        "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    )  # fmt: skip
    fields.done()
    return encoder


def write(encoder: Bert) -> dict[str, Any]:
    return dict(
        model_type="bert",
        architectures=["BertModel"],
        vocab_size=encoder.vocab,
        max_position_embeddings=encoder.positions,
        type_vocab_size=encoder.types,
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.hidden,
        hidden_act=name_of(encoder.activation),
        layer_norm_eps=encoder.eps,
        position_embedding_type="absolute",
    )


def layout(encoder: Bert) -> Layout:
    names = {"self.query": "q", "self.key": "k", "self.value": "v"}
    return Layout(
        "transformers' BertModel",
        (
            same("embeddings.word_embeddings.weight", "token/table"),
            same("embeddings.position_embeddings.weight", "position/table"),
            same("embeddings.token_type_embeddings.weight", "type/table"),
            *norm("embeddings.LayerNorm", "norm"),
            *(
                rule
                for theirs, ours in (names | {"output.dense": "out"}).items()
                for rule in linear(
                    f"{_LAYER}.attention.{theirs}", f"layers/attention/{ours}"
                )
            ),
            *norm(f"{_LAYER}.attention.output.LayerNorm", "layers/attention_norm"),
            *linear(f"{_LAYER}.intermediate.dense", "layers/mlp/in"),
            *linear(f"{_LAYER}.output.dense", "layers/mlp/out"),
            *norm(f"{_LAYER}.output.LayerNorm", "layers/mlp_norm"),
            *(linear("pooler.dense", "pooler") if encoder.pooler else ()),
        ),
    )


def rename(key: str, keys: Collection[str]) -> str | None:
    name = stripped(key, "bert.", SKIPPED)
    if name is None:
        return None
    for old, new in (("gamma", "weight"), ("beta", "bias")):  # of the first files
        name = name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}")
    return name


BERT = Family(Bert, read, write, layout, rename, ("dtype", "pooling", "unit"))
