# SPDX-License-Identifier: Apache-2.0
"""Kernels for attention and its gradients as one function, under all of JAX.

`jax.custom_vjp` would stop at forward mode, a kernel at `vmap` of a mesh, and XLA at
splitting a kernel over devices. Here:

    reverse mode   runs the backward kernel: the tangent of a call is a primitive whose
                   transpose is that kernel
    forward mode   computes the same tangent without kernels
    second order   likewise; not reverse over reverse mode through `lax.scan`, which
                   drops the rules it met first: take "recompute" there
    vmap           joins the mapped axis with the batch
    a mesh         images and heads stay where they are split; tokens are whole
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from jdit.ops.attention import chunked, reference
from jdit.ops.platform import Spread
from jdit.typing import Array

Results = tuple[Array, ...]


@dataclass(frozen=True)
class Kernels:
    """What computes: static, and hashed by what it is made of.

    forward: `(q, k, v, masks)` to `(out, lse)`. backward: `(q, k, v, masks, out, lse,
    d_out, d_lse)` to gradients of q, k and v. Queries are `b g r n k`, r heads for each
    of k and v's, `b g m k`; log-sum-exp `b g r n`; masks a dict of `mask` and
    `segments`, each if given. place: how images and heads are split over a mesh, if
    they are and the call is not inside `jax.shard_map`.
    """

    forward: Callable[..., Results]
    backward: Callable[..., Results]
    place: Spread | None = None


def attention_with_lse(
    kernels: Kernels,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    segments: reference.Segments | None = None,
) -> Results:
    """`kernels.forward`, `b h n k` and `b g m k` to `b h n k` and `b h n`."""
    given: dict[str, Any] = {"mask": mask, "segments": segments}
    masks = {name: x for name, x in given.items() if x is not None}
    q = rearrange(q, "b (g r) n k -> b g r n k", g=k.shape[1])
    out, lse = _attend(kernels, q, k, v, masks)
    join = partial(rearrange, pattern="b g r ... -> b (g r) ...")
    return join(out), join(lse)


def plain(q: Array, k: Array, v: Array, masks: dict[str, Any]) -> Results:
    """The same without kernels, which every transformation passes through."""
    r, n = q.shape[2:4]
    segments = masks.get("segments")
    if segments is not None:
        segments = jnp.tile(segments[0], (1, r)), segments[1]
    q = rearrange(q, "b g r n k -> b g (r n) k")
    long = n * k.shape[2] >= chunked.LONG
    run = (chunked if long else reference).attention_with_lse
    out, lse = run(q, k, v, masks.get("mask"), segments)
    split = partial(rearrange, pattern="b g (r n) ... -> b g r n ...", r=r)
    return split(out), split(lse)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(
    kernels: Kernels, q: Array, k: Array, v: Array, masks: dict[str, Any]
) -> Results:
    return _anywhere(partial(_forward, kernels), kernels.place, 2)(q, k, v, masks)


@_attend.defjvp
def _attend_jvp(
    kernels: Kernels, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Results, Results]:
    out, lse = _attend(kernels, *primals)
    known, tree = jax.tree.flatten((*primals, out, lse))
    d_out, d_lse = _tangent.bind(*tangents[:3], *known, kernels=kernels, tree=tree)
    return (out, lse), (d_out, d_lse)


_tangent = Primitive("attention_tangent")
"""From tangents of q, k and v, and all that is known, to those of the results."""

_tangent.multiple_results = True


@_tangent.def_impl
def _tangent_plain(*operands: Array, kernels: Kernels, tree: Any) -> list[Array]:
    d_q, d_k, d_v, *known = operands
    q, k, v, masks, _, _ = jax.tree.unflatten(tree, known)
    run = partial(plain, masks=masks)
    return list(jax.jvp(run, (q, k, v), (d_q, d_k, d_v))[1])


@_tangent.def_abstract_eval
def _tangent_shapes(*operands: Any, kernels: Kernels, tree: Any) -> list[Any]:
    *_, out, lse = operands
    return [out, lse]


def _tangent_jvp(primals: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
    """Of second order: the plain tangent's own."""
    moved = [
        i
        for i, (x, t) in enumerate(zip(primals, tangents, strict=True))
        if jnp.issubdtype(x.dtype, jnp.floating) and not isinstance(t, ad.Zero)
    ]

    def run(*some: Array) -> list[Array]:
        full = list(primals)
        for i, x in zip(moved, some, strict=True):
            full[i] = x
        return _tangent_plain(*full, **static)

    at, along = ([x[i] for i in moved] for x in (primals, tangents))
    return jax.jvp(run, at, along)


def _tangent_transpose(
    cotangents: Any, *operands: Any, kernels: Kernels, tree: Any
) -> list[Array | None]:
    known = operands[3:]
    bars = [
        jnp.zeros(x.shape, x.dtype) if isinstance(bar, ad.Zero) else bar
        for bar, x in zip(cotangents, known[-2:], strict=True)
    ]
    q, k, v, masks, out, lse = jax.tree.unflatten(tree, known)
    found = _gradients(kernels, q, k, v, masks, out, lse, *bars)
    wanted = [ad.is_undefined_primal(x) for x in operands[:3]]
    pairs = zip(found, wanted, strict=True)
    return [x if on else None for x, on in pairs] + [None] * len(known)


def _tangent_batched(
    operands: Any, axes: Any, **static: Any
) -> tuple[list[Array], list[int]]:
    pairs = list(zip(operands, axes, strict=True))
    (size,) = {x.shape[axis] for x, axis in pairs if axis is not None}
    joined = [
        _join(x if axis is None else jnp.moveaxis(x, axis, 0), axis is not None, size)
        for x, axis in pairs
    ]
    found = _tangent.bind(*joined, **static)
    return [_parted(x, size) for x in found], [0] * len(found)


ad.primitive_jvps[_tangent] = _tangent_jvp
ad.primitive_transposes[_tangent] = _tangent_transpose
batching.primitive_batchers[_tangent] = _tangent_batched
mlir.register_lowering(_tangent, mlir.lower_fun(_tangent_plain, multiple_results=True))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradients(kernels: Kernels, *operands: Any) -> Results:
    return _anywhere(partial(_backward, kernels), kernels.place, 3)(*operands)


@_gradients.defjvp
def _gradients_jvp(kernels: Kernels, primals: Any, tangents: Any) -> tuple[Any, Any]:
    q, k, v, masks, out, lse, *bars = primals

    def run(q: Array, k: Array, v: Array, *bars: Array) -> Results:
        return jax.vjp(partial(plain, masks=masks), q, k, v)[1](tuple(bars))

    moved = (*tangents[:3], *tangents[6:])
    return _gradients(kernels, *primals), jax.jvp(run, (q, k, v, *bars), moved)[1]


def _forward(kernels: Kernels, *operands: Any) -> Results:
    return kernels.forward(*operands)


def _backward(kernels: Kernels, *operands: Any) -> Results:
    return kernels.backward(*operands)


def _anywhere(
    run: Callable[..., Results], place: Spread | None, results: int
) -> Callable[..., Results]:
    """A function of arrays with a leading batch, mapped or split over a mesh."""
    mapped = custom_vmap(_split(run, place, results))

    @mapped.def_vmap
    def rule(size: int, on: Any, *operands: Any) -> tuple[Results, Any]:
        joined = jax.tree.map(lambda x, b: _join(x, b, size), operands, tuple(on))
        found = tuple(_parted(x, size) for x in mapped(*joined))
        return found, (True,) * len(found)

    return mapped


def _join(x: Array, mapped: bool, size: int) -> Array:
    """The mapped axis and the batch as one."""
    if not mapped:
        x = jnp.broadcast_to(x, (size, *x.shape))
    return x.reshape(size * x.shape[1], *x.shape[2:])


def _parted(x: Array, size: int) -> Array:
    return x.reshape(size, x.shape[0] // size, *x.shape[1:])


def _split(
    run: Callable[..., Results], place: Spread | None, results: int
) -> Callable[..., Results]:
    """`run` on each device's images and heads."""
    if place is None:
        return run

    def call(q: Array, k: Array, *rest: Any) -> Results:
        divided = (
            size % part for size, part in zip(k.shape, place.parts, strict=False)
        )
        axes = (place.examples, place.heads)
        over = [
            None if left else axis for left, axis in zip(divided, axes, strict=True)
        ]

        def spec(x: Array) -> PartitionSpec:
            return PartitionSpec(*(over if x.ndim > 3 else over[:1]))

        operands = (q, k, *rest)
        return jax.shard_map(
            run,
            mesh=place.mesh,
            in_specs=jax.tree.map(spec, operands),
            out_specs=(PartitionSpec(*over),) * results,
            check_vma=False,
        )(*operands)

    return call
