# SPDX-License-Identifier: Apache-2.0
"""Attention alone: jdit's implementations and PyTorch's SDPA, time and memory.

    python benchmarks/attention.py                # every shape of arg_specs.py
    python benchmarks/attention.py "4,096 tokens" # some

Times are minima of CPU time on one core, forward and forward with gradients, so that
another process on the machine does not change them much; memory is XLA's own count of
temporaries for the gradients.
"""

import os
import sys
import time
from collections.abc import Callable

from jdit.allocation import keep_freed_memory


def best(run: Callable[[], object], seconds: float = 1.0) -> float:
    """The least CPU time of one call, in ms."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds and len(times) < 30:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    keep_freed_memory()
    import jax
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    from jdit import ops
    from jdit.ops.attention.arg_specs import SPECS

    torch.set_num_threads(1)
    print("| shape | implementation | forward ms | with gradients ms | MiB |")
    print("|---|---|---|---|---|")
    for label in sys.argv[1:] or SPECS:
        b, h, n, m, width, masked, *_ = SPECS[label]
        keys = jax.random.split(jax.random.key(0), 4)
        shapes = [(b, h, n, width), (b, h, m, width), (b, h, m, width)]
        shapes.append(shapes[0])
        pairs = zip(keys, shapes, strict=True)
        arrays = [jax.random.normal(key, shape) for key, shape in pairs]
        mask = (jax.numpy.arange(m)[None] < m // 2).repeat(b, 0) if masked else None
        for name in ("reference", "recompute", "chunked"):

            def attend(q, k, v, name=name, mask=mask):
                return ops.attention(q, k, v, mask=mask, implementation=name)

            def both(q, k, v, bar, attend=attend):
                return jax.vjp(attend, q, k, v)[1](bar)

            forward = jax.jit(attend).lower(*arrays[:3]).compile()
            gradients = jax.jit(both).lower(*arrays).compile()
            size = gradients.memory_analysis().temp_size_in_bytes / 2**20
            once = best(lambda f=forward, a=arrays: jax.block_until_ready(f(*a[:3])))
            twice = best(lambda f=gradients, a=arrays: jax.block_until_ready(f(*a)))
            print(f"| {label} | {name} | {once:.1f} | {twice:.1f} | {size:.0f} |")
        *qkv, bar = (torch.randn(shape, requires_grad=True) for shape in shapes)
        seen = None if mask is None else torch.from_numpy(jax.device_get(mask).copy())
        seen = None if seen is None else seen[:, None, None, :]

        def torch_forward(qkv=qkv, seen=seen):
            with torch.no_grad():
                return sdpa(*qkv, attn_mask=seen)

        def torch_both(qkv=qkv, bar=bar, seen=seen):
            return torch.autograd.grad(sdpa(*qkv, attn_mask=seen), qkv, bar)

        once, twice = best(torch_forward), best(torch_both)
        print(f"| {label} | SDPA | {once:.1f} | {twice:.1f} | |", flush=True)


if __name__ == "__main__":
    main()
