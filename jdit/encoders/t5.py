# SPDX-License-Identifier: Apache-2.0
"""The encoder half of T5 and its kin."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.encoders.base import DType, Encoding, check, real, scale, table
from jdit.encoders.layers import (
    Activation,
    Attention,
    Layer,
    Mlp,
    RMSNorm,
    gelu_tanh,
    init_layers,
    norm_of,
    relu,
    run,
)
from jdit.linear import call
from jdit.typing import Array, Float, Int, Key, Params

_V1_1 = dict(
    small=dict(dim=512, depth=8, heads=6, hidden=1024),
    base=dict(dim=768, depth=12, heads=12, hidden=2048),
    large=dict(dim=1024, depth=24, heads=16, hidden=2816),
    xl=dict(dim=2048, depth=24, heads=32, hidden=5120),
    xxl=dict(dim=4096, depth=24, heads=64, hidden=10240),
)
_BYT5 = dict(
    small=dict(dim=1472, depth=12, heads=6, hidden=3584),
    base=dict(dim=1536, depth=18, heads=12, hidden=3968),
    large=dict(dim=1536, depth=36, heads=16, hidden=3840),
    xl=dict(dim=2560, depth=36, heads=32, hidden=6720),
    xxl=dict(dim=4672, depth=36, heads=64, hidden=12352),
)
_ORIGINAL = dict(
    small=dict(dim=512, depth=6, heads=8, hidden=2048),
    base=dict(dim=768, depth=12, heads=12, hidden=3072),
    large=dict(dim=1024, depth=24, heads=16, hidden=4096),
    xl=dict(dim=1024, depth=24, heads=32, width=128, hidden=16384),
    xxl=dict(dim=1024, depth=24, heads=128, width=128, hidden=65536),
)


@dataclass(frozen=True)
class T5Encoder:
    """T5's encoder: pre-norm RMSNorm layers, relative positions, logits not scaled.

    vocab: rows of the token table. dim, depth, heads: of the stream.
    width: of one head; heads x width need not be dim. hidden: of the MLP.
    activation, gated: of the MLP. v1.1, flan and mT5 gate with tanh-GELU, the first
        T5 has a plain ReLU.
    buckets, reach: relative positions fall into so many buckets, half of them for
        keys to the right; half of these are exact and the rest logarithmic up to
        `reach`, beyond which all is one bucket (Raffel et al., 2019, section 2.1).
    biases: the bucket's logit is learned per head, in the "first" layer for all of
        them, or in "each" layer (umT5).

    `apply(params, ids, mask)` gives the last hidden state after the final norm.
    Source: transformers 5.23, models/t5/modeling_t5.py, models/umt5.
    """

    vocab: int = 32128
    dim: int = 512
    depth: int = 8
    heads: int = 6
    width: int = 64
    hidden: int = 1024
    activation: Activation = gelu_tanh
    gated: bool = True
    buckets: int = 32
    reach: int = 128
    biases: Literal["first", "each"] = "first"
    eps: float = 1e-6
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        check(self, "vocab", "dim", "depth", "heads", "width", "hidden")
        if self.buckets < 4 or self.buckets % 4 or self.reach <= self.buckets // 4:
            raise ValueError(
                f"buckets is {self.buckets} and reach {self.reach}, but buckets must "
                "be a multiple of 4, and reach more than a quarter of them"
            )

    @property
    def features(self) -> int:
        return self.dim

    @property
    def layer(self) -> Layer:
        """One layer, as parts."""
        return Layer(
            Attention(
                self.heads, self.width, bias=False, out_bias=False, scale=1.0
            ),
            Mlp(self.hidden, self.activation, self.gated, bias=False),
            norm_of(RMSNorm, self.eps),
        )  # fmt: skip

    def init(self, key: Key) -> Params:
        """Random parameters."""
        token, layers, bias = jax.random.split(key, 3)
        count = () if self.biases == "first" else (self.depth,)
        shape = (*count, self.buckets, self.heads)
        return {
            "token": table(token, self.vocab, self.dim, 1.0),
            "bias": {"table": jax.random.normal(bias, shape) * self.dim**-0.5},
            "layers": init_layers(self.layer, layers, self.depth, self.dim),
            "norm": scale(self.dim, bias=False),
        }

    def apply(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Encoding:
        """Encode ids; `mask` `b m` says which are real, all if None."""
        return Encoding(self._walk(params, ids, mask)[-1].astype(jnp.float32))

    def hidden_states(
        self, params: Params, ids: Int[Array, "b m"], mask: Any = None
    ) -> Float[Array, "s b m d"]:
        """The embedding, the stream after each layer, the last one normalised."""
        first, taps, last = self._walk(params, ids, mask)
        states = jnp.concatenate([first[None], taps[:-1], last[None]])
        return states.astype(jnp.float32)

    def _walk(self, params: Params, ids: Array, mask: Any) -> tuple[Array, ...]:
        allowed = real(ids, mask)[:, None, None, :]
        first = params["token"]["table"][ids].astype(self.dtype)
        layer, index = self.layer, self.positions(ids.shape[1])
        tables = params["bias"]["table"]
        shared = self._bias(tables, index) if self.biases == "first" else None

        def step(weights: Params, x: Array, own: Any) -> Array:
            bias = self._bias(own, index) if own is not None else shared
            return call(layer, weights, x, allowed, bias)

        own = None if self.biases == "first" else tables
        x, taps = run(step, params["layers"], first, own)
        return first, taps, call(RMSNorm(self.eps), params["norm"], x)

    def _bias(self, rows: Array, index: np.ndarray) -> Float[Array, "1 h m m"]:
        return rearrange(rows[index], "n m h -> 1 h n m").astype(jnp.float32)

    def positions(self, tokens: int) -> Int[np.ndarray, "m m"]:
        """The bucket of each key as each query sees it, a constant.

        float32 as in the reference, because buckets are cut at rounded logarithms.
        """
        place = np.arange(tokens)
        offset = place[None, :] - place[:, None]
        side = self.buckets // 2
        exact, far = side // 2, np.maximum(np.abs(offset), 1).astype(np.float32)
        ratio = np.log(far / np.float32(exact)) / np.float32(np.log(self.reach / exact))
        steps = (ratio * np.float32(side - exact)).astype(np.int64)
        log = np.minimum(exact + steps, side - 1)
        bucket = np.where(np.abs(offset) < exact, np.abs(offset), log)
        return bucket + side * (offset > 0)


def t5(size: str = "xxl", *, dtype: DType = "float32") -> T5Encoder:
    """T5 v1.1's and flan-T5's encoder: small, base, large, xl or xxl (4.7e9)."""
    return T5Encoder(**_pick(size, _V1_1), dtype=dtype)


def t5_original(size: str = "large", *, dtype: DType = "float32") -> T5Encoder:
    """The first T5's encoder: small, base, large, xl ("3b") or xxl ("11b")."""
    sizes = _pick(size, _ORIGINAL)
    return T5Encoder(**sizes, activation=relu, gated=False, dtype=dtype)


def mt5(size: str = "xxl", *, dtype: DType = "float32") -> T5Encoder:
    """mT5's encoder (Xue et al., 2020): v1.1 with a vocabulary of 101 languages."""
    return T5Encoder(vocab=250112, **_pick(size, _V1_1), dtype=dtype)


def byt5(size: str = "small", *, dtype: DType = "float32") -> T5Encoder:
    """ByT5's encoder (Xue et al., 2021): v1.1 on bytes, which `Bytes` makes of text."""
    return T5Encoder(vocab=384, **_pick(size, _BYT5), dtype=dtype)


def umt5(size: str = "xxl", *, dtype: DType = "float32") -> T5Encoder:
    """umT5's encoder (Chung et al., 2023), which Wan reads: a bias in each layer."""
    sizes = _pick(size, _V1_1)
    return T5Encoder(vocab=256384, **sizes, biases="each", dtype=dtype)


def _pick(size: str, sizes: dict[str, dict[str, int]]) -> dict[str, Any]:
    if size not in sizes:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(sizes)}")
    return sizes[size]
