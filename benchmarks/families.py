# SPDX-License-Identifier: Apache-2.0
"""The forward pass of each family against diffusers, eager and compiled, in pairs.

    python benchmarks/families.py                        # the table
    python benchmarks/families.py --families Flux,Wan    # some rows of it
    python benchmarks/families.py --tiny                 # whether it runs at all

Each network has about 100 million random parameters, which diffusers writes to a folder
and `jdit.interop` reads, and sees 2 examples of 256 tokens, and text, in float32; the
largest difference of the outputs, relative to the largest output, must be below 1e-3.
Contestants live in processes of their own and take turns (`benchmarks/pairing.py`).
Ratios are medians of paired ratios: below 1, jdit is faster. First calls include
compilation. Needs PyTorch and diffusers (`pip install "jdit[parity]"`).
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pairing import Child, head, machine, paired, serve, take_turns

CONTESTANTS = ("jdit", "compiled", "eager")
ROOM = 1e-3


def inputs(family: Any, batch: int) -> dict[str, Any]:
    """What both sides are told, as jdit is told it."""
    from diffusers_families import FEATURES, POOLED, TEXT

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.normal(size=(batch, *shape)).astype(np.float32)

    mask = np.arange(TEXT) < np.linspace(TEXT, 50, batch).astype(int)[:, None]
    known = dict(
        label=np.arange(batch, dtype=np.int32),
        text=draw(TEXT, FEATURES),
        mask=mask,
        pooled=draw(POOLED),
        guidance=np.full(batch, 3.5, np.float32),
        second_text=draw(TEXT, FEATURES),
        second_mask=mask[::-1],
    )
    time = np.linspace(0.25, 0.75, batch).astype(np.float32)
    given = dict(x=draw(*family.grid, family.channels), time=time)
    return given | {name: known[name] for name in family.names}


def write(args: argparse.Namespace) -> None:
    """diffusers' network with random weights, and what it is told."""
    from diffusers_families import FAMILIES

    family, folder = FAMILIES[args.family], Path(args.folder)
    net = family.make(args.dim, args.depth)
    net.save_pretrained(folder)
    np.savez(folder / "inputs.npz", **inputs(family, args.batch))
    count = sum(parameter.numel() for parameter in net.parameters())
    (folder / "count").write_text(str(count))


def keep_first(
    folder: Path, name: str, run: Callable[[], Any], read: Callable[[Any], Any]
) -> Callable[[], object]:
    """`run`, of which the first result is written to the folder."""
    file = folder / f"{name}.npy"

    def once() -> object:
        out = run()
        if not file.exists():
            np.save(file, read(out))
        return out

    return once


def build(args: argparse.Namespace) -> Callable[[], object]:
    """A contestant, in its own process."""
    if args.name == "jdit":
        return ours(args)
    return theirs(args)


def ours(args: argparse.Namespace) -> Callable[[], object]:
    import jax
    from diffusers_families import FAMILIES

    from jdit.interop.models import load_model

    family, folder = FAMILIES[args.family], Path(args.folder)
    model, params = load_model(folder, **family.load)
    changes: dict[str, Any] = {"grid": family.grid} | family.change
    if args.unroll:
        changes["unroll"] = args.unroll
    model = replace(model, **changes)
    with np.load(folder / "inputs.npz") as file:
        given = {name: jax.device_put(value) for name, value in file.items()}
    x, time = given.pop("x"), given.pop("time")
    params = jax.device_put(params)
    apply = jax.jit(lambda p, x, t, c: model.apply(p, x, t, c).prediction)
    run = lambda: apply(params, x, time, given).block_until_ready()  # noqa: E731
    return keep_first(folder, args.name, run, np.asarray)


def theirs(args: argparse.Namespace) -> Callable[[], object]:
    import torch
    from diffusers_families import FAMILIES

    if args.cores:
        torch.set_num_threads(args.cores)
    family, folder = FAMILIES[args.family], Path(args.folder)
    net = family.make(args.dim, args.depth)  # as `write` did, from the same seed
    with np.load(folder / "inputs.npz") as file:
        given = {name: torch.from_numpy(value) for name, value in file.items()}
    asked = family.ask(given)
    if args.name == "compiled":
        net = torch.compile(net)

    def run() -> Any:
        with torch.no_grad():
            return net(**asked, return_dict=False)[0]

    read = lambda out: family.answer(out, family.grid).numpy()  # noqa: E731
    return keep_first(folder, args.name, run, read)


def difference(folder: Path, name: str) -> float:
    """Of a contestant's output from eager's, relative to the largest output."""
    want = np.load(folder / "eager.npy")
    mine = np.load(folder / f"{name}.npy")
    if mine.shape != want.shape:
        raise SystemExit(f"{name} gives {mine.shape}, and diffusers {want.shape}")
    return float(np.abs(mine - want).max() / np.abs(want).max())


def compare(name: str, args: argparse.Namespace) -> str:
    """One row of the table."""
    from diffusers_families import FAMILIES

    with TemporaryDirectory() as place:
        folder = Path(place)
        dim, depth = (128, 4) if args.tiny else (768, FAMILIES[name].depth)
        flags: dict[str, Any] = dict(family=name, folder=place, batch=args.batch)
        flags |= dict(dim=dim, depth=depth)
        flags |= dict(cores=args.cores, unroll=args.unroll, allocator=args.allocator)
        making = [f"--{key}={value}" for key, value in flags.items()]
        making += ["--work", "--name=write"]
        subprocess.run([sys.executable, __file__, *making], check=True)
        count = int((folder / "count").read_text())
        children = {x: Child(__file__, {"name": x} | flags) for x in CONTESTANTS}
        apart = max(difference(folder, x) for x in ("jdit", "compiled"))
        if not apart < ROOM:
            raise SystemExit(f"{name}: outputs differ by {apart:.2g}, not below {ROOM}")
        take_turns(list(children.values()), args.rounds, args.seconds)
    mine, compiled, eager = children.values()
    times = [statistics.median(x.times) for x in (mine, compiled, eager)]
    cells = [
        name,
        f"{count / 1e6:.0f}",
        *(f"{1e3 * x:.0f}" for x in times),
        f"{paired(mine.times, compiled.times):.2f}",
        f"{paired(mine.times, eager.times):.2f}",
        f"{paired(mine.cpu, compiled.cpu):.2f}",
        f"{mine.first:.0f} / {compiled.first:.0f}",
        f"{apart:.0e}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--families", default="", help="names of rows; default: all")
    parser.add_argument("--tiny", action="store_true", help="4 layers of width 128")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2, help="threads of each")
    parser.add_argument("--rounds", type=int, default=0, help="default: by --seconds")
    parser.add_argument("--seconds", type=float, default=60, help="per family")
    parser.add_argument("--allocator", default="keep", choices=("keep", "default"))
    parser.add_argument("--unroll", type=int, default=0, help="0: the model's default")
    for hidden in ("--name", "--family", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--dim", "--depth"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        if args.name == "write":
            return write(args)
        os.environ["OMP_NUM_THREADS"] = str(args.cores)
        return serve(lambda: build(args), cores=args.cores, allocator=args.allocator)
    from diffusers_families import FAMILIES

    names = args.families.split(",") if args.families else list(FAMILIES)
    unknown = set(names) - set(FAMILIES)
    if unknown:
        parser.error(f"--families has {sorted(unknown)}; known: {', '.join(FAMILIES)}")
    print(
        f"{machine('diffusers')}; float32, batch {args.batch}, {args.cores} threads\n"
    )
    titles = "family|M parameters|jdit ms|compiled ms|eager ms|jdit / compiled"
    titles += "|jdit / eager|jdit / compiled, CPU time|first call s|difference"
    print(head(*titles.split("|")), flush=True)
    for name in names:
        print(compare(name, args), flush=True)


if __name__ == "__main__":
    main()
