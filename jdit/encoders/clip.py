# SPDX-License-Identifier: Apache-2.0
"""CLIP's text encoder, OpenAI's and OpenCLIP's."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdit.encoders.base import (
    DType,
    Encoding,
    causal,
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
    quick_gelu,
    run,
)
from jdit.linear import call, contract
from jdit.typing import Array, Float, Int, Key, Params


@dataclass(frozen=True)
class CLIPText:
    """A causal pre-norm transformer with learned positions.

    vocab, positions: rows of the tables; at most `positions` tokens are read.
    dim, depth, heads, hidden: of the stream and its MLPs.
    projection: width of the pooled vector; None leaves it as it is (dim).
    eos: the id at whose first place the pooled vector is read; 0 where there is none.
        2, which no vocabulary has there, means the place of the largest id, as
        transformers reads configs written before that was mended.
    skip: how many last layers the tokens leave out ("clip skip"). normed: whether the
        final norm is applied to them. SD1 reads (0, True), SDXL and SD3 (1, False).
        The pooled vector always comes from the last layer, normed.

    Source: transformers 5.23, models/clip/modeling_clip.py.
    """

    vocab: int = 49408
    positions: int = 77
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Activation = quick_gelu
    projection: int | None = None
    eos: int = 49407
    skip: int = 0
    normed: bool = True
    eps: float = 1e-5
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        check(self, "vocab", "positions", "dim", "depth", "heads", "hidden")
        check_heads(self, "dim", "heads")
        if not 0 <= self.skip <= self.depth:
            raise ValueError(
                f"skip is {self.skip}, but it must be between 0 and depth {self.depth}"
            )

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
        )

    def init(self, key: Key) -> Params:
        """Random parameters."""
        token, position, layers, out = jax.random.split(key, 4)
        params = {
            "token": table(token, self.vocab, self.dim),
            "position": table(position, self.positions, self.dim, 0.01),
            "layers": init_layers(self.layer, layers, self.depth, self.dim),
            "norm": scale(self.dim),
        }
        if self.projection:
            params["projection"] = linear(out, self.dim, self.projection, False)
        return params

    def apply(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Encoding:
        """Encode ids; `mask` `b m` says which are real, all if None.

        The published pipelines pass no mask: padding is read like text.
        """
        first, taps = self._walk(params, ids, mask)
        norm, stop = LayerNorm(self.eps), self.depth - self.skip
        tokens = taps[stop - 1] if stop else first
        if self.normed:
            tokens = call(norm, params["norm"], tokens)
        last = call(norm, params["norm"], taps[-1])
        pooled = last[jnp.arange(len(ids)), self.end(ids)]
        if self.projection:
            pooled = contract(pooled, params["projection"]["kernel"])
        return Encoding(tokens.astype(jnp.float32), pooled.astype(jnp.float32))

    def hidden_states(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Float[Array, "s b m d"]:
        """The embedding, and the stream after each layer; none is normalised."""
        first, taps = self._walk(params, ids, mask)
        return jnp.concatenate([first[None], taps]).astype(jnp.float32)

    def end(self, ids: Int[Array, "b m"]) -> Int[Array, " b"]:
        """Where the pooled vector is read."""
        return jnp.argmax(ids if self.eos == 2 else ids == self.eos, -1)

    def _walk(self, params: Params, ids: Array, mask: Any) -> tuple[Array, Array]:
        allowed = causal(real(ids, mask, self.positions))
        place = params["position"]["table"][: ids.shape[1]]
        first = (params["token"]["table"][ids] + place).astype(self.dtype)
        layer = self.layer
        _, taps = run(
            lambda weights, x, _: call(layer, weights, x, allowed),
            params["layers"],
            first,
        )
        return first, taps


def clip_text_l(*, projection: int | None = None, **fields: Any) -> CLIPText:
    """OpenAI's ViT-L/14: SD1, Flux; with `projection=768` SDXL's and SD3's first."""
    return CLIPText(projection=projection, **fields)


def clip_text_h(*, depth: int = 23, **fields: Any) -> CLIPText:
    """OpenCLIP's ViT-H/14, of whose 24 layers SD2 stores 23."""
    sizes = dict(dim=1024, heads=16, hidden=4096, activation=gelu)
    return CLIPText(**(sizes | dict(depth=depth) | fields))  # type: ignore[arg-type]


def clip_text_g(**fields: Any) -> CLIPText:
    """OpenCLIP's ViT-bigG/14: SDXL's and SD3's second."""
    sizes = dict(dim=1280, depth=32, heads=20, hidden=5120, projection=1280)
    return CLIPText(**(sizes | dict(activation=gelu) | fields))  # type: ignore[arg-type]
