# SPDX-License-Identifier: Apache-2.0
"""jdit against PyTorch, paired: DiT-S/2 and DiT-B/2, 256 tokens, batch 8.

    python benchmarks/speed.py                # the table of docs/performance.md
    python benchmarks/speed.py --quick        # S/2 forward only

Each contestant lives in a process of its own, so that its peak memory is its own and
its threads sleep while the others run. The parent asks them in turn (A B C A B C ...)
for one timed repetition and reports medians and minima, and ratios to PyTorch eager.
The first call of each is the compile time (for eager: the first call); then warm-up.
Needs PyTorch (`pip install "jdit[parity]"`).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONTESTANTS = ("jdit", "torch", "torch.compile")


def peak_mib() -> float:
    """The high-water mark of this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def work(args: argparse.Namespace) -> None:
    """The child: build the task, then run it once for each line on stdin."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    if args.allocator == "keep":
        from jdit.allocation import keep_freed_memory

        keep_freed_memory()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compile times are real
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    common = (args.task, args.size, args.batch, args.dtype)
    if args.name.startswith("jdit"):
        import jdit_dit

        unroll = 99 if args.name.endswith("unrolled") else args.unroll
        run = jdit_dit.contestant(*common, unroll)
    else:
        import torch_dit

        run = torch_dit.contestant(*common, args.name.endswith("compile"))
    base = peak_mib()
    for line in sys.stdin:  # until the parent closes it, or dies
        start, cpu, system = time.perf_counter(), time.process_time(), os.times().system
        for _ in range(int(line)):
            run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        report = dict(
            seconds=seconds / int(line),
            cpu=cpu / int(line),
            system=(os.times().system - system) / int(line),
            peak=peak_mib(),
            base=base,
        )
        print(json.dumps(report), file=say, flush=True)


class Child:
    """A contestant in its own process."""

    def __init__(self, name: str, task: str, size: str, args: argparse.Namespace):
        settings = dict(name=name, task=task, size=size, batch=args.batch)
        settings |= dict(dtype=args.dtype, unroll=args.unroll, cores=args.cores)
        settings["allocator"] = args.allocator
        flags = [f"--{key}={value}" for key, value in settings.items()]
        command = [sys.executable, __file__, "--work", *flags]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.last: dict[str, float] = {}
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.first = self.run()["seconds"]
        self.run()

    def run(self, count: int = 1) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a contestant died; see its message above")
        self.last = json.loads(line)
        return self.last

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def paired(mine: list[float], theirs: list[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def compare(task: str, size: str, args: argparse.Namespace) -> list[str]:
    """Rows of the table for one task and size."""
    children = {name: Child(name, task, size, args) for name in args.contestants}
    once = max(child.last["seconds"] for child in children.values())
    rounds = args.rounds or max(5, min(25, round(args.seconds / once / len(children))))
    for index in range(rounds):
        order = list(children.values())
        for child in order if index % 2 else order[::-1]:  # A B C, C B A, ...
            child.times.append(child.run()["seconds"])
            child.cpu.append(child.last["cpu"])
    for child in children.values():
        child.stop()
    eager = children.get("torch")
    rows = []
    for name, child in children.items():
        middle = statistics.median(child.times)
        ratio = on_cpu = best = float("nan")
        if eager:
            ratio, on_cpu = (
                paired(child.times, eager.times),
                paired(child.cpu, eager.cpu),
            )
            best = min(child.times) / min(eager.times)
        cells = (
            f"{task} {size}/2",
            name,
            f"{1e3 * middle:.0f}",
            f"{1e3 * min(child.times):.0f}",
            f"{ratio:.2f}",
            f"{best:.2f}",
            f"{1e3 * statistics.median(child.cpu):.0f}",
            f"{on_cpu:.2f}",
            f"{1e3 * child.last['system']:.0f}",
            f"{child.first:.1f}",
            f"{child.last['peak']:.0f}",
        )
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def machine() -> str:
    """One line that names the machine and the versions."""
    from importlib.metadata import version

    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = ", ".join(f"{n} {version(n)}" for n in ("jax", "flax", "torch"))
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{cpu}, {os.cpu_count()} cores; {versions}, Python "
        f"{platform.python_version()}; {time.strftime('%Y-%m-%d')}; "
        f"load average at the start {load}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="S/2 forward only")
    parser.add_argument("--tasks", default="forward,train,sample")
    parser.add_argument("--sizes", default="S,B")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=0, help="default: by --seconds")
    parser.add_argument("--seconds", type=float, default=90, help="per task and size")
    parser.add_argument("--cores", type=int, default=0, help="use only so many")
    parser.add_argument(
        "--allocator",
        default="keep",
        choices=("keep", "default"),
        help="whether every contestant keeps freed memory (jdit.allocation)",
    )
    parser.add_argument("--unroll", type=int, default=0, help="0: the model's default")
    for hidden in ("--name", "--task", "--size"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    args.contestants = args.contestants.split(",")
    tasks = ["forward"] if args.quick else args.tasks.split(",")
    sizes = ["S"] if args.quick else args.sizes.split(",")
    print(f"{machine()}; {args.dtype}, batch {args.batch}, unroll {args.unroll}\n")
    head = "task|contestant|median ms|min ms|ratio to eager|ratio of minima"
    head += "|CPU ms|ratio of CPU|system ms|first call s|peak MiB"
    names = head.split("|")
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    for size in sizes:
        for task in tasks:
            compare(task, size, args)


if __name__ == "__main__":
    main()
