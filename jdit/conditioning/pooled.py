# SPDX-License-Identifier: Apache-2.0
"""One vector of a whole text, in the place of a class."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdit.conditioning.time import normal
from jdit.linear import Linear, call
from jdit.typing import Array, Conditions, Float, Key, Params


@dataclass(frozen=True)
class PooledText:
    """ "pooled" `b e`, a sentence embedding, by one linear layer to DiT's class vector.

    Null is zeros, so the layer's bias is the null class. Conditions may hold
    "negative", {"pooled": ...}, to guide away from.

    pooled: the width of the embedding. dropout: how often training replaces it by null.
    """

    pooled: int
    dropout: float = 0.1

    def init(self, key: Key, dim: int) -> Params:
        vector = jnp.zeros((1, self.pooled))
        return Linear(dim, kernel_init=normal).init(key, vector)["params"]

    def apply(self, params: Params, conditions: Conditions) -> Float[Array, "b d"]:
        pooled = self._pooled(conditions)
        return call(Linear(params["bias"].shape[-1]), params, pooled)

    def null(self, conditions: Conditions) -> Conditions:
        """The same conditions with "negative" in their place, or zeros."""
        pooled = self._pooled(conditions)
        negative = conditions.get("negative", {"pooled": jnp.zeros_like(pooled)})
        if jnp.shape(negative["pooled"]) != pooled.shape:
            raise ValueError(
                "conditions['negative']['pooled'] has shape "
                f"{jnp.shape(negative['pooled'])}, but it must be {pooled.shape}"
            )
        return {**conditions, **negative}

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Replace each image's embedding by zeros with probability `dropout`."""
        if not self.dropout:
            return conditions
        pooled = self._pooled(conditions)
        kept = jax.random.bernoulli(key, 1 - self.dropout, (len(pooled), 1))
        return {**conditions, "pooled": jnp.where(kept, pooled, 0)}

    def _pooled(self, conditions: Conditions) -> Float[Array, "b e"]:
        shape = jnp.shape(conditions["pooled"]) if "pooled" in conditions else None
        if shape is None or len(shape) != 2 or shape[1] != self.pooled:
            raise ValueError(
                f"conditions['pooled'] has shape {shape}, but this model needs an "
                f"array (batch, {self.pooled}): one embedding of text per image"
            )
        return jnp.asarray(conditions["pooled"], jnp.float32)
