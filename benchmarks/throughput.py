# SPDX-License-Identifier: Apache-2.0
"""DiT-XL/2 in bfloat16 against PyTorch's best: images a second, training and sampling.

    python benchmarks/throughput.py                # on a GPU: 256 and 512 px, XL/2
    python benchmarks/throughput.py --minutes 4    # start nothing after so long

A training step is loss, gradient, AdamW and EMA at 256 and at 1,024 tokens; sampling is
50 guided Euler steps. PyTorch is `torch.compile` with SDPA, autocast for training and
bfloat16 weights for sampling; both frameworks do the same at the same batch, the
largest power of two that fits both. On a GPU each has the device to itself, in turn. A
model-FLOPs utilisation counts three forward passes an image in training (and each pass
in sampling, two a step), over the published peak and over what a large product of
matrices reaches in this run.

Without a GPU a small model is timed on the CPU, in turns, to show that everything runs,
and the table of XL/2 says that it was not measured. Without PyTorch there are jdit's
rows alone.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ceiling
import jdit_dit
from pairing import Child, Died, head, machine, serve, take_turns

NAMES = {"train": "training step", "sample": "guided sampling"}


class Case(NamedTuple):
    """One row of the table for each contestant; grid: the side of the latents."""

    task: str
    size: str
    grid: int
    batch: int
    steps: int

    @property
    def label(self) -> str:
        how = f", {self.steps} steps" if self.task == "sample" else ""
        tokens = f"{self.grid**2 // 4:,} tokens"
        return f"DiT-{self.size}/2, {tokens}, {NAMES[self.task]}{how}"

    @property
    def passes(self) -> int:
        """Forward passes that an image is worth."""
        return 3 if self.task == "train" else 2 * self.steps


REAL = [
    Case("train", "XL", 32, 256, 0),
    Case("sample", "XL", 32, 32, 50),
    Case("train", "XL", 64, 64, 0),
    Case("sample", "XL", 64, 8, 50),
]
"""The batches are where the search for one that fits begins. XLA compiles a step of 256
for an H200 with 10.1 GiB of state and 112.8 GiB of temporaries."""

SMALL = [Case("train", "S", 16, 2, 0), Case("sample", "S", 16, 1, 2)]


def device() -> tuple[str, str]:
    """JAX's platform and kind of device, asked of another process, which lets it go."""
    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    platform, _, kind = said.strip().splitlines()[-1].partition(" ")
    return platform, kind


def build(args: argparse.Namespace) -> Callable[[], object]:
    """The contestant's task, in its own process."""
    if args.name == "ceiling":
        return ceiling.products()
    common = (args.task, args.size, args.batch, args.dtype)
    if args.name == "jdit":
        return jdit_dit.contestant(*common, 0, args.grid, args.steps)
    import torch
    import torch_dit

    compiled = args.name == "torch.compile"
    on = "cuda" if torch.cuda.is_available() else "cpu"
    run = torch_dit.contestant(*common, compiled, args.grid, args.steps, on)

    def once() -> None:
        run()
        if on == "cuda":
            torch.cuda.synchronize()

    return once


def child(name: str, case: Case, dtype: str) -> Child:
    flags = {"name": name, "dtype": dtype, **case._asdict()}
    return Child(__file__, flags)


def timed(names: list[str], case: Case, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each, alone on a GPU and in turns on a CPU; Died if one does.

    The second call, which `Child` makes, is the warm-up.
    """
    if not args.gpu:
        children = {name: child(name, case, args.dtype) for name in names}
        take_turns(list(children.values()), args.rounds, args.seconds)
        return {name: statistics.median(c.times) for name, c in children.items()}
    found = {}
    for name in names:
        alone = child(name, case, args.dtype)
        take_turns([alone], args.rounds, args.seconds)
        found[name] = statistics.median(alone.times)
    return found


def fitting(names: list[str], case: Case, args: argparse.Namespace) -> Any:
    """The case at the largest batch that fits all, and the times."""
    while True:
        try:
            return case, timed(names, case, args)
        except Died:
            if case.batch == 1:
                raise
            case = case._replace(batch=case.batch // 2)
            print(f"no room; trying batch {case.batch}", file=sys.stderr, flush=True)


def network_flops(case: Case) -> float:
    """Of one forward pass of one image, as XLA counts them without any kernel."""
    import jax

    import jdit
    from jdit.inspect import flops

    jax.config.update("jax_platforms", "cpu")  # a parent that takes no GPU
    return flops(jdit.dit(case.size, 2, grid=(case.grid, case.grid)))


def report(case: Case, times: dict[str, float], peaks: dict[str, float]) -> None:
    flops = network_flops(case) * case.passes * case.batch
    for name, seconds in times.items():
        use = [
            f"{flops / seconds / peak:.1%}" if peak else "" for peak in peaks.values()
        ]
        other = times.get("torch.compile")
        cells = (
            case.label, name, case.batch, f"{1e3 * seconds:.1f}",
            f"{case.batch / seconds:.1f}", f"{flops / seconds / 1e12:.2f}", *use,
            f"{seconds / other:.2f}" if other else "",
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="start no more after")
    parser.add_argument(
        "--seconds", type=float, default=10, help="a row, after warm-up"
    )
    parser.add_argument("--rounds", type=int, default=0, help="default: by --seconds")
    parser.add_argument("--dtype", help="default: bfloat16, and float32 on a CPU")
    parser.add_argument("--contestants", default="jdit,torch.compile")
    parser.add_argument("--only", default="", help="part of the labels to time")
    for hidden in ("--name", "--task", "--size"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--batch", "--grid", "--steps"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.work:
        return serve(lambda: build(args), cores=0, allocator="keep")
    start = time.monotonic()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # alone on a GPU
    platform, kind = device()
    args.gpu = platform == "gpu"
    args.dtype = args.dtype or ("bfloat16" if args.gpu else "float32")
    names = args.contestants.split(",")
    if importlib.util.find_spec("torch") is None:
        names = [name for name in names if not name.startswith("torch")]
    print(f"{kind}; {machine()}; {args.dtype}\n")
    peaks = {"published": 0.0, "measured": 0.0}
    if args.gpu:
        from jdit.compile.chips import chip_of

        chip = chip_of(kind)
        peaks["published"] = chip.flops if chip else 0.0
        alone = child("ceiling", REAL[0], args.dtype)
        take_turns([alone], 5, 0)
        peaks["measured"] = ceiling.FLOPS / min(alone.times)
        print(f"matrix product: {peaks['measured'] / 1e12:.0f} TFLOP/s\n")
    columns = "case|contestant|batch|median ms|images/s|TFLOP/s|of the published peak"
    print(head(*f"{columns}|of the measured|ratio to torch.compile".split("|")))
    cases = [case for case in (REAL if args.gpu else SMALL) if args.only in case.label]
    missed = [] if args.gpu else list(REAL)
    for case in cases:
        if time.monotonic() - start > 60 * args.minutes:
            missed.append(case)
            continue
        report(*fitting(names, case, args), peaks)
    for case in missed:
        print(f"| {case.label} | not measured |" + " |" * 7)
    print(json.dumps({"seconds": round(time.monotonic() - start)}), file=sys.stderr)


if __name__ == "__main__":
    main()
