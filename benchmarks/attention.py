# SPDX-License-Identifier: Apache-2.0
"""Attention alone: jdit's implementations and PyTorch's SDPA, time and memory.

    python benchmarks/attention.py                # every shape of arg_specs.py
    python benchmarks/attention.py "4,096 tokens" # some

On a CPU, times are minima of CPU time on one core, forward and forward with gradients,
float32, so that another process on the machine does not change them much; memory is
XLA's own count of temporaries for the gradients.

On a GPU, times are medians of many calls in flight, bfloat16, and the batch is so large
that a forward pass is 0.1 TFLOP. Tokens lie outside heads, as in a model. TFLOP/s count
4 and 14 operations for each logit and unit of width, masked or not, beside what a large
product of matrices reaches in this run. "cuDNN" is jax.nn.dot_product_attention's,
which jdit's "cudnn" differs from in that its backward pass runs the forward one again.

PyTorch is optional.
"""

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import ceiling
from pairing import head, machine

from jdit.allocation import keep_freed_memory
from jdit.ops.attention.arg_specs import SPECS, Spec

CPU = ("reference", "recompute", "chunked")
GPU = ("pallas_gpu", "cudnn", "cuDNN", "recompute")


class Contestant(NamedTuple):
    """forward and both: one call, not waited for; mib: of temporaries, or None."""

    name: str
    forward: Callable[[], Any]
    both: Callable[[], Any]
    wait: Callable[[Any], Any]
    mib: float | None = None


def best(run: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """The least CPU time of one call, in ms."""
    wait(run())
    times: list[float] = []
    while len(times) < 3 or sum(times) < 1 and len(times) < 30:
        start = time.process_time()
        wait(run())
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def in_flight(run: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """The median over five rounds of the time of one call of many, in ms."""

    def several(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            out = run()
        wait(out)
        return (time.perf_counter() - start) / count

    several(3)
    count = max(5, min(200, round(0.05 / several(5))))
    return 1e3 * statistics.median(several(count) for _ in range(5))


def in_jax(names: tuple[str, ...], spec: Spec, dtype: Any) -> Iterator[Contestant]:
    """Each implementation that takes the shape."""
    import jax
    import jax.numpy as jnp

    from jdit import ops
    from jdit.ops.attention import reference

    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    shapes = [(b, n, h, width), (b, m, g, width), (b, m, g, width), (b, n, h, width)]
    keys = jax.random.split(jax.random.key(0), 4)
    pairs = zip(keys, shapes, strict=True)
    arrays = [jax.random.normal(key, shape, dtype) for key, shape in pairs]
    masks: dict[str, Any] = {}
    if spec.masked:
        masks["mask"] = (jnp.arange(m)[None] < m // 2).repeat(b, 0)
    if spec.segmented:
        halves = (jnp.arange(x)[None].repeat(b, 0) * 2 // x for x in (n, m))
        masks["segments"] = tuple(halves)

    def attend(name: str, q: Any, k: Any, v: Any) -> Any:
        if name == "cuDNN":
            seen = reference.visible(masks.get("mask"), masks.get("segments"))
            seen = None if seen is None else jnp.broadcast_to(seen, (b, 1, n, m))
            return jax.nn.dot_product_attention(
                q, k, v, mask=seen, implementation="cudnn"
            )
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        how: Any = {"implementation": name, **masks}
        return ops.attention(q, k, v, **how).swapaxes(1, 2)

    for name in names:
        run = partial(attend, name)

        def both(q: Any, k: Any, v: Any, bar: Any, run: Any = run) -> Any:
            return jax.vjp(run, q, k, v)[1](bar)

        try:
            forward = jax.jit(run).lower(*arrays[:3]).compile()
            gradients = jax.jit(both).lower(*arrays).compile()
        except (ValueError, NotImplementedError, RuntimeError) as error:
            print(f"{name} refuses: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        size = gradients.memory_analysis().temp_size_in_bytes / 2**20
        yield Contestant(
            name,
            partial(forward, *arrays[:3]),
            partial(gradients, *arrays),
            jax.block_until_ready,
            size,
        )


def in_torch(spec: Spec, device: str) -> Contestant:
    """SDPA, with the kernel that PyTorch chooses."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    torch.set_num_threads(1)
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    draw = partial(torch.randn, dtype=dtype, device=device)
    shapes = [(b, n, h, width), (b, m, g, width), (b, m, g, width)]
    qkv = [draw(shape, requires_grad=True) for shape in shapes]
    bar = draw(b, n, h, width)
    seen = None
    at_query, at_key = (torch.arange(x, device=device) for x in (n, m))
    if spec.masked:
        seen = (at_key < m // 2).expand(b, 1, 1, m)
    if spec.segmented:
        seen = ((at_query * 2 // n)[:, None] == at_key * 2 // m).expand(b, 1, n, m)

    def attend() -> Any:
        q, k, v = (x.transpose(1, 2) for x in qkv)
        out = sdpa(q, k, v, attn_mask=seen, enable_gqa=g != h)
        return out.transpose(1, 2)

    def forward() -> Any:
        with torch.no_grad():
            return attend()

    def both() -> Any:
        return torch.autograd.grad(attend(), qkv, bar)

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Contestant("SDPA", forward, both, wait)


def contestants(spec: Spec, gpu: bool) -> Iterator[Contestant]:
    yield from in_jax(GPU if gpu else CPU, spec, "bfloat16" if gpu else "float32")
    if importlib.util.find_spec("torch"):
        yield in_torch(spec, "cuda" if gpu else "cpu")


def on_cpu(labels: list[str]) -> None:
    print(head("shape", "implementation", "forward ms", "with gradients ms", "MiB"))
    for label in labels:
        for name, forward, both, wait, mib in contestants(SPECS[label], False):
            size = "" if mib is None else f"{mib:.0f}"
            times = f"{best(forward, wait):.1f} | {best(both, wait):.1f}"
            print(f"| {label} | {name} | {times} | {size} |", flush=True)


def on_gpu(labels: list[str]) -> None:
    seconds = 1e-3 * in_flight(ceiling.products(), lambda _: None)
    most = ceiling.FLOPS / seconds
    print(f"matrix product: {most / 1e12:.0f} TFLOP/s\n")
    names = "shape|batch|implementation|forward ms|TFLOP/s|of the ceiling"
    names += "|with gradients ms|TFLOP/s|of the ceiling"
    print(head(*names.split("|")), flush=True)
    for label in labels:
        spec = SPECS[label]
        once = 4 * spec.heads * spec.queries * spec.keys * spec.width
        spec = spec._replace(batch=max(spec.batch, round(1e11 / once)))
        for name, forward, both, wait, _ in contestants(spec, True):
            cells = [label, str(spec.batch), name]
            for run, work in ((forward, 1.0), (both, 3.5)):
                took = in_flight(run, wait)
                rate = work * once * spec.batch / (1e-3 * took)
                cells += [f"{took:.3f}", f"{rate / 1e12:.0f}", f"{rate / most:.0%}"]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # beside PyTorch
    labels = sys.argv[1:] or list(SPECS)
    import jax

    gpu = jax.default_backend() == "gpu"
    print(f"{jax.devices()[0].device_kind}; {machine()}\n")
    if gpu:
        return on_gpu(labels)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    on_cpu(labels)


if __name__ == "__main__":
    keep_freed_memory()
    main()
