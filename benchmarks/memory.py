# SPDX-License-Identifier: Apache-2.0
"""Does a report's memory hold? A step's allocation as compiled, and a run's peak.

    python benchmarks/memory.py [--size S --remat none --batch 16]

On CPU: compiles DiT's training step, notes the report's "allocated", runs two steps,
and compares it with the second one's peak of resident memory, less what the process has
once all arrays are gone. On Linux only. docs/pods.md has the figures.
"""

import argparse
import ctypes
import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jdit.compile import compile_recipe
from jdit.data import Digits
from jdit.models import dit
from jdit.recipe import Recipe, Training
from jdit.train import abstract_state, init_state, make_step


def resident(line: str = "VmRSS") -> int:
    """Bytes of this process in memory: now, or at most (VmHWM)."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return 1024 * int(text.split()[1])
    raise OSError(f"/proc/self/status has no {line}")


def settle() -> None:
    """Give back what is free, and forget the peak so far."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(recipe: Recipe, steps: int = 2) -> dict[str, float]:
    """Bytes as reported and as measured, of a recipe's step on this CPU."""
    report = compile_recipe(recipe, "cpu", count=False)
    assert report.memory is not None
    shapes = report.work.arguments[1]
    step: Any = make_step(recipe)
    compiled = step.lower(abstract_state(recipe), shapes).compile()
    state = init_state(recipe)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    for _ in range(steps):  # the last one's peak is noted
        jax.block_until_ready((state, batch))
        settle()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        peak = resident("VmHWM")
    del state, batch, metrics
    settle()
    return {
        "reported": report.memory.total,
        "arguments": report.memory.arguments,
        "temporaries": report.memory.temporaries,
        "measured": peak - resident(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="S")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    model = replace(dit(options.size), remat=options.remat, depth=options.depth)
    training = Training(batch=options.batch, ema=(0.9999,))
    recipe = Recipe("memory", model, Digits("train"), training=training)
    found = measure(recipe)
    found["ratio"] = found["measured"] / found["reported"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
