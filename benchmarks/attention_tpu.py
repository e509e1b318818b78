# SPDX-License-Identifier: Apache-2.0
"""Attention as the TPU's compiler schedules it, without a TPU.

    python benchmarks/attention_tpu.py v5e                   # all of arg_specs.py
    python benchmarks/attention_tpu.py v5p "packed images"   # some

Needs libtpu (`pip install 'jdit[tpu]'`) and a CPU. What a time is: tpu_schedules.py.

Columns, forward + backward in milliseconds: our kernels, with all that XLA does beside
them; the kernels inside JAX (jax.experimental.pallas.ops.tpu.flash_attention) alone,
with the best of several block sizes, named; the same with XLA's part, which turns
operands round and spreads sums over lanes; and the reference, which XLA makes fusions
of and whose backward pass computes the softmax again.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tpu_schedules import SLICES, launches  # first: it sets libtpu up

# isort: split
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as shipped
from jax.sharding import SingleDeviceSharding

from jdit.compile import Topology, topology
from jdit.ops.attention import pallas_tpu, reference
from jdit.ops.attention.arg_specs import SPECS, Spec


class Case(NamedTuple):
    """The arguments of forward and backward, and their masks by name."""

    operands: tuple[Any, ...]
    results: tuple[Any, ...]
    masks: dict[str, Any]


def case(spec: Spec, device: Any, dtype: Any = jnp.bfloat16) -> Case:
    """As `transformable.Kernels` takes them, but widths before tokens."""
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    shape = partial(
        jax.ShapeDtypeStruct, dtype=dtype, sharding=SingleDeviceSharding(device)
    )
    q, k = shape((b, g, h // g, width, n)), shape((b, g, width, m))
    masks: dict[str, Any] = {}
    if spec.masked:
        masks["mask"] = shape((b, m), dtype=jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(shape((b, x), dtype=jnp.int32) for x in (n, m))
    lse = shape((b, g, h // g, n), dtype=jnp.float32)
    return Case((q, k, k), (q, lse, q, lse), masks)


def _turned(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.swapaxes(-1, -2) if x.ndim > 3 else x, tree)


class Times(NamedTuple):
    """Milliseconds."""

    forward: float
    backward: float

    def __str__(self) -> str:
        return f"{self.forward:.3f} + {self.backward:.3f}"


def ours(spec: Spec, place: Topology) -> Times:
    """With what XLA does beside the kernels."""
    found = case(spec, place.devices[0])

    def forward(q: Any, k: Any, v: Any, masks: Any) -> Any:
        out, lse = pallas_tpu.forward(*_turned((q, k, v)), masks)
        return _turned(out), lse

    def backward(q: Any, k: Any, v: Any, masks: Any, *rest: Any) -> Any:
        out, lse, d_out, d_lse = rest
        given = *_turned((q, k, v)), masks, _turned(out), lse, _turned(d_out), d_lse
        return _turned(pallas_tpu.backward(*given))

    arguments = *found.operands, found.masks
    both = (
        launches(forward, place, *arguments),
        launches(backward, place, *arguments, *found.results),
    )
    return Times(*(sum(x.ms for x in each) for each in both))


def _arrays(spec: Spec, place: Topology) -> tuple[list[Any], dict[str, Any]]:
    """q, k, v and a cotangent, and masks. All heads have keys of their own."""
    b, h, n, m, width = spec[:5]
    where = SingleDeviceSharding(place.devices[0])
    sizes = [(b, h, n, width), (b, h, m, width), (b, h, m, width), (b, h, n, width)]
    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=where) for s in sizes]
    return arrays, case(spec, place.devices[0]).masks


def _gradients(attend: Callable[..., Any]) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, bar: Any, masks: Any) -> Any:
        out, vjp = jax.vjp(lambda *a: attend(*a, masks), q, k, v)
        return out, vjp(bar)

    return run


def xla(spec: Spec, place: Topology) -> Times:
    """The softmax computed again in the backward pass, as jdit does without kernels."""
    arrays, masks = _arrays(spec, place)

    def attend(q: Any, k: Any, v: Any, masks: Any) -> Any:
        return reference.attention(q, k, v, masks.get("mask"), masks.get("segments"))

    attend = jax.checkpoint(attend)
    forward, both = (
        sum(x.ms for x in each)
        for each in (
            launches(attend, place, *arrays[:3], masks),
            launches(_gradients(attend), place, *arrays, masks),
        )
    )
    return Times(forward, both - forward)


def flash(
    spec: Spec, place: Topology, block: int, images: int = 1
) -> tuple[Times, float] | None:
    """The kernels that JAX ships, and their whole program; None where they refuse.

    block: of queries and keys, everywhere. images: a step's, forward.
    """
    queries, keys = min(block, spec.queries), min(block, spec.keys)
    blocks = shipped.BlockSizes(
        queries, keys, keys, images,
        queries, keys, keys, queries, keys, keys, queries,
    )  # fmt: skip

    def attend(q: Any, k: Any, v: Any, masks: Any) -> Any:
        ids = None
        if "segments" in masks:
            ids = shipped.SegmentIds(*masks["segments"])
        elif "mask" in masks:
            ones = jnp.ones((q.shape[0], q.shape[2]), jnp.int32)
            ids = shipped.SegmentIds(ones, masks["mask"].astype(jnp.int32))
        scale = spec.width**-0.5
        return shipped.flash_attention(
            q, k, v, segment_ids=ids, sm_scale=scale, block_sizes=blocks
        )

    arrays, masks = _arrays(spec, place)
    try:
        found = launches(_gradients(attend), place, *arrays, masks)
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    pallas = [x for x in found if x.pallas]
    backward = sum(x.ms for x in pallas if "_bwd_" in x.name)
    alone = Times(sum(x.ms for x in pallas) - backward, backward)
    return alone, sum(x.ms for x in found)


def tried(spec: Spec) -> list[tuple[int, int]]:
    """Block sizes, and images at a time, that the shipped kernels may like."""
    sizes = [x for x in (256, 512, 1024) if spec.queries % x == spec.keys % x == 0]
    found = [(block, 1) for block in sizes[-2:]]
    return [*found, (256, 4)] if spec.queries == spec.keys == 256 else found


def main() -> None:
    kind, *labels = sys.argv[1:]
    place = topology(SLICES[kind])
    print("| shape | ours | shipped, kernels alone | whole | blocks | XLA |")
    print("|---|---|---|---|---|---|", flush=True)
    for label in labels or SPECS:
        spec, cells = SPECS[label], ["refuses", "", ""]
        all_of = {blocks: flash(spec, place, *blocks) for blocks in tried(spec)}
        held = {blocks: x for blocks, x in all_of.items() if x}
        if held:
            best = min(held, key=lambda blocks: sum(held[blocks][0]))
            alone, whole = held[best]
            cells = [str(alone), f"{whole:.3f}", " x ".join(map(str, best))]
        row = [label, str(ours(spec, place)), *cells, str(xla(spec, place))]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
