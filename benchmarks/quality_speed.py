# SPDX-License-Identifier: Apache-2.0
"""Quality against compute, on the reference model: is it better than fewer steps?

    python benchmarks/quality_speed.py            # glyphs-64: docs/quality_speed.md
    python benchmarks/quality_speed.py --quick    # digits, few samples: two minutes

Each setting (a solver, its steps, a policy, guidance, a surgery) draws the same images
from the same noise. Its FLOPs are those that ran, by XLA's count (`jdit.executed`); its
error is the distance to the full run's images, and to the limit of small steps; its
Frechet distance is in the feature net of the recipe's evaluation. Beside each stands
what the full run gives with fewer steps at the same FLOPs. A new acceleration is one
line in `settings`. All is kept under --folder: stopped, the same command goes on.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pairing import machine, paired
from pareto import Result, plot, table

from jdit.allocation import keep_freed_memory
from jdit.data import Digits, to_float
from jdit.evals import Reference, Statistics, extract, frechet_distance, psnr
from jdit.evals import relative_error as relative
from jdit.evals.protocol import params_hash, part_hash
from jdit.executed import Executed
from jdit.policies import Forecast, PerBranch, Reuse
from jdit.pretrained import exported, load
from jdit.recipe import Recipe, Sampling, load_recipe
from jdit.sample import sample
from jdit.solvers import DPMSolverPP2M, Euler, Heun, UniPC
from jdit.surgery import Quantise

FULL_STEPS = 30
"""Of Euler's method, about as many as flow models are published with (SD3: 28)."""


@dataclass(frozen=True)
class Setting:
    """One way to sample. kind: which settings it is drawn with, "steps" the baseline;
    images: how many are drawn, None for all."""

    name: str
    sampling: Sampling
    kind: str
    surgery: Any = None
    images: int | None = None

    @property
    def mark(self) -> str:
        """Of what moves the images."""
        return part_hash((self.sampling, self.surgery))


def settings(full: Sampling) -> list[Setting]:
    """The list, the full run first. What is not said of a setting is the full run's."""

    def vary(kind: str, name: str, surgery: Any = None, **changes: Any) -> Setting:
        return Setting(name, replace(full, **changes), kind, surgery)

    guided = partial(replace, full.guidance)
    inside = guided(interval=(0.1, 0.8))
    unipc, multistep = dict(solver=UniPC()), dict(solver=DPMSolverPP2M())
    return [
        vary("steps", f"full: Euler, {full.steps} steps"),
        *(vary("steps", f"{n} steps", steps=n) for n in (25, 20, 15, 12, 10, 8, 6)),
        vary("cache", "Reuse 2", policy=Reuse(2)),
        vary("cache", "Reuse 3", policy=Reuse(3)),
        vary(
            "cache",
            "Reuse 2, attention only",
            policy=PerBranch({"attention": Reuse(2)}),
        ),
        vary("cache", "Forecast 2", policy=Forecast(2)),
        vary("cache", "Forecast 3", policy=Forecast(3)),
        vary("cache", "Forecast 4", policy=Forecast(4)),
        vary("cache", "Forecast 3, order 2", policy=Forecast(3, order=2, warmup=3)),
        vary("surgery", "int8 weights", Quantise()),
        vary("guidance", "guidance in (0.1, 0.8]", guidance=inside),
        vary("solver", "DPM-Solver++ 2M, 15 steps", **multistep, steps=15),
        vary("solver", "DPM-Solver++ 2M, 10 steps", **multistep, steps=10),
        vary("solver", "UniPC, 15 steps", **unipc, steps=15),
        vary("solver", "UniPC, 10 steps", **unipc, steps=10),
        vary("solver", "Heun, 8 steps", solver=Heun(), steps=8),
        vary("both", "UniPC, 15 steps + Reuse 2", **unipc, steps=15, policy=Reuse(2)),
        vary("both", "UniPC, 15 + Forecast 2", **unipc, steps=15, policy=Forecast(2)),
        vary("both", "Forecast 3 + int8", Quantise(), policy=Forecast(3)),
        vary("both", "Forecast 3 + interval", guidance=inside, policy=Forecast(3)),
        vary("both", "UniPC, 10 + interval", **unipc, steps=10, guidance=inside),
    ]


def limit(full: Sampling, images: int) -> Setting:
    """As good as the exact solution: what the error of a better solver is against."""
    sampling = replace(full, solver=UniPC(), steps=2 * full.steps)
    return Setting("limit", sampling, "limit", images=images)


QUICK = (
    *("full", "20 steps", "15 steps", "10 steps", "6 steps"),
    *("Reuse 2", "Forecast 3", "int8", "guidance", "UniPC, 15 steps"),
)
"""Names that begin so are run by --quick."""


@dataclass(frozen=True)
class Subject:
    """A trained model, how it is sampled in full, and what its images are judged by.

    real: images of the data, and labels that are asked for as often as they occur.
    """

    name: str
    model: Any
    params: Any
    process: Any
    full: Sampling
    features: Any
    real: Callable[[], Iterator[np.ndarray]]
    labels: np.ndarray


def subject(name: str, folder: Path) -> Subject:
    """A shipped model or a run by its name; the digits are trained if they are not."""
    recipe = load_recipe(name.replace("-", "_"))
    if name == "digits" and exported(name) is None:
        found = load(_short_run(recipe, folder / "digits-run"))
    else:
        found = load(name)
    evaluation: Any = recipe.evaluation
    if hasattr(evaluation, "features"):
        features, dataset = evaluation.features, evaluation.dataset
    else:
        features, dataset = evaluation.classifier.load(), Digits("test")
    source = dataset.source()
    full = replace(recipe.sampling, solver=Euler(), steps=FULL_STEPS)

    def real() -> Iterator[np.ndarray]:
        for start in range(0, len(source), 100):
            rows = range(start, min(start + 100, len(source)))
            part = np.stack([source[i]["x_0"] for i in rows])
            yield to_float(part) if part.dtype == np.uint8 else part

    labels = np.array([source[i]["label"] for i in range(len(source))], np.int32)
    parts = found.model, found.params, found.process, full, features, real
    return Subject(name, *parts, np.random.default_rng(0).permutation(labels))


def _short_run(recipe: Recipe, folder: Path) -> Path:
    """A sixth of the digits' training: enough to draw digits."""
    from jdit.train import fit

    print(f"no run of digits here: training a short one in {folder}", flush=True)
    training = replace(recipe.training, steps=recipe.training.steps // 6)
    fit(replace(recipe, training=training), folder, resume=True, tensorboard=False)
    return folder


class Bench:
    """Draws, counts and times settings; what is on disk is not done again."""

    def __init__(self, subject: Subject, folder: Path, count: int, batch: int) -> None:
        self.subject, self.count, self.batch = subject, count, batch
        self.labels = np.resize(subject.labels, count)
        key = part_hash((subject.name, params_hash(subject.params), batch))
        self.folder = folder / f"{subject.name}-{key}"
        self.full: Callable[[], float] | None = None

    def run(self, setting: Setting) -> tuple[Callable, Any]:
        """(function of parameters, labels and the first one's number, parameters)."""
        this, how = self.subject, setting.sampling
        model, params = this.model, this.params
        if setting.surgery is not None:
            model, params = setting.surgery(model, params, jax.random.key(0))

        def draw(params: Any, labels: jax.Array, first: jax.Array) -> jax.Array:
            return sample(
                jax.random.key(how.seed),
                model,
                params,
                {"label": labels},
                process=this.process,
                steps=how.steps,
                solver=how.solver,
                grid=how.grid,
                guidance=how.guidance,
                policy=how.policy,
                first=first,
            )

        return draw, params

    def images(self, setting: Setting) -> tuple[np.ndarray, float]:
        """Its images, and FLOPs for each."""
        folder = self.folder / setting.mark
        folder.mkdir(parents=True, exist_ok=True)
        parts, spent, counted = [], 0.0, None
        for first in range(0, setting.images or self.count, self.batch):
            file = folder / f"{first:05d}.npz"
            if not file.is_file():
                draw, params = self.run(setting)
                labels = jax.numpy.asarray(self.labels[first : first + self.batch])
                args = params, labels, jax.numpy.int32(first)
                counted = counted or Executed(draw, *args)
                before = counted.flops()
                x = np.asarray(counted(*args))
                _keep(file, x=x, flops=counted.flops() - before)
            with np.load(file) as kept:
                parts.append(kept["x"])
                spent += float(kept["flops"])
        x = np.concatenate(parts)
        return x, spent / len(x)

    def features(self, setting: Setting, x: np.ndarray) -> np.ndarray:
        file = self.folder / setting.mark / f"features-{len(x)}.npz"
        if not file.is_file():
            found = list(extract(self.subject.features, np.clip(x, -1, 1), 64))
            _keep(file, x=np.concatenate(found))
        with np.load(file) as kept:
            return kept["x"]

    def time(self, setting: Setting, rounds: int, batch: int) -> dict[str, Any]:
        """Seconds against the full run's, taking turns with it in this process."""
        file = self.folder / setting.mark / f"time-{rounds}-{batch}.json"
        if file.is_file():
            return json.loads(file.read_text())

        def compiled(setting: Setting) -> Callable[[], float]:
            draw, params = self.run(setting)
            labels = jax.numpy.asarray(self.labels[:batch])
            run = jax.jit(draw).lower(params, labels, jax.numpy.int32(0)).compile()

            def once() -> float:
                start = time.perf_counter()
                jax.block_until_ready(run(params, labels, jax.numpy.int32(0)))
                return time.perf_counter() - start

            once()
            return once

        if self.full is None:
            self.full = compiled(settings(self.subject.full)[0])
        mine: list[float] = []
        theirs: list[float] = []
        turns = [(compiled(setting), mine), (self.full, theirs)]
        for index in range(rounds):
            for run, into in turns if index % 2 else turns[::-1]:
                into.append(run())
        found = dict(
            ratio=paired(mine, theirs),
            seconds=statistics.median(mine) / batch,
            full=statistics.median(theirs) / batch,
            load=os.getloadavg()[0],
        )
        file.write_text(json.dumps(found))
        return found


def _keep(file: Path, **arrays: Any) -> None:
    """Whole or not at all."""
    part = file.with_name(f".{os.getpid()}.npz")
    np.savez(part, **arrays)
    os.replace(part, file)


def lpips_of(path: Path | None) -> Callable[[np.ndarray, np.ndarray], float] | None:
    """LPIPS of the file of AlexNet's weights, or None."""
    if path is None:
        return None
    from jdit.interop.lpips import load_lpips

    model, params = load_lpips(path)
    apply = jax.jit(lambda a, b: model.apply(params, a, b)[0])

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        parts = [apply(a[i : i + 16], b[i : i + 16]) for i in range(0, len(a), 16)]
        return float(np.mean(np.concatenate(parts)))

    return mean


def measure(bench: Bench, chosen: list[Setting], args: Any) -> list[Result]:
    """Every setting's images, features and times, against the full run."""
    this = bench.subject
    reference = Reference.of(this.real(), this.features, 64).statistics
    exact = bench.images(limit(this.full, bench.batch))[0]
    perceived = lpips_of(args.lpips)
    full, whole = bench.images(chosen[0])
    results = []
    for setting in chosen:
        x, flops = bench.images(setting)
        real, shown = (np.clip(image, -1, 1) for image in (full, x))
        same = setting == chosen[0]
        features = Statistics.of(bench.features(setting, x))
        ratio = 1.0 if same else float("nan")
        if args.rounds and not same:
            ratio = bench.time(setting, args.rounds, args.time_batch)["ratio"]
        result = Result(
            name=setting.name,
            kind=setting.kind,
            flops=flops,
            share=flops / whole,
            time=ratio,
            error=float(relative(x, full).mean()),
            limit=float(relative(x[: len(exact)], exact).mean()),
            psnr=float("inf") if same else float(np.mean(psnr(shown, real))),
            frechet=frechet_distance(features, reference),
            lpips=None if perceived is None else perceived(shown, real),
        )
        print(result, flush=True)
        results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="digits, few samples")
    parser.add_argument("--model", default="glyphs-64", help="a shipped model or a run")
    parser.add_argument("--count", type=int, default=128, help="images of each setting")
    parser.add_argument("--batch", type=int, default=32, help="images drawn at once")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, or 0")
    parser.add_argument("--time-batch", type=int, default=2, help="images timed")
    parser.add_argument("--only", default="", help="names that begin so, by commas")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality_speed"))
    parser.add_argument("--out", type=Path, help="the table's and the plot's folder")
    parser.add_argument("--lpips", type=Path, help="weights of AlexNet, for LPIPS")
    args = parser.parse_args()
    if args.quick:
        args.model, args.count, args.batch, args.time_batch = "digits", 200, 200, 20
        args.only, args.rounds = ",".join(QUICK), 3
    if args.count % args.batch:
        parser.error(
            f"--count is {args.count}, but --batch {args.batch} must divide it"
        )
    keep_freed_memory()
    about = machine()
    this = subject(args.model, args.folder)
    bench = Bench(this, args.folder, args.count, args.batch)
    chosen = settings(this.full)
    if args.only:
        names = tuple(args.only.split(","))
        chosen = [s for s in chosen if s is chosen[0] or s.name.startswith(names)]
    results = measure(bench, chosen, args)
    said = (
        f"{this.name} ({params_hash(this.params)}); {args.count} images from seed "
        f"{this.full.seed}, batch {args.batch}; times: batch {args.time_batch}, "
        f"{args.rounds} rounds; {about}"
    )
    out = args.out or bench.folder
    out.mkdir(parents=True, exist_ok=True)
    text = table(results, said)
    (out / "quality_speed.md").write_text(text + "\n")
    plot(results, said, out / "quality_speed.png")
    print(f"\n{text}\n\nwrote {out / 'quality_speed.md'} and .png")


if __name__ == "__main__":
    main()
