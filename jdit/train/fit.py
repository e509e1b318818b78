# SPDX-License-Identifier: Apache-2.0
"""The training loop: it feeds batches, and asks the device nothing between records."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from jdit.bucket import Mirror, in_bucket
from jdit.checkpoint import Checkpoints, describe
from jdit.data import pipeline
from jdit.parallel import Plan, arrange, barrier, first, whole
from jdit.pretrained import export
from jdit.recipe import Recipe
from jdit.train.log import Bar, Log, Muted, Record
from jdit.train.memory import check_memory
from jdit.train.partial import model_of
from jdit.train.state import Metrics, TrainState, abstract_state, init_state, make_step
from jdit.train.trace import Trace

AHEAD = 8
"""Steps that may be queued on the device: enough to hide the reading of batches,
without holding more of them than that. On several CPU devices none may be queued:
their collectives wait in threads, of which there are few, and could wait for ever."""


class Batches(Protocol):
    """An endless iterator over batches that knows where it is (`jdit.data`)."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def __next__(self) -> dict[str, Any]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class NonFinite(ArithmeticError):
    """A loss or a gradient was not finite; the state before it was kept."""


class Fit(NamedTuple):
    """What training returns.

    done: False if it was asked to stop early (SIGTERM); resume to go on.
    metrics: the last record.
    """

    state: TrainState
    folder: Path
    metrics: Record
    done: bool


def plan_of(recipe: Recipe, devices: Sequence[jax.Device] | None = None) -> Plan | None:
    """Where the arrays of a recipe's run live; None on a single device.

    Raises ValueError where its mesh does not fit the devices, the batch or the model.
    """
    return arrange(
        recipe.mesh,
        recipe.sharding,
        model=recipe.model,
        batch=recipe.training.batch,
        accumulate=recipe.training.accumulate,
        devices=devices,
    )


def batches_of(recipe: Recipe, plan: Plan | None = None) -> Batches:
    """The recipe's training batches: this process's share of each."""
    training = recipe.training
    index, count = (0, 1) if plan is None else plan.share()
    return pipeline(
        recipe.data,
        batch=training.batch,
        seed=training.seed,
        flip=training.flip,
        process_index=index,
        process_count=count,
    )


def fit(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    batches: Batches | None = None,
    devices: Sequence[jax.Device] | None = None,
    console: Console | None = None,
    tensorboard: bool = True,
    profile: tuple[int, int] | None = None,
    checkpoints: Any = None,
) -> Fit:
    """Train a recipe, writing into a folder:

        checkpoints/N/  metrics.jsonl  metrics.csv  tensorboard/  loss.png  recipe.py
        export/

    resume: go on from the latest checkpoint, if there is one. The result is bitwise
        that of a run that was never stopped (same machine, same versions). The number
        of devices, and the mesh, may be others.
    batches: instead of the recipe's own data.
    devices: which to use, instead of all of all processes (`recipe.mesh`).
    profile: the first and the last of the steps, counted from 1, of which a trace is
        written to `profile/` (for TensorBoard or Perfetto); leave out the first step,
        which compiles.
    checkpoints: where they are kept, if not in the folder; may be in a bucket
        ("gs://bucket/run"; `jdit.bucket`), as the folder may.

    SIGTERM saves a checkpoint and returns with `done=False` and without an export; with
    several processes (`jdit.parallel.join`), one that gets it stops all at the same
    step. Only the first writes anything but checkpoints; all see the same folder.
    Raises FileExistsError when the folder holds a run and `resume` is False, ValueError
    for a state that no device can hold, and NonFinite when a loss or gradient is not
    finite: such an update is not applied and never saved.
    """
    if in_bucket(folder):
        with Mirror(folder) as mirror:
            found = fit(
                recipe,
                mirror.here,
                resume=resume,
                batches=batches,
                devices=devices,
                console=console,
                tensorboard=tensorboard,
                profile=profile,
                checkpoints=mirror.checkpoints,
            )
        return found._replace(folder=mirror.far)
    folder = Path(folder)
    training = recipe.training
    trace = Trace(folder / "profile", profile)
    plan = plan_of(recipe, devices)
    check_memory(recipe, plan)
    batches = batches_of(recipe, plan) if batches is None else batches
    console = console or Console(quiet=not first())
    kept = folder / "checkpoints" if checkpoints is None else checkpoints
    with Checkpoints(kept, keep=training.keep) as saved:
        if saved.steps() and not resume:
            raise FileExistsError(
                f"{saved.folder.parent} already holds a run, at step {saved.find()}: "
                "resume it, or choose another folder"
            )
        if saved.steps():
            restored = saved.restore(abstract_state(recipe, plan))
            state = restored.state
            batches.set_state(restored.data)
        else:
            state = init_state(recipe, plan)
        if recipe.source and first():
            (folder / "recipe.py").write_text(recipe.source, "utf-8")
        start = int(state.step)
        log = (
            Log(folder, start=start, tensorboard=tensorboard)
            if first()
            else Muted(folder, start=start)
        )
        run = _Run(recipe, folder, saved, batches, log, plan, trace)
        try:
            with Bar(recipe.name, training.steps, start, console) as bar:
                state, done = run(state, bar)
        finally:
            trace.close()
            log.close()
    records = log.records[-1] if log.records else {}
    if not done:  # whoever asked to stop may not wait for more than the checkpoint
        return Fit(state, folder, records, done)
    params = jax.tree.map(whole, state.sampled(training))
    try:
        if first():
            done_by = replace(recipe, model=model_of(recipe))
            export(folder / "export", done_by, params, step=int(state.step))
    except TypeError as error:  # a part from elsewhere; the checkpoints are there
        console.print(f"{recipe.name}: not exported, as {error}")
    barrier("exported")
    return Fit(state, folder, records, done)


class _Run:
    """The loop, and what it writes to."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        checkpoints: Checkpoints,
        batches: Batches,
        log: Log,
        plan: Plan | None,
        trace: Trace,
    ):
        self.recipe, self.folder, self.log = recipe, folder, log
        self.trace = trace
        self.checkpoints, self.batches = checkpoints, batches
        self.about = describe(recipe)
        self.step = make_step(recipe, plan)
        several = plan is not None and jax.default_backend() == "cpu"
        self.ahead = 1 if several else AHEAD + 1
        self.feed: Callable = (lambda batch: batch) if plan is None else plan.feed
        self.window: list[Metrics] = []
        self.loss = log.records[-1]["loss"] if log.records else math.inf

    def __call__(self, state: TrainState, bar: Bar) -> tuple[TrainState, bool]:
        training = self.recipe.training
        first, stop = int(state.step), False
        with _terminated() as terminated:
            for count in range(first + 1, training.steps + 1):
                self.trace.before(count)
                state, metrics = self.step(state, self.feed(next(self.batches)))
                self.trace.after(count, metrics)
                if count == first + 1:  # it waited for the compiler
                    self.clock = bar.began = time.monotonic(), count
                self.window.append(metrics)
                if len(self.window) >= self.ahead:
                    jax.block_until_ready(self.window[-self.ahead]["loss"])
                bar.advance(count)
                stop = terminated(count)
                last = stop or count == training.steps
                if last or count % training.log_every == 0:
                    self._check(state)
                    record = self._record(count)
                    self.log.write(record)
                    bar.show(record)
                if last or count % training.checkpoint_every == 0:
                    self._save(state)
                if stop:
                    break
        self.checkpoints.wait()
        done = int(state.step) >= training.steps
        if not done:
            bar.say(f"stopped and saved at step {int(state.step)}: resume to go on")
        return state, done

    def _record(self, count: int) -> Record:
        """Averages since the last record; this waits for the device."""
        window = jax.device_get(self.window)
        record: Record = {"step": count}
        for name in window[-1]:
            record[name] = float(np.mean([metrics[name] for metrics in window]))
        now, (since, before) = time.monotonic(), self.clock
        images = (count - before) * self.recipe.training.batch
        record["img_per_s"] = images / max(now - since, 1e-9)
        self.loss, self.clock = record["loss"], (now, count)
        self.window.clear()
        return record

    def _save(self, state: TrainState) -> None:
        """Save, having made sure that the state is sound."""
        self._check(state)
        loss = self.loss
        if self.window:
            loss = float(np.mean(jax.device_get([m["loss"] for m in self.window])))
        self.checkpoints.save(state, self.batches.get_state(), self.about, loss=loss)

    def _check(self, state: TrainState) -> None:
        """Raise NonFinite if a step since the last check was."""
        bad = int(state.bad)
        if bad < 0:
            return
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        saved = self.checkpoints.path(steps[-1]) if steps else "none was written yet"
        first = bad * self.recipe.training.batch
        last = first + self.recipe.training.batch - 1
        raise NonFinite(
            f"the loss or gradient of step {bad + 1} is not finite: it read batch "
            f"{bad} (examples {first} to {last} of the data's order), and the update "
            f"was not applied; last good checkpoint: {saved}"
        )


@contextmanager
def _terminated() -> Iterator[Callable[[int], bool]]:
    """Whether SIGTERM came, to be asked at each step; its handler comes back after.

    Several processes are told by JAX, which has a handler of its own, and agree on the
    step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: False
        return
    former = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda _: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, former)
