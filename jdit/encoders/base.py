# SPDX-License-Identifier: Apache-2.0
"""What every encoder is: text or images to condition tokens, purely."""

from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jdit.linear import Init, xavier
from jdit.typing import Array, Bool, Float, Int, Key, Params

DType = Literal["float32", "bfloat16"]


class Encoding(NamedTuple):
    """What an encoder makes of its input, float32.

    tokens: condition tokens, `b m d`; those outside the mask mean nothing.
    pooled: one vector an example, `b e`, or None where the encoder has none.
    """

    tokens: Float[Array, "b m d"]
    pooled: Float[Array, "b e"] | None = None


class Encoder(Protocol):
    """A frozen dataclass that is its own config, with pure functions.

    inputs: ids `b m` of a tokeniser, with `mask` `b m` (which are real; all if None),
    or images `b h w c` in [-1, 1], which have no mask.
    """

    @property
    def features(self) -> int:
        """The width of the tokens."""
        ...

    def init(self, key: Key) -> Params: ...

    def apply(self, params: Params, inputs: Array, mask: Any = None) -> Encoding: ...


def table(key: Key, rows: int, dim: int, std: float = 0.02) -> Params:
    """A table of embeddings, `rows dim`."""
    return {"table": std * jax.random.normal(key, (rows, dim))}


def linear(
    key: Key, inputs: int, outputs: int, bias: bool = True, init: Init = xavier
) -> Params:
    """The parameters of a `jdit.linear.Linear`."""
    kernel = {"kernel": init(key, (inputs, outputs), jnp.float32)}
    return kernel | ({"bias": jnp.zeros(outputs)} if bias else {})


def scale(dim: int, bias: bool = True, value: float = 1.0) -> Params:
    """The parameters of a norm."""
    return {"scale": jnp.full(dim, value)} | ({"bias": jnp.zeros(dim)} if bias else {})


def real(
    ids: Int[Array, "b m"], mask: Any, longest: int | None = None
) -> Bool[Array, "b m"]:
    """The mask of ids, all true if there is none.

    Raises ValueError for ids that are no whole numbers `b m`, more than `longest`, or
    a mask of another shape.
    """
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"ids are {ids.dtype} of shape {ids.shape}, but they must be whole numbers "
            "of shape (batch, tokens)"
        )
    if longest is not None and ids.shape[1] > longest:
        raise ValueError(
            f"ids have {ids.shape[1]} tokens, but this encoder reads at most {longest}"
        )
    if mask is None:
        return jnp.ones(ids.shape, bool)
    if jnp.shape(mask) != ids.shape:
        raise ValueError(
            f"mask has shape {jnp.shape(mask)}, but it must be that of ids, {ids.shape}"
        )
    return jnp.asarray(mask).astype(bool)


def causal(mask: Bool[Array, "b m"]) -> Bool[Array, "b 1 m m"]:
    """Which real keys lie at or before each query."""
    tokens = mask.shape[1]
    return jnp.tril(jnp.ones((tokens, tokens), bool)) & mask[:, None, None, :]


def check(encoder: Any, *counts: str) -> None:
    """ValueError unless the named fields are positive, and the dtype is known."""
    for name in counts:
        if getattr(encoder, name) < 1:
            raise ValueError(f"{name} is {getattr(encoder, name)}, but it must be >= 1")
    if encoder.dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"dtype is {encoder.dtype!r}, but it must be 'float32' or 'bfloat16'"
        )


def check_heads(encoder: Any, dim: str, heads: str) -> None:
    """ValueError unless one count is a multiple of another."""
    whole, part = getattr(encoder, dim), getattr(encoder, heads)
    if whole % part:
        raise ValueError(f"{dim} {whole} is not a multiple of {heads} {part}")


def layer_index(layer: int, depth: int) -> int:
    """The place of a hidden state among `depth + 1`: 0 is before the first layer."""
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"layer is {layer}, but there are {depth + 1} hidden states: it must be "
            f"between {-depth - 1} and {depth}"
        )
    return layer % (depth + 1)
