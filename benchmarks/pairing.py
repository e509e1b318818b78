# SPDX-License-Identifier: Apache-2.0
"""Contestants that take turns: each in a process of its own, timed in pairs.

A child builds its task and does it whenever its parent asks, so its peak memory is its
own and its threads sleep while the others run. The parent asks in turn (A B C, C B A,
...) for one timed repetition.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """The high-water mark of this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def serve(
    build: Callable[[], Callable[[], object]], *, cores: int, allocator: str
) -> None:
    """The child: build the task, then run it once for each line on stdin."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if allocator == "keep":
        from jdit.allocation import keep_freed_memory

        keep_freed_memory()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compile times are real
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    run = build()
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


class Died(SystemExit):
    """A contestant ended before it was told to: for want of memory, say."""


class Child:
    """A contestant in its own process: `script --work`, with flags."""

    def __init__(self, script: str, flags: dict[str, Any]):
        command = [sys.executable, script, "--work"]
        command += [f"--{name}={value}" for name, value in flags.items()]
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
            raise Died("a contestant died; see its message above")
        self.last = json.loads(line)
        return self.last

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def take_turns(children: list[Child], rounds: int, seconds: float) -> None:
    """Time every child in turn, `rounds` times, or as often as `seconds` allow."""
    once = max(child.last["seconds"] for child in children)
    rounds = rounds or max(5, min(25, round(seconds / once / len(children))))
    for index in range(rounds):
        for child in children if index % 2 else children[::-1]:  # A B C, C B A, ...
            child.times.append(child.run()["seconds"])
            child.cpu.append(child.last["cpu"])
    for child in children:
        child.stop()


def paired(mine: list[float], theirs: list[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def machine(*packages: str) -> str:
    """One line that names the machine and the versions."""
    from importlib.metadata import PackageNotFoundError, version

    def said(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    names = ("jax", "flax", "torch", *packages)
    versions = ", ".join(map(said, names))
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{cpu}, {os.cpu_count()} cores; {versions}, Python "
        f"{platform.python_version()}; {time.strftime('%Y-%m-%d')}; "
        f"load average at the start {load}"
    )


def head(*names: str) -> str:
    """The first two lines of a table."""
    return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)
