# SPDX-License-Identifier: Apache-2.0
"""BERT's encoder, as sentence embeddings use it."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdit.encoders.base import (
    DType,
    Encoding,
    check,
    check_heads,
    linear,
    real,
    scale,
    table,
)
from jdit.encoders.layers import (
    Activation,
    Attention,
    Layer,
    LayerNorm,
    Mlp,
    gelu,
    init_layers,
    norm_of,
    run,
)
from jdit.linear import Linear, call
from jdit.typing import Array, Bool, Float, Int, Key, Params

Pooling = Literal["mean", "class", "pooler"]


@dataclass(frozen=True)
class Bert:
    """A bidirectional post-norm transformer with learned positions.

    vocab, positions, types: rows of the tables; every token is of type 0.
    dim, depth, heads, hidden: of the stream and its MLPs.
    pooler: whether there is BERT's own pooling layer, a tanh over the first token.
    pooling: what the pooled vector is: the "mean" of the real tokens, the first token
        ("class"), or that token through the "pooler".
    unit: whether it is divided by its length (at least 1e-12).

    As published, all-MiniLM-L6-v2 has the mean at unit length (Reimers and Gurevych,
    2019, section 3; its modules.json).
    Source: transformers 5.23, models/bert/modeling_bert.py; sentence-transformers,
    models/Pooling.py, models/Normalize.py.
    """

    vocab: int = 30522
    positions: int = 512
    types: int = 2
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Activation = gelu
    pooler: bool = True
    pooling: Pooling = "mean"
    unit: bool = True
    eps: float = 1e-12
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        check(self, "vocab", "positions", "types", "dim", "depth", "heads", "hidden")
        check_heads(self, "dim", "heads")
        if self.pooling not in ("mean", "class", "pooler"):
            raise ValueError(
                f"pooling is {self.pooling!r}, but it must be 'mean', 'class' or "
                "'pooler'"
            )
        if self.pooling == "pooler" and not self.pooler:
            raise ValueError("pooling is 'pooler', but pooler is False")

    @property
    def features(self) -> int:
        return self.dim

    @property
    def layer(self) -> Layer:
        """One layer, as parts."""
        return Layer(
            Attention(self.heads, self.dim // self.heads),
            Mlp(self.hidden, self.activation),
            norm_of(LayerNorm, self.eps),
            order="post",
        )

    def init(self, key: Key) -> Params:
        """Random parameters."""
        token, position, kind, layers, pool = jax.random.split(key, 5)
        params = {
            "token": table(token, self.vocab, self.dim),
            "position": table(position, self.positions, self.dim),
            "type": table(kind, self.types, self.dim),
            "norm": scale(self.dim),
            "layers": init_layers(self.layer, layers, self.depth, self.dim),
        }
        if self.pooler:
            params["pooler"] = linear(pool, self.dim, self.dim)
        return params

    def apply(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Encoding:
        """Encode ids; `mask` `b m` says which are real, all if None."""
        given = real(ids, mask, self.positions)
        _, taps = self._walk(params, ids, given)
        pooled = self._pool(params, taps[-1], given).astype(jnp.float32)
        if self.unit:
            length = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
            pooled = pooled / jnp.maximum(length, 1e-12)
        return Encoding(taps[-1].astype(jnp.float32), pooled)

    def hidden_states(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Float[Array, "s b m d"]:
        """The embedding, and the stream after each layer."""
        given = real(ids, mask, self.positions)
        first, taps = self._walk(params, ids, given)
        return jnp.concatenate([first[None], taps]).astype(jnp.float32)

    def _walk(self, params: Params, ids: Array, mask: Array) -> tuple[Array, Array]:
        place = params["position"]["table"][: ids.shape[1]]
        first = params["token"]["table"][ids] + params["type"]["table"][0] + place
        first = call(LayerNorm(self.eps), params["norm"], first).astype(self.dtype)
        layer, allowed = self.layer, mask[:, None, None, :]
        _, taps = run(
            lambda weights, x, _: call(layer, weights, x, allowed),
            params["layers"],
            first,
        )
        return first, taps

    def _pool(
        self, params: Params, x: Array, mask: Bool[Array, "b m"]
    ) -> Float[Array, "b d"]:
        if self.pooling == "mean":
            weight = mask[..., None].astype(jnp.float32)
            return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1e-9)
        if self.pooling == "class":
            return x[:, 0]
        return jnp.tanh(call(Linear(self.dim), params["pooler"], x[:, 0]))


def minilm(**fields: Any) -> Bert:
    """all-MiniLM-L6-v2: 22.7e6 parameters, sentence vectors of 384 values."""
    sizes = dict(dim=384, depth=6, heads=12, hidden=1536)
    return Bert(**(sizes | fields))
