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
import statistics
from collections.abc import Callable

from pairing import Child, head, machine, paired, serve, take_turns

CONTESTANTS = ("jdit", "torch", "torch.compile")


def build(args: argparse.Namespace) -> Callable[[], object]:
    """The contestant's task, in its own process."""
    common = (args.task, args.size, args.batch, args.dtype)
    if args.name.startswith("jdit"):
        import jdit_dit

        unroll = 99 if args.name.endswith("unrolled") else args.unroll
        return jdit_dit.contestant(*common, unroll)
    import torch_dit

    return torch_dit.contestant(*common, args.name.endswith("compile"))


def compare(task: str, size: str, args: argparse.Namespace) -> list[str]:
    """Rows of the table for one task and size."""
    shared = ("batch", "dtype", "unroll", "cores", "allocator")
    flags = {name: getattr(args, name) for name in shared}
    flags |= dict(task=task, size=size)
    children = {
        name: Child(__file__, {"name": name} | flags) for name in args.contestants
    }
    take_turns(list(children.values()), args.rounds, args.seconds)
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
        return serve(lambda: build(args), cores=args.cores, allocator=args.allocator)
    args.contestants = args.contestants.split(",")
    tasks = ["forward"] if args.quick else args.tasks.split(",")
    sizes = ["S"] if args.quick else args.sizes.split(",")
    print(f"{machine()}; {args.dtype}, batch {args.batch}, unroll {args.unroll}\n")
    names = "task|contestant|median ms|min ms|ratio to eager|ratio of minima"
    names += "|CPU ms|ratio of CPU|system ms|first call s|peak MiB"
    print(head(*names.split("|")), flush=True)
    for size in sizes:
        for task in tasks:
            compare(task, size, args)


if __name__ == "__main__":
    main()
