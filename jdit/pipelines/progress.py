# SPDX-License-Identifier: Apache-2.0
"""A progress bar over the steps of one compiled sampling run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from jdit.denoise import Denoiser, Wrapped
from jdit.processes import Prediction
from jdit.typing import Array, Conditions, Memory


class Ticks:
    """Calls `tick` at each network evaluation of the denoisers it wraps.

    The callback is asynchronous: the device does not wait for it. What it calls is
    looked up when it is called, so that a bar of its own for each run compiles nothing.
    """

    def __init__(self) -> None:
        self.tick: Any = None

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        return _Ticking(self, denoiser)

    def run(self, evaluation: Array) -> None:
        if self.tick is not None:
            self.tick(int(evaluation))


@dataclass(frozen=True)
class _Ticking(Wrapped):
    ticks: Ticks = field(compare=False)
    inner: Denoiser

    def __call__(
        self,
        x_t: Array,
        time: Array,
        conditions: Conditions,
        memory: Memory,
        evaluation: Array,
    ) -> tuple[Prediction, Memory]:
        jax.debug.callback(self.ticks.run, evaluation)
        return self.inner(x_t, time, conditions, memory, evaluation)


@contextmanager
def progress(ticks: Ticks, steps: int) -> Iterator[None]:
    """Show a bar of so many steps while the block runs; none for 0."""
    if not steps:
        yield
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("sampling", total=steps)
        ticks.tick = lambda _: bar.advance(task)
        try:
            yield
        finally:
            ticks.tick = None
