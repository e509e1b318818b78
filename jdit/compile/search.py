# SPDX-License-Identifier: Apache-2.0
"""Which mesh, remat policy and batch train a recipe fastest on a slice, and fit it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jdit.compile.estimate import Choice, Estimate, meshes
from jdit.compile.options import Search
from jdit.compile.report import Report, compile_recipe, gib
from jdit.compile.topology import Topology, topology
from jdit.recipe import Recipe
from jdit.stack import Remat

DEFAULT = Search()


@dataclass(frozen=True)
class Trial:
    """A choice that was compiled."""

    choice: Choice
    report: Report

    @property
    def fits(self) -> bool:
        where = self.report.where
        if where.platform == "tpu":  # whose compiler refuses what does not fit
            return self.report.refusal is None
        limit = where.chip.hbm if where.chip else math.inf
        return self.report.refusal is None and self.report.needed <= limit

    @property
    def images(self) -> float:
        """A second, by the compiler's cycles, then the network; 0 if it is refused."""
        return self.report.images(self.report.estimate)


@dataclass(frozen=True)
class Found:
    """What a search found. trials: compiled, the fastest that fits first, then those
    that do not fit. left: not compiled; `estimate` says what is thought of them."""

    recipe: Recipe
    where: Topology
    trials: tuple[Trial, ...]
    left: tuple[Choice, ...]
    estimate: Estimate

    @property
    def best(self) -> Trial | None:
        """The fastest that was compiled and fits."""
        return self.trials[0] if self.trials and self.trials[0].fits else None

    @cached_property
    def too_large(self) -> int:
        """How many of those left are thought not to fit."""
        return sum(not self.estimate.room(choice) for choice in self.left)


def search(
    recipe: Recipe,
    where: str | Topology,
    options: Search = DEFAULT,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """Find the fastest training step of a recipe on a topology, by compiling few.

    What fits by the estimate and is thought fastest is compiled, the estimate corrected
    by it, and so on, until nothing left is thought faster than the best that was
    compiled, or `options.tries` are done. Only what was compiled can win.

    say: is told of each try.

    Raises ValueError for a topology whose chips' rates are not known, and where the
    recipe, or its batch if that is held, fits no mesh.
    """
    place = topology(where) if isinstance(where, str) else where
    if place.chip is None:
        raise ValueError(
            f"topology is {place.name}, but a search ranks by the rates of a chip, and "
            f"those of {place.devices[0].device_kind} are not known"
        )
    estimate = Estimate(recipe, place.chip, len(place.devices), place.slices)
    has = hasattr(recipe.model, "remat")
    first: tuple[Remat | None, ...] = options.remat if has else (None,)

    def all_(remat: tuple[Remat | None, ...]) -> list[Choice]:
        ways = recipe, len(place.devices), options, remat, place.slices
        return _known(estimate, choices(*ways))

    open_ = all_(first)
    if has and not any(map(estimate.room, open_)):
        open_ += all_(("offload",))
    if not open_:
        raise ValueError(
            f"training.batch is {recipe.training.batch}, which no mesh of "
            f"{len(place.devices)} chips splits into search.rows {options.rows}"
        )
    trials: list[Trial] = []
    while open_ and len(trials) < options.tries:
        best = max((trial.images for trial in trials if trial.fits), default=0.0)
        last = trials and not best and len(trials) == options.tries - 1
        choice = _smallest(estimate, open_) if last else _next(estimate, open_)
        guess, hope = estimate.images(choice), estimate.hope(choice)
        if best and (hope <= 1.01 * best or not estimate.room(choice)):
            break
        say(
            f"{len(trials) + 1} of at most {options.tries}: {describe(choice)}: "
            f"{gib(estimate.needed(choice))} and {guess:,.0f} images/s are expected"
        )
        open_.remove(choice)
        try:
            report = compile_recipe(choice.of(recipe), place, "train", count=False)
        except ValueError as error:  # heads that no axis divides, and the like
            say(f"  cannot be: {error}")
            open_ = [other for other in open_ if other.mesh != choice.mesh]
            continue
        estimate.learn(choice, report)
        trial = Trial(choice, report)
        trials.append(trial)
        say(f"  compiled in {report.compiled_in:.0f} s: {outcome(trial)}")
    trials.sort(key=lambda t: (not t.fits, -t.images, t.report.needed))
    return Found(recipe, place, tuple(trials), tuple(open_), estimate)


def choices(
    recipe: Recipe,
    chips: int,
    options: Search,
    remat: tuple[Remat | None, ...],
    slices: int = 1,
) -> list[Choice]:
    """All ways to run a recipe's step that a search looks at, none compiled."""
    heads = getattr(recipe.model, "heads", None)
    heads = heads if isinstance(heads, int) else None
    heads = heads if "tensor" in recipe.sharding.used else None
    found = []
    for mesh in meshes(chips, heads, options.tensor, options.sequence):
        if mesh.fsdp > 1 and "fsdp" not in recipe.sharding.used:
            continue
        if mesh.data % slices:
            continue
        for policy in remat:
            for rows in options.rows:
                micro, rest = 1, 0
                if options.hold:
                    batch = recipe.training.batch
                    micro, rest = divmod(batch, rows * mesh.data * mesh.fsdp)
                if micro and not rest:
                    found.append(Choice(mesh, policy, rows, micro))
    return found


def _known(estimate: Estimate, found: list[Choice]) -> list[Choice]:
    """Those whose mesh the recipe's rules allow."""

    def allowed(choice: Choice) -> bool:
        try:
            return estimate.params(choice.mesh) >= 0
        except ValueError:
            return False

    return [choice for choice in found if allowed(choice)]


def _smallest(estimate: Estimate, open_: list[Choice]) -> Choice:
    return min(open_, key=estimate.needed)


def _next(estimate: Estimate, open_: list[Choice]) -> Choice:
    """The one thought fastest of those thought to fit, else the smallest."""
    fit = [choice for choice in open_ if estimate.room(choice)]
    if fit:
        return max(fit, key=estimate.hope)
    return _smallest(estimate, open_)


def describe(choice: Choice) -> str:
    """A choice, for a person."""
    remat = f", remat {choice.remat}" if choice.remat else ""
    micro = f" x {choice.micro}" if choice.micro > 1 else ""
    return f"{choice.shape()}{remat}, {choice.rows}{micro} examples"


def outcome(trial: Trial) -> str:
    """What came of a trial, for a person."""
    report: Any = trial.report
    limit = report.where.chip.hbm
    if not trial.fits:
        return f"needs {gib(report.needed)} of {gib(limit)}, does not fit"
    return f"{gib(report.needed)} of {gib(limit)}, {trial.images:,.0f} images/s"
