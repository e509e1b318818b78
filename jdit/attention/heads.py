# SPDX-License-Identifier: Apache-2.0
"""What every kind of attention does with its heads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate

import jax.numpy as jnp
from einops import rearrange

from jdit import ops
from jdit.tokens.positions import rotate
from jdit.typing import Array, Bool, Float

Rotary = tuple[Array, Array]
"""Cosines and sines of `jdit.tokens.rotary_table`, `n k/2`, or `b n k/2` by image.

With four axes, `b h n k/2`, they are by image and head, either of which may be 1."""

Tokens = tuple[Float[Array, "b _ _ k"], ...]
"""Heads of some tokens, and of those that follow them in one sequence: `b h n k`."""

Attention = Callable[[Tokens, Tokens, Tokens, Array | None], Tokens]
"""From queries, keys, values and which keys are real, `b m` of all, to outputs.

There may be fewer heads of keys and values (grouped-query attention)."""


def split_heads(x: Float[Array, "b n e"], heads: int) -> Float[Array, "b h n k"]:
    """The heads of a projection, first head first."""
    return rearrange(x, "b n (h k) -> b h n k", h=heads)


def turn(x: Float[Array, "b h n k"], rotary: Rotary | None) -> Float[Array, "b h n k"]:
    """Queries or keys turned by their positions; as they are for None."""
    if rotary is None:
        return x
    cos, sin = rotary
    if cos.ndim == 3:  # one table per image
        cos, sin = cos[:, None], sin[:, None]
    return rotate(x, (cos, sin))


def attend(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    rotary: Rotary | None = None,
    key_rotary: Rotary | None = None,
) -> Float[Array, "b n e"]:
    """Attention from heads to merged heads, `e = h k`.

    k, v: may have fewer heads g, a divisor of h: head i reads group i // (h / g)
        (grouped-query attention; Ainslie et al., 2023).
    mask: which keys are real. rotary: the positions of the queries, and of the keys
        unless `key_rotary` says theirs.
    """
    (out,) = attend_joined(
        [q], [k], [v], mask=mask, rotary=rotary, key_rotary=key_rotary
    )
    return out


def attend_joined(
    q: Sequence[Float[Array, "b h _ k"]],
    k: Sequence[Float[Array, "b g _ k"]],
    v: Sequence[Float[Array, "b g _ k"]],
    *,
    mask: Bool[Array, "b m"] | None = None,
    rotary: Rotary | None = None,
    key_rotary: Rotary | None = None,
) -> list[Float[Array, "b _ e"]]:
    """`attend` for several groups of tokens in one sequence, such as text and image.

    As if each list were concatenated; the output is again in the groups of q. Where a
    sequence is split over devices, each group is, so that joining them moves nothing.
    mask, rotary, key_rotary: of the whole sequence.
    """
    q = _turned(q, rotary)
    k = _turned(k, rotary if key_rotary is None else key_rotary)
    outputs = (_ATTENTION.get() or attend_whole)(q, k, tuple(v), mask)
    return [rearrange(x, "b h n k -> b n (h k)") for x in outputs]


def attend_whole(q: Tokens, k: Tokens, v: Tokens, mask: Array | None) -> Tokens:
    """The plain attention: all tokens at once, by `jdit.ops.attention`."""
    lengths = [x.shape[2] for x in q]
    one_q, one_k, one_v = (
        x[0] if len(x) == 1 else jnp.concatenate(x, 2) for x in (q, k, v)
    )
    out = ops.attention(one_q, one_k, one_v, mask=mask)
    if len(lengths) == 1:
        return (out,)
    return tuple(jnp.split(out, list(accumulate(lengths))[:-1], 2))


@contextmanager
def attending(by: Attention | None) -> Iterator[None]:
    """Within it, models are traced with this attention; None is the plain one.

    So a plan of many devices reaches the attention of models that know of none.
    """
    token = _ATTENTION.set(by)
    try:
        yield
    finally:
        _ATTENTION.reset(token)


_ATTENTION: ContextVar[Attention | None] = ContextVar("attention", default=None)


def _turned(parts: Sequence[Array], rotary: Rotary | None) -> Tokens:
    if rotary is None or len(parts) == 1:
        return tuple(turn(x, rotary) for x in parts)
    turned, first = [], 0
    for x in parts:
        cos, sin = (table[..., first : first + x.shape[2], :] for table in rotary)
        turned.append(turn(x, (cos, sin)))
        first += x.shape[2]
    return tuple(turned)
