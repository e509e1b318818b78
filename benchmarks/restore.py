# SPDX-License-Identifier: Apache-2.0
"""How much memory does a process need to restore its part of a checkpoint?

    python benchmarks/restore.py [--megabytes 512 --processes 2]

Real processes on this machine, of two CPU devices each, save a state and restore it
split over all (`fsdp`); each notes by how much its resident memory grew at most while
it restored, and compares that with the bytes that its devices then hold. The checkpoint
is written by the same processes, split alike, or by one whose devices hold all of it
each. On Linux only. docs/pods.md has the figures.
"""

import argparse
import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WIDE = 4096, 8192
"""One parameter: 128 MiB."""


def resident(line: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return 1024 * int(text.split()[1])
    raise OSError(f"/proc/self/status has no {line}")


def child(task: str, folder: Path, count: int) -> None:
    """Save or restore a state of `count` parameters, as one of several processes."""
    from jdit.parallel import Mesh, Plan, dp, fsdp, join

    join()
    import jax
    import jax.numpy as jnp

    from jdit.checkpoint import Checkpoints
    from jdit.train import TrainState

    rules = dp if task == "save whole" else fsdp
    plan = Plan(Mesh(data=1, fsdp=-1).build(), rules)

    def make() -> TrainState:
        key, zero = jax.random.key(0), jnp.zeros((), jnp.int32)
        params = {f"w{i}": jnp.full(WIDE, i, jnp.float32) for i in range(count)}
        return TrainState(zero, params, (), (), key, zero)

    shapes = jax.eval_shape(make)
    where = plan.tree(shapes, shapes.params)
    with Checkpoints(folder) as checkpoints:
        if task != "restore":
            state = jax.jit(make, out_shardings=where)()
            checkpoints.save(state, {}, {}, loss=0.0)
            return
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            where,
        )
        checkpoints.steps()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
        state = jax.block_until_ready(checkpoints.restore(like).state)
        grown = resident("VmHWM") - before
    assert all(
        float(x.addressable_shards[0].data[0, 0]) == int(name[1:])
        for name, x in state.params.items()
    )
    parts = [p for x in state.params.values() for p in x.addressable_shards]
    held = sum(part.data.nbytes for part in parts)
    whole = sum(x.nbytes for x in state.params.values())
    print("said " + json.dumps(dict(held=held, grown=grown, whole=whole)))


def together(task: str, folder: Path, count: int, processes: int) -> list[Any]:
    """Run that many children; what each of them said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "32"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    if processes > 1:
        several = {"JAX_NUM_PROCESSES": processes, "JAX_COORDINATOR_ADDRESS": address}
        env |= {name: str(value) for name, value in several.items()}
    program = [sys.executable, __file__, "--child", task, str(folder), str(count)]
    running = [
        subprocess.Popen(
            program,
            env=env | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    said = []
    try:
        for process in running:
            output, _ = process.communicate(timeout=300)
            if process.returncode:
                raise RuntimeError(f"a process that should {task} failed")
            lines = [x[5:] for x in output.splitlines() if x.startswith("said ")]
            said += map(json.loads, lines)
    finally:
        for process in running:
            process.kill()
    return said


def measure(megabytes: int, processes: int) -> dict[str, list[Any]]:
    """What each process said, by who wrote the checkpoint."""
    count = max(1, megabytes // 128)
    found = {}
    for writers, task in ((processes, "save"), (1, "save whole")):
        with tempfile.TemporaryDirectory() as folder:
            together(task, Path(folder), count, writers)
            name = f"{writers}, whole" if task == "save whole" else f"{writers}, split"
            found[name] = together("restore", Path(folder), count, processes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.megabytes, options.processes)
    if options.json:
        print(json.dumps(found))
        return
    print("| by how many, and how | all, MiB | held by a process | grown by at most |")
    print("|---|---|---|---|")
    for name, said in found.items():
        for one in said:
            mib = [f"{one[key] / 2**20:.0f}" for key in ("whole", "held", "grown")]
            print(f"| {name} | {' | '.join(mib)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
