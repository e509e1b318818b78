# SPDX-License-Identifier: Apache-2.0
"""A report for a person: what is the compiler's, and what is a model of time."""

from typing import Any

from rich.console import Console, Group
from rich.table import Table

from jdit.compile.report import Report, gib, remedies


def describe(report: Report) -> Group:
    """The report, ready to print."""
    recipe, where = report.recipe, report.where
    sizes = recipe.mesh.sizes(report.chips)
    mesh = " x ".join(f"{name} {n}" for name, n in sizes.items() if n > 1) or "1 device"
    chip = where.chip.name if where.chip else where.devices[0].device_kind
    head = (
        f"[bold]{recipe.name}[/], {report.what}, on {where.name}: {report.chips} x "
        f"{chip}, mesh {mesh}, {report.work.images} images a "
        f"{'step' if report.what == 'train' else 'run'}; compiled in "
        f"{report.compiled_in:.0f} s, nothing was run"
    )
    if report.refusal is not None:
        return Group(head, "", *_refused(report))
    parts: list[Any] = [
        head,
        "",
        "[bold]Memory of one chip[/] (the compiler's)",
        _memory(report),
    ]
    parts += [
        "",
        "[bold]Work[/] (of the compiled program, loops multiplied out)",
    ]
    parts += [_work(report)]
    if report.exchanges:
        parts += ["", "[bold]Exchanges of one chip[/] (likewise; time is a model)"]
        parts += [_exchanges(report)]
    if where.chip:
        parts += ["", f"[bold]Time[/] (a model, from published rates of {chip})"]
        parts += [_times(report), "", _verdict(report)]
    else:
        parts += ["", f"No rates of {chip} are known here: no time is modelled."]
    if any(kernel.guessed for kernel in report.kernels):
        parts += [
            "Some loops do not say how often they run, and are counted once: all "
            "figures but memory are too low."
        ]
    return Group(*parts)


def show(report: Report) -> None:
    """Print `describe(report)`."""
    Console(soft_wrap=True, highlight=False).print(describe(report))


def _table(*rows: tuple[str, ...]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _memory(report: Report) -> Table:
    memory, chip = report.memory, report.where.chip
    if memory is None:
        return _table(("not told",))
    rows = [
        ("arguments", gib(memory.arguments), "parameters and all that lives on, batch"),
        ("outputs", gib(memory.outputs), f"{gib(memory.aliased)} in arguments' place"),
        ("temporaries", gib(memory.temporaries), ""),
        ("code", gib(memory.code), ""),
    ]
    if memory.host:
        rows.append(("on the host", gib(memory.host), ""))
    rows.append(("peak", gib(memory.peak), ""))
    if chip:
        share = memory.total / chip.hbm
        rows.append(
            ("allocated", gib(memory.total), f"{share:.0%} of {gib(chip.hbm)}: fits")
        )
    return _table(*rows)


def _work(report: Report) -> Table:
    chips = report.chips
    rows = [
        (
            "products",
            f"{report.flops / 1e12:.3f} TFLOP a chip",
            f"{report.flops * chips / 1e12:,.1f} on all",
        ),
    ]
    if report.program_flops:
        rows.append(
            (
                "whole program",
                f"{report.program_flops / chips / 1e12:.3f} TFLOP a chip",
                "XLA's count before it is compiled, split evenly",
            )
        )
    rows += [
        (
            "network alone",
            f"{report.work.model_flops / chips / 1e12:.3f} TFLOP a chip",
            "3 x forward, nothing recomputed"
            if report.what == "train"
            else "the passes of the solver and of guidance",
        ),
        (
            "main memory",
            f"{report.traffic / 2**30:.2f} GiB read and written",
            "operands and results of kernels, as they lie in it",
        ),
    ]
    return _table(*rows)


def _exchanges(report: Report) -> Table:
    table = Table("kind", "among", "times", "array", "sent", "time", box=None)
    for row in report.exchanges:
        table.add_row(
            row.kind,
            f"{row.size} slices" if row.slices else str(row.size),
            f"{row.count:,.0f}",
            f"{row.bytes / 2**20:,.1f} MiB",
            f"{row.sent / 2**20:,.1f} MiB",
            _ms(row.seconds) if row.seconds else "-",
        )
    return table


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"


def _times(report: Report) -> Table:
    rows = [
        ("products", _ms(report.compute_time), "at the peak of the matrix units"),
        ("main memory", _ms(report.memory_time), "at its full rate"),
        (
            "network",
            _ms(report.network_time),
            "links of the groups' axes at full rate",
        ),
        ("one by one", _ms(report.serial), "each kernel at its roofline, then network"),
    ]
    if report.cycles_time:
        rows.append(
            (
                "compiler's cycles",
                _ms(report.cycles_time),
                "its own estimate of those kernels that it has one of, no exchanges",
            )
        )
    return _table(*rows)


def _verdict(report: Report) -> str:
    def reached(seconds: float) -> str:
        share = report.utilisation(seconds)
        return f"{report.images(seconds):,.0f} images/s ({share:.0%} model-FLOPs)"

    lines = f"At best {reached(report.bound)}, if all three overlap; "
    lines += f"{reached(report.serial)} one by one"
    if report.cycles_time:
        lines += f"; {reached(report.estimate)} by the compiler's cycles, then network"
    return f"{lines}. What dominates: {report.dominant}."


def _refused(report: Report) -> list[str]:
    refusal = report.refusal
    assert refusal is not None
    if not refusal.needed:
        return [f"[bold]Does not fit.[/] The compiler: {refusal.message}"]
    over = refusal.needed - refusal.limit
    lines = [
        f"[bold]Does not fit[/]: {gib(refusal.needed)} are needed on a chip and "
        f"{gib(refusal.limit)} are there, {gib(over)} too little"
        + (
            f" (the compiler's). Parameters, moments and averages are "
            f"{gib(report.state)} of it."
            if refusal.message
            else " for parameters, moments and averages alone; it was not compiled."
        ),
        "What would make it fit (estimates; compile to see):",
    ]
    return lines + [f"  {line}" for line in remedies(report)]
