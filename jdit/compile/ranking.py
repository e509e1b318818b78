# SPDX-License-Identifier: Apache-2.0
"""What a search found, for a person: a ranked table, and the command of the first."""

import sys
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from jdit.compile.report import gib
from jdit.compile.search import Found, Trial


def ranking(found: Found, name: str) -> Group:
    """The table, ready to print. name: of the recipe, for the command."""
    chip: Any = found.where.chip
    table = Table(
        "mesh", "remat", "examples", "batch", "memory", "images/s", "MFU", "at best",
        box=None,
    )  # fmt: skip
    for column in table.columns:
        column.no_wrap = True
    for trial in found.trials:
        table.add_row(*_row(trial))
    parts: list[Any] = [
        f"[bold]{found.recipe.name}[/], train, on {found.where.name}: "
        f"{len(found.where.devices)} x {chip.name} of {gib(chip.hbm)}; "
        f"{len(found.trials)} ways to run it compiled, nothing was run",
        "",
        table,
        "",
        "Ranked by images/s: the compiler's cycles of its kernels, where it gives "
        "them, then the network (a model). At best: all overlaps (a model). Examples "
        "are those on a chip at a time. Memory is the compiler's.",
    ]
    if found.left:
        fit = len(found.left) - found.too_large
        parts += [
            f"Not compiled: {fit} others that would fit, and {found.too_large} that "
            f"would not, by an estimate.{_next(found)}"
        ]
    best = found.best
    parts += [""]
    if best is None:
        least = min(found.trials, key=lambda trial: trial.report.needed)
        parts += [
            f"[bold]Nothing fits[/]: the least that was compiled needs "
            f"{gib(least.report.needed)} of {gib(chip.hbm)}. More chips, more tries "
            "(--search.tries) or a smaller model are needed."
        ]
    else:
        parts += [
            "The first, which the compiler did not refuse, in full:",
            f"  jdit compile {name} --topology {found.where.name} "
            f"{best.choice.words()}",
        ]
    return Group(*parts)


def rank(found: Found, name: str) -> None:
    """Print `ranking(found, name)`."""
    width = None if sys.stdout.isatty() else 160
    console = Console(soft_wrap=True, highlight=False, width=width)
    console.print(ranking(found, name))


def _row(trial: Trial) -> tuple[str, ...]:
    choice, report = trial.choice, trial.report
    micro = f" x {choice.micro}" if choice.micro > 1 else ""
    first = (
        choice.shape(),
        choice.remat or "-",
        f"{choice.rows}{micro}",
        f"{choice.batch:,}",
    )
    if not trial.fits:
        chip: Any = report.where.chip
        over = report.needed - chip.hbm
        said = f"{gib(over)} too little" if report.needed else "refused"
        return (*first, said, "does not fit", "", "")
    return (
        *first,
        gib(report.needed),
        f"{trial.images:,.0f}",
        f"{report.utilisation(report.estimate):.0%}",
        f"{report.images(report.bound):,.0f} ({report.dominant})",
    )


def _next(found: Found) -> str:
    """The best of those that were not compiled, if it is thought to be faster."""
    estimate, best = found.estimate, found.best
    fit = [choice for choice in found.left if estimate.room(choice)]
    if not fit or best is None:
        return ""
    choice = max(fit, key=estimate.hope)
    images = estimate.hope(choice)
    if images <= 1.01 * best.images:
        return " None is thought to be faster."
    return (
        f" {choice.shape()}, {choice.remat}, {choice.rows} examples may reach "
        f"{images:,.0f} images/s: more tries (--search.tries) would tell."
    )
