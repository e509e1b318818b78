# SPDX-License-Identifier: Apache-2.0
"""The benchmark that judges accelerations: its arithmetic, and a tiny run of it."""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_dit import MODEL, awake

from jdit.guidance import CFG
from jdit.processes import Gaussian
from jdit.recipe import Sampling

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pareto  # noqa: E402
import quality_speed  # noqa: E402


def result(name: str, kind: str, share: float, error: float, frechet: float):
    psnr = -20 * np.log10(error) if error else float("inf")
    parts = dict(time=share, error=error, limit=error, psnr=psnr, frechet=frechet)
    return pareto.Result(name=name, kind=kind, flops=2e9 * share, share=share, **parts)


RUNS = [
    result("full", "steps", 1.0, 0.0, 10.0),
    result("8 steps", "steps", 0.8, 0.1, 10.0),
    result("4 steps", "steps", 0.4, 0.5, 30.0),
    result("good", "cache", 0.6, 0.2, 15.0),
    result("mixed", "cache", 0.4, 0.4, 40.0),
    result("dear", "solver", 1.5, 0.1, 10.0),
    result("cheap", "cache", 0.1, 0.9, 90.0),
]


def test_the_baseline_is_fewer_steps_at_equal_flops():
    assert pareto.baseline(RUNS, 0.6, "error") == pytest.approx(0.3)
    assert pareto.baseline(RUNS, 0.4, "frechet") == 30.0
    assert pareto.baseline(RUNS, 1.5, "error") == 0.0  # the full run
    assert np.isnan(pareto.baseline(RUNS, 0.1, "error"))
    assert pareto.baseline(RUNS, 0.9, "psnr") == pytest.approx(20.0)  # 8 steps'
    assert pareto.baseline(RUNS, 1.0, "psnr") == float("inf")
    assert pareto.nearest(RUNS, 0.55).name == "4 steps"


def test_verdicts_and_the_table_say_who_wins():
    said = {r.name: pareto.verdict(RUNS, r) for r in RUNS}
    assert said["good"] == "better: error, limit, Frechet"
    assert said["mixed"] == "better: error, limit; worse: Frechet"
    assert said["dear"] == "worse: error, limit"
    assert said["cheap"] == "fewer FLOPs than the fewest steps"
    text = pareto.table(RUNS, "this machine")
    good = next(row for row in text.splitlines() if "| good |" in row)
    assert good.startswith("| 4 | good | 1.20 | 0.600 |") and "0.200 (0.300)" in good
    assert text.endswith("this machine.") and "LPIPS" not in text


def test_the_front_is_what_nobody_beats():
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, 0.5), (0.5, 4.0), (3.0, 0.4)]
    assert pareto.front(points) == [(0.5, 4.0), (1.0, 1.0), (3.0, 0.4)]


def test_every_setting_draws_something_else():
    full = Sampling(steps=30, guidance=CFG(2.0))
    chosen = quality_speed.settings(full)
    assert chosen[0].sampling == full and chosen[0].kind == "steps"
    for part in ("mark", "name"):
        assert len({getattr(s, part) for s in chosen}) == len(chosen)
    names = [s.name for s in chosen]
    assert all(any(n.startswith(q) for n in names) for q in quality_speed.QUICK)


def test_a_tiny_run_counts_judges_and_goes_on(tmp_path: Path):
    rng = np.random.default_rng(0)

    def real():
        yield rng.normal(size=(40, 8, 8, 2)).astype("f4")

    subject = quality_speed.Subject(
        "tiny",
        MODEL,
        awake(),
        Gaussian(),
        Sampling(steps=4, guidance=CFG(2.0)),
        lambda images: images.mean((1, 2)),
        real,
        np.arange(5),
    )
    chosen = quality_speed.settings(subject.full)
    full, cached = chosen[0], next(s for s in chosen if s.name == "Reuse 2")
    fewer = quality_speed.Setting("2", replace(full.sampling, steps=2), "steps")
    chosen = [full, fewer, cached]
    options = Namespace(lpips=None, rounds=1, time_batch=2)

    def bench() -> quality_speed.Bench:
        return quality_speed.Bench(subject, tmp_path, 4, 2)

    found = quality_speed.measure(bench(), chosen, options)
    shares = [r.share for r in found]
    assert shares == pytest.approx([1, 0.5, 0.5], abs=0.1) and shares[2] > shares[1]
    assert found[0].error == 0 and min(r.error for r in found[1:]) > 0
    assert all(np.isfinite([r.frechet, r.limit, r.time]).all() for r in found)
    file = next(bench().folder.glob(f"{cached.mark}/00002.npz"))
    want = bench().images(cached)[0]
    file.unlink()  # as if it had been stopped there
    again, flops = bench().images(cached)
    np.testing.assert_array_equal(again, want)
    assert flops == found[2].flops
    pareto.plot(found, "this machine", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
