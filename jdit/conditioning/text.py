# SPDX-License-Identifier: Apache-2.0
"""Text and other conditions that arrive as arrays, with their null for guidance."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.conditioning.time import normal
from jdit.linear import Linear
from jdit.typing import Array, Conditions, Float, Key


@dataclass(frozen=True)
class Text:
    """Encoded text: "text" `b m features`, and what a family names beside it.

    Conditions may hold "mask" `b m` (which tokens are real; all, if there is none) and
    "negative", the conditions of the unconditional prediction: the encoding of an
    empty or a negative prompt, under the same names. Without it, null is zeros.

    features: width of the encoder's tokens.
    pooled: width of "pooled" `b e`, which must be there too; None if there is none.
    dropout: how often training replaces an image's text by its null.
    """

    features: int
    pooled: int | None = None
    dropout: float = 0.1

    def check(self, conditions: Conditions) -> None:
        """Raise ValueError unless the conditions are there and have their widths."""
        widths = {"text": (3, self.features), "pooled": (2, self.pooled)}
        for name, (axes, width) in widths.items():
            if width is None:
                continue
            if name not in conditions:
                raise ValueError(
                    f"conditions has {sorted(conditions) or 'no entries'}, but this "
                    f"model needs {name!r}: an array of {axes} axes, the last {width}"
                )
            shape = jnp.shape(conditions[name])
            if len(shape) != axes or shape[-1] != width:
                raise ValueError(
                    f"conditions[{name!r}] has shape {shape}, but this model takes "
                    f"{axes} axes, batch first, the last {width}"
                )
        if "mask" in conditions:
            shape, text = jnp.shape(conditions["mask"]), jnp.shape(conditions["text"])
            if shape != text[:2]:
                raise ValueError(
                    f"conditions['mask'] has shape {shape}, but it must be {text[:2]}: "
                    "one entry for each token of 'text'"
                )

    def null(self, conditions: Conditions) -> Conditions:
        """The same conditions with "negative" in their place, or zeros."""
        negative = conditions.get("negative")
        if negative is None:
            names = [name for name in ("text", "pooled") if name in conditions]
            negative = {name: jnp.zeros_like(conditions[name]) for name in names}
        for name, value in negative.items():
            want = jnp.shape(conditions.get(name, ()))
            if name not in conditions or jnp.shape(value) != want:
                raise ValueError(
                    f"conditions['negative'][{name!r}] has shape {jnp.shape(value)}, "
                    f"but it must be that of conditions[{name!r}], {want}"
                )
        return {**conditions, **negative}

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Replace each image's text by its null with probability `dropout`."""
        if not self.dropout:
            return conditions
        count = jnp.shape(conditions["text"])[0]
        dropped = jax.random.bernoulli(key, self.dropout, (count,))

        def pick(null: Any, given: Any) -> Any:
            rows = dropped.reshape(count, *(1,) * (jnp.ndim(given) - 1))
            return jnp.where(rows, null, given)

        return jax.tree.map(pick, self.null(conditions), conditions)


class VectorEmbedding(nn.Module):
    """Linear, SiLU, Linear to width `dim`: how MM-DiT and Flux read pooled text."""

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "b e"]) -> Float[Array, "b d"]:
        x = nn.silu(Linear(self.dim, kernel_init=normal, name="in")(x))
        return Linear(self.dim, kernel_init=normal, name="out")(x)
