# SPDX-License-Identifier: Apache-2.0
"""Attention on a TPU by one kernel each way, with logits that never leave the chip.

Everything is transposed: tokens lie along the 128 lanes and the width of a head along
sublanes, `b h k n`. So heads of 64, 72 or 96 fill whole tiles, in main memory too,
where `b h n k` would be padded to 128. Logits are `m n`: softmax reduces over sublanes,
which needs no exchange between lanes; maxima, sums and log-sum-exp are rows.

Forward, for each block of queries, over blocks of keys (online softmax: Milakov and
Gimelshein, 2018; Dao et al., 2022, algorithm 1), in powers of two:

    s = k^T q log2(e) / sqrt(width)        p = 2^(s - max)        out = v p / sum(p)

Backward, in one kernel (five products, not seven; Dao, 2023, algorithm 2):

    p = 2^(s - lse)      dv = do p^T      ds = p (v^T do - delta)
    dk = q ds^T          dq = k ds        delta = sum(out do) - dlse
"""

from collections.abc import Callable
from functools import cache, partial
from math import e, log2
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jdit.ops.attention import transformable
from jdit.ops.attention.pallas_tpu_kernels import (
    LANES,
    LEAST,
    Blocks,
    Call,
    backward_kernel,
    forward_kernel,
)
from jdit.ops.attention.reference import Segments
from jdit.ops.attention.transformable import Kernels
from jdit.ops.platform import Spread, on_one_device, spread
from jdit.typing import Array, Bool, Float


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
    call = _call(q, k, masks, blocks, interpret, backward=False)
    here = call.blocks
    specs, arrays = _operands(call, q, k, v, masks, _forward_index)
    one, row = specs["q"], _rows(call, _forward_index)
    size = call.batch * call.groups * call.sharing
    shape = (call.batch, call.groups, call.sharing)
    scratch = [
        pltpu.VMEM((here.heads, sublanes, here.queries), jnp.float32)
        for sublanes in (call.width, 1, 1)
    ]
    kernel = partial(forward_kernel, call, tuple(specs))
    out, lse = pl.pallas_call(
        kernel,
        grid=(
            call.batch, call.groups // here.heads, call.sharing,
            pl.cdiv(call.n, here.queries), call.steps,
        ),
        in_specs=list(specs.values()),
        out_specs=[one, row],
        out_shape=[
            jax.ShapeDtypeStruct((*shape, call.width, call.n), q.dtype),
            jax.ShapeDtypeStruct((*shape, 1, call.n), jnp.float32),
        ],
        scratch_shapes=scratch if call.steps > 1 else [],
        compiler_params=_params("parallel", "parallel", "parallel", "parallel"),
        cost_estimate=pl.CostEstimate(
            flops=4 * size * call.n * call.m * call.width,
            transcendentals=size * call.n * call.m,
            bytes_accessed=2 * (q.nbytes + k.nbytes) + 4 * size * call.n,
        ),
        interpret=call.interpret,
        name="attention_forward",
    )(*arrays)  # fmt: skip
    return out.swapaxes(-1, -2), lse[..., 0, :]


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
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b g r n k"], Float[Array, "b g m k"], Float[Array, "b g m k"]]:
    """Gradients of q, k and v from those of output and log-sum-exp."""
    call = _call(q, k, masks, blocks, interpret, backward=True)
    here = call.blocks
    specs, arrays = _operands(call, q, k, v, masks, _backward_index)
    one, row = specs["q"], _rows(call, _backward_index)
    specs.update(out=one, d_out=one, lse=row, d_lse=row)
    lse = jnp.where(jnp.isneginf(lse), -LEAST, lse * log2(e))
    arrays += [x.swapaxes(-1, -2) for x in (out, d_out)]
    arrays += [x[..., None, :] for x in (lse, d_lse)]
    size = call.batch * call.groups * call.sharing
    shape = (call.batch, call.groups, call.sharing, call.width, call.n)
    part = jnp.float32 if call.steps > 1 else q.dtype
    blocked = pl.cdiv(call.n, here.queries)
    sums = pltpu.VMEM((here.heads, call.width, here.resident), jnp.float32)
    kernel = partial(backward_kernel, call, tuple(specs))
    d_q, d_k, d_v = pl.pallas_call(
        kernel,
        grid=(
            call.batch, call.groups // here.heads, call.steps, call.sharing, blocked,
        ),
        in_specs=list(specs.values()),
        out_specs=[
            pl.BlockSpec(
                (1, 1, here.heads, 1, call.width, here.queries),
                lambda b, g, j, r, i: (j, b, g, r, 0, i),
            ),
            specs["k"],
            specs["v"],
        ],
        out_shape=[
            jax.ShapeDtypeStruct((call.steps, *shape), part),
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[1:3]),
        ],
        scratch_shapes=[sums, sums] if call.sharing * blocked > 1 else [],
        compiler_params=_params("parallel", "parallel", "parallel", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=10 * size * call.n * call.m * call.width,
            transcendentals=size * call.n * call.m,
            bytes_accessed=4 * (q.nbytes + k.nbytes) + 8 * size * call.n,
        ),
        interpret=call.interpret,
        name="attention_backward",
    )(*arrays)  # fmt: skip
    d_q = d_q[0] if call.steps == 1 else d_q.sum(0).astype(q.dtype)
    d_q, d_k, d_v = (x.swapaxes(-1, -2) for x in (d_q, d_k, d_v))
    return d_q, d_k, d_v


def _params(*semantics: Any) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=(*semantics, "arbitrary"),
        vmem_limit_bytes=48 * 2**20,
    )


def _forward_index(b: Any, g: Any, r: Any, i: Any, j: Any) -> tuple[Any, ...]:
    return b, g, r, i, j


def _backward_index(b: Any, g: Any, j: Any, r: Any, i: Any) -> tuple[Any, ...]:
    return b, g, r, i, j


def _operands(
    call: Call,
    q: Array,
    k: Array,
    v: Array,
    masks: dict[str, Any],
    index: Callable[..., tuple[Any, ...]],
) -> tuple[dict[str, pl.BlockSpec], list[Array]]:
    """The blocks of what both kernels read, by name, and the arrays, transposed.

    index: from a grid's place to image, block of groups, head of a group, block of
    queries, and block of keys.
    """
    here = call.blocks

    def spec(block: tuple[int, ...], choose: Callable[..., Any]) -> pl.BlockSpec:
        return pl.BlockSpec(block, lambda *at: choose(*index(*at)))

    keys = spec(
        (1, here.heads, call.width, here.resident), lambda b, g, r, i, j: (b, g, 0, j)
    )
    row = spec((1, 1, here.resident), lambda b, g, r, i, j: (b, 0, j))
    specs = {
        "q": spec(
            (1, here.heads, 1, call.width, here.queries),
            lambda b, g, r, i, j: (b, g, r, 0, i),
        ),
        "k": keys,
        "v": keys,
    }
    arrays = [x.swapaxes(-1, -2) for x in (q, k, v)]
    if call.masked:
        specs["mask"] = row
        bias = jnp.where(masks["mask"], 0, LEAST).astype(jnp.float32)
        arrays.append(bias[:, None])
    if call.segmented:
        specs["of_queries"] = spec(
            (1, 1, here.queries), lambda b, g, r, i, j: (b, 0, i)
        )
        specs["of_keys"] = row
        arrays += [x.astype(jnp.int32)[:, None] for x in masks["segments"]]
    return specs, arrays


def _rows(call: Call, index: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
    """The block of a number for each query, such as the log-sum-exp."""

    def choose(*at: Any) -> tuple[Any, ...]:
        b, g, r, i, _ = index(*at)
        return b, g, r, 0, i

    return pl.BlockSpec((1, call.blocks.heads, 1, 1, call.blocks.queries), choose)


def _call(
    q: Array,
    k: Array,
    masks: dict[str, Any],
    blocks: Blocks | None,
    interpret: bool,
    *,
    backward: bool,
) -> Call:
    batch, groups, m, width = k.shape
    sharing, n = q.shape[2:4]
    return Call(
        batch,
        groups,
        sharing,
        n,
        m,
        width,
        masked="mask" in masks,
        segmented="segments" in masks,
        blocks=blocks or blocks_for(k, n),
        axis=2 if backward else 4,
        interpret=interpret,
    )


def blocks_for(k: Float[Array, "b g m k"], n: int) -> Blocks:
    """What a step should work on: about a million logits, keys kept where they fit."""
    _, groups, m, width = k.shape
    queries, keys = _even(n, 1024), _even(m, 512)
    most = 2**21 // (max(width, LANES) * k.dtype.itemsize)
    steps = pl.cdiv(m, keys * (most // keys))
    resident = keys * pl.cdiv(pl.cdiv(m, steps), keys)
    fits = [
        heads
        for heads in range(1, groups + 1)
        if groups % heads == 0 and heads * queries * resident <= 2**20
    ]
    return Blocks(max(fits, default=1), queries, keys, resident)


def _even(count: int, most: int) -> int:
    """The largest whole number of lanes, at most so many, that leaves least over."""
    sizes = range(LANES, min(most, LANES * pl.cdiv(count, LANES)) + 1, LANES)
    return min(reversed(sizes), key=lambda size: pl.cdiv(count, size) * size)
