# SPDX-License-Identifier: Apache-2.0
"""MM-DiT that is told how words are spelt: the text of a language model, and bytes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdit.blocks.pixart import Caption
from jdit.conditioning import Text
from jdit.conditioning.time import normal
from jdit.linear import call
from jdit.models.mmdit import MMDiT
from jdit.stack import Context
from jdit.typing import Array, Conditions, Float, Key, Params, Stream


@dataclass(frozen=True)
class TextAndGlyphs(Text):
    """`Text`, and "second_text" `b g second_features`: the words to write, in glyphs.

    "second_mask" `b g` says which of these tokens are real; all, if there is none. They
    are dropped with the text, and their null is zeros.
    """

    second_features: int = 1472

    def check(self, conditions: Conditions) -> None:
        """Raise ValueError unless the conditions are there and have their widths."""
        super().check(conditions)
        shape = jnp.shape(conditions.get("second_text", 0))
        if len(shape) != 3 or shape[-1] != self.second_features:
            raise ValueError(
                f"conditions['second_text'] has shape {shape}, but this model needs "
                f"glyphs: 3 axes, batch first, the last {self.second_features}"
            )
        mask = conditions.get("second_mask")
        if mask is not None and jnp.shape(mask) != shape[:2]:
            raise ValueError(
                f"conditions['second_mask'] has shape {jnp.shape(mask)}, but it must "
                f"be {shape[:2]}: one entry for each token of 'second_text'"
            )

    def null(self, conditions: Conditions) -> Conditions:
        """The same conditions with "negative" in their place, or zeros."""
        found = super().null(conditions)
        if conditions.get("negative") is None:
            found["second_text"] = jnp.zeros_like(conditions["second_text"])
        return found


@dataclass(frozen=True)
class GlyphMMDiT(MMDiT):
    """`MMDiT` on spliced text, as Seedream 2.0 describes it.

    Glyphs go through a linear layer, tanh-GELU and a linear layer to the width of the
    language model's tokens, follow them, and all are text to MM-DiT, with a learned
    position each. The paper (Gong et al., 2025, sections 3.1 and 3.3) has the MLP, the
    splicing and the positions, and leaves open: the MLP's depth, the order, and that
    positions run on over both parts and are added at the width of the stream.

    Conditions: those of `TextAndGlyphs`, and "pooled" as in `MMDiT`.

    text_tokens: rows of the table of positions; text and glyphs have at most so many.
    """

    conditioning: TextAndGlyphs = TextAndGlyphs(4096, 2048)
    text_tokens: int = 512

    def init(self, key: Key) -> Params:
        """MM-DiT's parameters, "glyphs" and "text_positions"."""
        told, (key, mlp, table) = self.conditioning, jax.random.split(key, 3)
        first = jnp.zeros((1, 1, told.second_features))
        shape = (self.text_tokens, self.dim)
        return super().init(key) | {
            "glyphs": Caption(told.features).init(mlp, first)["params"],
            "text_positions": {"table": normal(table, shape, jnp.float32)},
        }

    def embed(
        self,
        params: Params,
        x_t: Float[Array, "b *g c"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> tuple[Stream, Context]:
        """Both streams, and what every layer sees; the text's is the spliced one."""
        self.conditioning.check(conditions)
        dtype = jnp.dtype(self.dtype)
        text, glyphs = (
            jnp.asarray(conditions[name], dtype) for name in ("text", "second_text")
        )
        masks = [conditions.get(name) for name in ("mask", "second_mask")]
        spliced = dict(conditions)
        if any(mask is not None for mask in masks):
            pairs = zip(masks, (text, glyphs), strict=True)
            spliced["mask"] = jnp.concatenate(
                [jnp.ones(x.shape[:2], bool) if m is None else m for m, x in pairs], 1
            )
        mlp = Caption(self.conditioning.features)
        glyphs = call(mlp, params["glyphs"], glyphs)
        spliced["text"] = jnp.concatenate([text, glyphs], 1)
        count = spliced["text"].shape[1]
        if count > self.text_tokens:
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but text and glyphs are {count} "
                "tokens"
            )
        stream, context = super().embed(params, x_t, time, spliced)
        places = params["text_positions"]["table"][:count].astype(dtype)
        return {**stream, "text": stream["text"] + places}, context
