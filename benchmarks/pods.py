# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/pods.md: models on TPU slices, found by searching; and scaling.

    python benchmarks/pods.py slices [--only dit_xl_2 --slices v5e:16x16 --tries 3]
    python benchmarks/pods.py scaling [--rows 16]

Compiles for chips that are not there (the extra `tpu`), minutes a row; nothing runs. A
row is printed when it is known, and kept in --cache: stopped, the same command goes on.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jdit.compile import Report, Search, compile_recipe, search, topology
from jdit.parallel import Mesh
from jdit.recipe import Recipe, load_recipe

GIB = 2**30
WAN_14B = dict(dim=5120, depth=40, heads=40, hidden=13824)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dit_xl_2": ("DiT-XL/2", dict(dtype="bfloat16")),
    "sit_xl_2": ("SiT-XL/2", dict(dtype="bfloat16")),
    "pixart_alpha": ("PixArt-alpha", {}),
    "sd3": ("SD3-medium, 256 px", {}),
    "flux": ("Flux (12B), 512 px", {}),
    "wan": ("Wan 2.1 (14B), 480p", WAN_14B),
}
"""Recipes, and the fields of their model that differ here."""

SLICES = "v5e:16x16", "v5p:8x8x8", "v6e:8x8"
SCALING = "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"


def changed(name: str) -> Recipe:
    recipe = load_recipe(name)
    return replace(recipe, model=replace(recipe.model, **MODELS[name][1]))


def slice_row(name: str, where: str, tries: int) -> str:
    """The winner of a search, as a row of a table."""
    title, fields = MODELS[name]
    say = partial(print, file=sys.stderr, flush=True)
    found = search(changed(name), where, Search(tries=tries), say)
    best = found.best
    if best is None:
        return f"| {title} | {where} | nothing that was tried fits | | | | |"
    report = best.report
    words = " ".join(f"--model.{key} {value}" for key, value in fields.items())
    command = f"jdit compile {name} --topology {where} {words} {best.choice.words()}"
    return (
        f"| {title} | {where} | {len(found.trials)} | {room(report)} | "
        f"{best.images:,.0f}, {report.utilisation(report.estimate):.0%} | "
        f"{report.images(report.bound):,.0f} ({report.dominant}) | "
        f"`{' '.join(command.split())}` |"
    )


def room(report: Report) -> str:
    chip = report.where.chip
    assert chip is not None
    return f"{report.needed / GIB:.2f} of {chip.hbm / GIB:.2f}"


def scaling_row(where: str, rows: int) -> str:
    """DiT-XL/2, data parallel, with so many images a chip."""
    place, recipe = topology(where), changed("dit_xl_2")
    chips = len(place.devices)
    recipe = replace(
        recipe,
        model=replace(recipe.model, remat="block"),
        training=replace(recipe.training, batch=rows * chips),
        mesh=Mesh(data=chips),
    )
    report = compile_recipe(recipe, place, count=False)
    if report.refusal is not None:
        return f"| {chips} | {room(report)}, does not fit | | | |"
    sent = sum(one.sent for one in report.exchanges) / GIB
    return (
        f"| {chips} | {room(report)} | {sent:.3f} | {1e3 * report.serial:.1f} | "
        f"{1e3 * report.network_time:.1f} | {1e3 * report.estimate:.1f} |"
    )


def table(cache: Path, keys: list[str], make: Callable[[str], str]) -> None:
    """Rows as they are known, kept by key."""
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    for key in keys:
        if key not in known:
            known[key] = make(key)
            cache.write_text(json.dumps(known, indent=1))
        print(known[key], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("slices", "scaling"))
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--slices", nargs="*", default=list(SLICES))
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=Path("runs/pods.json"))
    options = parser.parse_args()
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    versions = (f"{name} {version(name)}" for name in ("jax", "libtpu"))
    print(f"{', '.join(versions)}, Python {platform.python_version()}\n")
    if options.what == "scaling":
        heads = "allocated, GiB | sent, GiB | one by one, ms | network, ms | by cycles"
        print(f"| chips | {heads}, ms |")
        print("|---|---|---|---|---|---|")
        keys = [f"{where} {options.rows}" for where in SCALING]
        table(
            options.cache, keys, lambda key: scaling_row(key.split()[0], options.rows)
        )
        return
    print(
        "| model | slice | compiled | allocated, GiB | images/s, MFU | at best | as |"
    )
    print("|---|---|---|---|---|---|---|")
    keys = [f"{name} {where}" for name in options.only for where in options.slices]
    table(options.cache, keys, partial(_slice, tries=options.tries))


def _scaling(key: str, rows: int) -> str:
    return scaling_row(key.split()[0], rows)


def _slice(key: str, tries: int) -> str:
    name, where = key.split()
    return slice_row(name, where, tries)


if __name__ == "__main__":
    main()
