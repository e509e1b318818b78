# SPDX-License-Identifier: Apache-2.0
"""Attention on an NVIDIA GPU by kernels of our own, written for Hopper.

Tokens lie outside heads, `b n h k`, as the products before and after attention give and
take them: a program that splits and joins heads there copies nothing. A head's width is
not padded in memory, and is cut into powers of two on the chip (72 = 64 + 16, 96 = 64 +
32), so that products are not padded to 128 either.

Forward, for each block of queries, over blocks of keys (online softmax: Milakov and
Gimelshein, 2018; Dao, 2023, algorithm 1), with `c = log2(e) / sqrt(width)`:

    s = q k^T        p = 2^(c s - c max)        out = p v / sum(p)

Backward, in one kernel for queries and one for keys, each over blocks of the other (so
gradients are summed in one order, and are the same every time; Dao, 2023, algorithm 2):

    p = 2^(c s - lse)      ds = p (do v^T - delta)      delta = sum(out do) - dlse
    dq = ds k / sqrt(width)      dk = ds^T q / sqrt(width)      dv = p^T do

Products of float32 follow `jax.default_matmul_precision`, as XLA's own do: TF32 unless
asked otherwise.

Written in Pallas's Triton dialect, which can be interpreted and compiled without a GPU.
No GPU has run it: see docs/performance.md for what its compilers say.
"""

from functools import cache, partial
from math import e, log2
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jdit.ops.attention import transformable
from jdit.ops.attention.pallas_gpu_kernels import (
    LEAST,
    NARROWEST,
    Blocks,
    Call,
    forward_kernel,
    keys_kernel,
    parts,
    queries_kernel,
)
from jdit.ops.attention.reference import Segments
from jdit.ops.attention.transformable import Kernels
from jdit.ops.platform import Spread, on_one_device, spread
from jdit.typing import Array, Bool, Float

_WIDE, _SMALL = Blocks(128, 128, 8, 2), Blocks(64, 64, 4, 2)

_BLOCKS: dict[tuple[int, int], tuple[Blocks, Blocks]] = {
    (2, 64): (Blocks(128, 64, 8, 2), _SMALL),
    (2, 96): (_WIDE, _SMALL),
    (2, 128): (_WIDE, Blocks(32, 64, 4, 2)),
    (2, 256): (Blocks(64, 64, 8, 2), Blocks(32, 32, 4, 2)),
    (4, 96): (Blocks(64, 32, 4, 2), Blocks(32, 64, 4, 2)),
    (4, 128): (Blocks(64, 32, 4, 2), Blocks(32, 32, 4, 2)),
    (4, 256): (Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2)),
}
"""By bytes of a number and the widest head: the largest blocks that spill no register
on Hopper, and leave room for a second program where they can (docs/performance.md)."""


def attention_with_lse(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b h n k"], Float[Array, "b h n"]]:
    """The reference with its log-sum-exp; heads of k and v may be fewer.

    interpret: run the kernels as plain JAX, slowly, on any device.
    """
    kernels = _kernels(interpret, None if on_one_device() else spread())
    out, lse = transformable.attention_with_lse(kernels, q, k, v, mask, segments)
    return out, lse


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    mask: Bool[Array, "b m"] | None = None,
    segments: Segments | None = None,
    interpret: bool = False,
) -> Float[Array, "b h n k"]:
    """The reference, likewise."""
    return attention_with_lse(q, k, v, mask, segments, interpret)[0]


@cache
def _kernels(interpret: bool, place: Spread | None) -> Kernels:
    return Kernels(
        partial(forward, interpret=interpret),
        partial(backward, interpret=interpret),
        place,
    )


def forward(
    q: Float[Array, "b g r n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    masks: dict[str, Any],
    *,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b g r n k"], Float[Array, "b g r n"]]:
    """Output and log-sum-exp; see `transformable.Kernels`."""
    call = _call(q, k, masks, blocks or blocks_for(k)[0])
    arrays = _operands(q, k, v, masks)
    rows = jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32)
    grid, like = _by_queries(call, q), {"q": arrays["q"], "lse": rows}
    out, lse = _run(call, forward_kernel, grid, arrays, like, interpret)
    return _outside(out), lse


def backward(
    q: Float[Array, "b g r n k"],
    k: Float[Array, "b g m k"],
    v: Float[Array, "b g m k"],
    masks: dict[str, Any],
    out: Float[Array, "b g r n k"],
    lse: Float[Array, "b g r n"],
    d_out: Float[Array, "b g r n k"],
    d_lse: Float[Array, "b g r n"],
    *,
    blocks: tuple[Blocks, Blocks] | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b g r n k"], Float[Array, "b g m k"], Float[Array, "b g m k"]]:
    """Gradients of q, k and v from those of output and log-sum-exp."""
    of_queries, of_keys = blocks or blocks_for(k)
    arrays = _operands(q, k, v, masks)
    arrays["d_out"] = _inside(d_out)
    arrays["lse"] = jnp.where(jnp.isneginf(lse), -LEAST, lse * log2(e))
    arrays["delta"] = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    arrays["delta"] -= d_lse
    call = _call(q, k, masks, of_queries)
    grid = _by_queries(call, q)
    like = {"q": arrays["q"]}
    (d_q,) = _run(call, queries_kernel, grid, arrays, like, interpret)
    call = _call(q, k, masks, of_keys)
    grid = pl.cdiv(call.m, call.blocks.keys), *k.shape[1::-1]
    like = {"k": arrays["k"], "v": arrays["v"]}
    d_k, d_v = _run(call, keys_kernel, grid, arrays, like, interpret)
    return _outside(d_q), _outside(d_k), _outside(d_v)


def _by_queries(call: Call, q: Array) -> tuple[int, ...]:
    return pl.cdiv(call.n, call.blocks.queries), *q.shape[2::-1]


def _run(
    call: Call, kernel: Any, grid: tuple[int, ...], arrays: dict[str, Array],
    like: dict[str, Any], interpret: bool,
) -> list[Array]:  # fmt: skip
    """The kernel's results, which are like these."""
    wide = sum(size for _, size in parts(call.width))

    def whole(name: str, x: Any) -> pl.BlockSpec:
        """All of it, and heads as wide as their parts together, which loads mask."""
        shape = (*x.shape[:-1], wide) if name in ("q", "k", "v", "d_out") else x.shape
        return pl.BlockSpec(shape, lambda *_: (0,) * x.ndim)

    return pl.pallas_call(
        partial(kernel, call, tuple(arrays)),
        grid=grid,
        in_specs=[whole(*pair) for pair in arrays.items()],
        out_specs=[whole(*pair) for pair in like.items()],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like.values()],
        compiler_params=plgpu.CompilerParams(
            num_warps=call.blocks.warps, num_stages=call.blocks.stages
        ),
        interpret=interpret,
        name=f"attention_{kernel.__name__}",
    )(*arrays.values())


def _operands(q: Array, k: Array, v: Array, masks: dict[str, Any]) -> dict[str, Array]:
    arrays = {"q": _inside(q), "k": _inside(k), "v": _inside(v)}
    if "mask" in masks:
        arrays["mask"] = masks["mask"].astype(jnp.int32)
    if "segments" in masks:
        of_queries, of_keys = (x.astype(jnp.int32) for x in masks["segments"])
        arrays.update(of_queries=of_queries, of_keys=of_keys)
    return arrays


def _inside(x: Array) -> Array:
    """Heads inside tokens, as the kernels want them."""
    return rearrange(x, "b ... n k -> b n ... k")


def _outside(x: Array) -> Array:
    return rearrange(x, "b n ... k -> b ... n k")


def _call(q: Array, k: Array, masks: dict[str, Any], blocks: Blocks) -> Call:
    m, width = k.shape[2:]
    sharing, n = q.shape[2:4]

    def fit(size: int, tokens: int) -> int:
        return min(size, max(NARROWEST, pl.next_power_of_2(tokens)))

    blocks = Blocks(
        fit(blocks.queries, n), fit(blocks.keys, m), blocks.warps, blocks.stages
    )
    masked, segmented = "mask" in masks, "segments" in masks
    return Call(sharing, n, m, width, masked, segmented, blocks)


def blocks_for(k: Float[Array, "b g m k"]) -> tuple[Blocks, Blocks]:
    """For a program that owns queries, and for one that owns keys.

    Raises ValueError for other numbers than those of 16 or 32 bits, and wider heads.
    """
    size, width = k.dtype.itemsize, k.shape[-1]
    for (bytes_each, widest), blocks in _BLOCKS.items():
        if size == bytes_each and width <= widest:
            return blocks
    raise ValueError(
        f"implementation is 'pallas_gpu', but keys are {k.dtype} with heads of width "
        f"{width}: it needs bfloat16, float16 or float32, and at most 256"
    )
