# SPDX-License-Identifier: Apache-2.0
"""Settings against the baseline "just take fewer steps": a table and a plot."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Result:
    """What one setting costs, and how good it is.

    kind: "steps" for the full run (the first result) and the same with fewer steps.
    flops: for each image; share: of the full run's; time: ratio to the full run's.
    error: relative, mean over images, to the full run; limit: to the limit of small
    steps. psnr: to the full run, dB. frechet: to real images. lpips: to the full run.
    """

    name: str
    kind: str
    flops: float
    share: float
    time: float
    error: float
    limit: float
    psnr: float
    frechet: float
    lpips: float | None = None


COLUMNS = {
    "error": ("error to the full run", "{:.3f}"),
    "limit": ("error to the limit", "{:.3f}"),
    "psnr": ("PSNR, dB", "{:.1f}"),
    "frechet": ("Frechet", "{:.1f}"),
    "lpips": ("LPIPS", "{:.3f}"),
}


def baseline(results: list[Result], share: float, column: str) -> float:
    """What fewer steps give at that share of the full run's FLOPs.

    Linear between the nearest two runs with fewer steps; at more FLOPs than the full
    run's it is the full run, and NaN at fewer than the fewest steps'. A PSNR goes with
    the error's logarithm; where one of the two is the full run, so that it is
    infinite, it is the other's.
    """
    curve = sorted((r for r in results if r.kind == "steps"), key=lambda r: r.share)
    x = np.array([r.share for r in curve])
    y = np.array([getattr(r, column) for r in curve], float)
    if share < x[0] * (1 - 1e-3):
        return float("nan")
    place = int(np.searchsorted(x, share))
    if place >= len(x):
        return float(y[-1])
    if not np.isfinite(y[place]) and place and share < x[place] * (1 - 1e-3):
        return float(y[place - 1])
    return float(np.interp(share, x, y))


def nearest(results: list[Result], share: float) -> Result:
    """The run with fewer steps whose FLOPs are nearest."""
    curve = [r for r in results if r.kind == "steps"]
    return min(curve, key=lambda r: abs(np.log(r.share / share)))


def verdict(results: list[Result], result: Result) -> str:
    """By which measures it is better than fewer steps at its FLOPs, beyond 2%."""
    if result.kind == "steps":
        return ""
    better, worse = [], []
    for column, word in (
        ("error", "error"),
        ("limit", "limit"),
        ("frechet", "Frechet"),
    ):
        other, own = baseline(results, result.share, column), getattr(result, column)
        if not np.isfinite(other):
            return "fewer FLOPs than the fewest steps"
        if own < 0.98 * other:
            better.append(word)
        elif own > 1.02 * other:
            worse.append(word)
    parts = [f"better: {', '.join(better)}"] if better else []
    parts += [f"worse: {', '.join(worse)}"] if worse else []
    return "; ".join(parts) or "the same"


def table(results: list[Result], about: str) -> str:
    """Markdown: each setting's own value, then that of fewer steps at its FLOPs."""
    columns = {
        name: told
        for name, told in COLUMNS.items()
        if all(getattr(r, name) is not None for r in results)
    }
    names = ["no.", "setting", "GFLOP an image", "of full", "time, of full"]
    names += [f"{title} (fewer steps)" for title, _ in columns.values()]
    names += ["nearest run", "against fewer steps"]
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for number, result in enumerate(results, 1):
        cells = [
            str(number),
            result.name,
            f"{result.flops / 1e9:.2f}",
            f"{result.share:.3f}",
            f"{result.time:.2f}" if result.time == result.time else "-",
        ]
        for name, (_, form) in columns.items():
            cell = form.format(getattr(result, name))
            if result.kind != "steps":
                other = baseline(results, result.share, name)
                cell += f" ({form.format(other) if other == other else '-'})"
            cells.append(cell)
        near = "" if result.kind == "steps" else nearest(results, result.share).name
        rows.append("| " + " | ".join([*cells, near, verdict(results, result)]) + " |")
    return "\n".join([*rows, "", f"{about}."])


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both numbers, by the first."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def plot(results: list[Result], about: str, file: Path) -> None:
    """Three panels over FLOPs: both errors, and the Frechet distance; numbers as in
    the table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    marks = {"cache": "s", "solver": "^", "guidance": "D", "surgery": "P", "both": "*"}
    figure, panels = pyplot.subplots(1, 3, figsize=(21, 8))
    shown = [r for r in results if r.share <= 1.1]
    steps = sorted((r for r in results if r.kind == "steps"), key=lambda r: r.share)
    for panel, name in zip(panels, ("error", "limit", "frechet"), strict=True):
        line = [(r.share, getattr(r, name)) for r in steps]
        line = [point for point in line if name == "frechet" or point[1] > 0]
        panel.plot(*zip(*line, strict=True), "o-", color="0.5", label="fewer steps")
        for kind, mark in marks.items():
            own = [r for r in shown if r.kind == kind]
            x, y = [r.share for r in own], [getattr(r, name) for r in own]
            panel.scatter(x, y, marker=mark, s=60, label=kind, zorder=3)
        for number, r in enumerate(results, 1):
            value = getattr(r, name)
            if value > 0 and r.share <= 1.1:
                where = dict(textcoords="offset points", fontsize=9)
                panel.annotate(str(number), (r.share, value), (4, 4), **where)
        values = [(r.share, getattr(r, name)) for r in shown]
        best = front([v for v in values if v[1] > 0])
        panel.plot(*zip(*best, strict=True), ":", color="k", lw=1, label="Pareto front")
        panel.set(
            xscale="log", xlabel="FLOPs, of the full run", ylabel=COLUMNS[name][0]
        )
        if name != "frechet":
            panel.set_yscale("log")
        ticks = [
            t
            for t in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1)
            if t > 0.9 * min(r.share for r in shown)
        ]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.text(0.01, 0.005, "\n".join(textwrap.wrap(about, 230)), fontsize=8)
    key = "\n".join(f"{number}  {r.name}" for number, r in enumerate(results, 1))
    figure.text(0.86, 0.95, key, fontsize=10, va="top", linespacing=1.6)
    figure.tight_layout(rect=(0, 0.04, 0.86, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)
