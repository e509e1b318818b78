# SPDX-License-Identifier: Apache-2.0
"""Our attention kernels as the GPU's compilers leave them, without a GPU.

    python benchmarks/attention_hopper.py                     # all of arg_specs.py
    python benchmarks/attention_hopper.py "packed images"     # some
    python benchmarks/attention_hopper.py --blocks 128,64,8,2 "4,096 tokens"
    python benchmarks/attention_hopper.py --time "4,096 tokens"      # on a GPU

Needs JAX's CUDA plugin (`pip install 'jdit[cuda]'`) and a CPU. XLA compiles each kernel
for a Hopper GPU that is not there, and writes out its PTX and the shared memory it asks
for; ptxas says what becomes of that: registers of a thread, bytes that it spills to
memory for want of registers, and whether it had to serialise the matrix unit's
instructions. Programs are how many fit on a multiprocessor at a time, by registers and
by shared memory. None of it is a time; `--time`, for which there must be a GPU, times
each kernel at several blocks, to choose `pallas_gpu`'s by.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from attention import in_flight
from jax.sharding import SingleDeviceSharding
from pairing import head, machine

from jdit.compile.hopper import hopper
from jdit.ops.attention import pallas_gpu
from jdit.ops.attention.arg_specs import SPECS, Spec
from jdit.ops.attention.pallas_gpu_kernels import Blocks

REGISTERS, SHARED, RESERVED = 65536, 233472, 1024
"""Of a multiprocessor: registers, bytes of shared memory, and those a program loses."""

ORDER = ("forward", "queries", "keys")

CANDIDATES = tuple(
    Blocks(queries, keys, warps, stages)
    for queries, keys, warps in (
        (64, 64, 4), (128, 64, 4), (128, 64, 8), (64, 128, 4), (128, 128, 8),
        (32, 64, 4), (64, 128, 8),
    )
    for stages in (2, 3)
)  # fmt: skip


class Kernel(NamedTuple):
    """One kernel, compiled; products: the matrix unit's instructions and how many."""

    name: str
    threads: int
    registers: int
    spilled: int
    shared: int
    serialised: bool
    products: Counter[str]

    @property
    def programs(self) -> int:
        by_registers = REGISTERS // (self.registers * self.threads)
        return min(by_registers, SHARED // (self.shared + RESERVED))


def ptxas() -> str:
    """The assembler: the one that came with the plugin, or the machine's."""
    import nvidia

    for folder in map(Path, nvidia.__path__):
        for path in sorted(folder.glob("*/bin/ptxas")):
            return str(path)
    found = shutil.which("ptxas")
    if found is None:
        raise SystemExit("ptxas is not installed: pip install 'jdit[cuda]'")
    return found


def assembled(path: Path) -> tuple[int, int, bool]:
    """Registers, bytes spilled, and whether products were serialised."""
    command = [ptxas(), "-arch=sm_90a", "-v", str(path), "-o", f"{path}.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert registers and spilled
    return int(registers[1]), int(spilled[1]) + int(spilled[2]), "C7511" in said


def kernels(spec: Spec, dtype: Any, blocks: Blocks | None = None) -> list[Kernel]:
    """Forward and both of backward, at these or the usual blocks."""
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    shape = partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(hopper()))
    q, k = shape((b, g, h // g, n, width), dtype), shape((b, g, m, width), dtype)
    rows = shape(q.shape[:-1], jnp.float32)
    masks: dict[str, Any] = {}
    if spec.masked:
        masks["mask"] = shape((b, m), jnp.bool_)
    if spec.segmented:
        masks["segments"] = tuple(shape((b, x), jnp.int32) for x in (n, m))
    both = (blocks, blocks) if blocks else None
    calls = [
        (partial(pallas_gpu.forward, blocks=blocks), ()),
        (partial(pallas_gpu.backward, blocks=both), (q, rows, q, rows)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for call, rest in calls:
            lowered = jax.jit(call).lower(q, k, k, masks, *rest)
            options = {"xla_dump_to": folder, "xla_gpu_autotune_level": 0}
            lowered.compile(compiler_options=options)
        return sorted(_read(Path(folder)), key=lambda found: ORDER.index(found.name))


def _read(folder: Path) -> Iterator[Kernel]:
    launches = "".join(x.read_text() for x in folder.glob("*.thunk_sequence.txt"))
    for path in sorted(folder.glob("*.ptx")):
        text = path.read_text()
        found = re.search(r"\.entry attention_(\w+)_kernel", text)
        if not found:
            continue
        launch = re.search(
            rf"attention_{found[1]}_kernel .*threads: \[(\d+),.*shared_memory: (\d+)",
            launches,
        )
        assert launch
        registers, spilled, serialised = assembled(path)
        products = Counter(
            re.findall(r"mma_async\.sync\.aligned\.(m\d+n\d+k\d+)", text)
        )
        products.update(re.findall(r"\bmma\.sync\.aligned\.(m\d+n\d+k\d+)", text))
        yield Kernel(
            found[1], int(launch[1]), registers, spilled, int(launch[2]), serialised,
            products,
        )  # fmt: skip


def timings(label: str, dtype: Any) -> None:
    """Milliseconds of forward and backward with one program's blocks changed at a time.

    The batch is so large that a forward pass is 0.1 TFLOP.
    """
    spec = SPECS[label]
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    b = max(b, round(1e11 / (4 * h * n * m * width)))
    draw = partial(jax.random.normal, jax.random.key(0), dtype=dtype)
    q, k = draw((b, g, h // g, n, width)), draw((b, g, m, width))
    out, lse = jax.jit(pallas_gpu.forward)(q, k, k, {})
    usual, results = pallas_gpu.blocks_for(k), (out, lse, q, lse)
    for blocks in dict.fromkeys((*usual, *CANDIDATES)):
        cells = []
        changed = (blocks, usual[1]), (usual[0], blocks)
        calls = [
            (partial(pallas_gpu.forward, blocks=blocks), ()),
            *((partial(pallas_gpu.backward, blocks=x), results) for x in changed),
        ]
        for call, rest in calls:
            run = partial(jax.jit(call), q, k, k, {}, *rest)
            try:
                cells.append(f"{in_flight(run, jax.block_until_ready):.3f}")
            except jax.errors.JaxRuntimeError:  # more shared memory than there is
                cells.append("no room")
        print(f"| {label} | {b} | {blocks} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shapes", nargs="*", default=list(SPECS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--blocks", help="queries,keys,warps,stages for all kernels")
    parser.add_argument("--time", action="store_true", help="on a GPU, several blocks")
    args = parser.parse_args()
    if args.time:
        print(f"{jax.devices()[0].device_kind}; {machine()}\n")
        print(head("shape", "batch", "blocks", "forward", "queries'", "keys'"))
        for label in args.shapes:
            timings(label, jnp.dtype(args.dtype))
        return
    blocks = Blocks(*map(int, args.blocks.split(","))) if args.blocks else None
    names = "shape|kernel|threads|registers|spilled bytes|shared KiB|programs|products"
    print(head(*names.split("|")), flush=True)
    for label in args.shapes:
        for found in kernels(SPECS[label], jnp.dtype(args.dtype), blocks):
            products = " + ".join(f"{n} {x}" for x, n in found.products.items())
            cells = (
                label, found.name, found.threads, found.registers, found.spilled,
                f"{found.shared / 1024:.0f}", found.programs,
                products + (", serialised" if found.serialised else ""),
            )  # fmt: skip
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
