# SPDX-License-Identifier: Apache-2.0
"""Records of a run: JSON lines, CSV, TensorBoard, a plot, and the console."""

import csv
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Record = dict[str, float]


def read_records(file: Path, last: int | None = None) -> list[Record]:
    """The records of a JSONL file up to step `last`; a torn last line is left out."""
    records: list[Record] = []
    if not file.exists():
        return records
    for line in file.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if last is None or record["step"] <= last:
            records.append(record)
    return records


class Log:
    """Writes each record to metrics.jsonl, metrics.csv and TensorBoard's files.

    start: the step a run goes on from. Records after it are of a run that was killed;
        they are removed, so that no step is there twice. TensorBoard is told the same.
    """

    def __init__(self, folder: Path, *, start: int = 0, tensorboard: bool = True):
        self.folder = folder
        self.records = read_records(folder / "metrics.jsonl", start) if start else []
        self._columns: list[str] = []
        self._write_all()
        self._writer: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # 1 s to import

            self._writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=start + 1 if start else None
            )

    def write(self, record: Record) -> None:
        """Append one record; it has "step" and numbers."""
        self.records.append(record)
        if set(record) - set(self._columns):
            self._write_all()
        else:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            with (self.folder / "metrics.csv").open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(record)
        if self._writer is not None:
            for name, value in record.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Draw the loss into loss.png and close the files."""
        if self._writer is not None:
            self._writer.close()
        if self.records:
            plot_loss(self.records, self.folder / "loss.png")

    def _write_all(self) -> None:
        """Both files anew: at the start, and when a record has a new column."""
        names = dict.fromkeys(name for record in self.records for name in record)
        self._columns = list(names)
        with replacing(self.folder / "metrics.jsonl") as file:
            file.writelines(json.dumps(record) + "\n" for record in self.records)
        with replacing(self.folder / "metrics.csv") as file:
            if names:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(self.records)


class Muted(Log):
    """The log of a process that is not the first: it reads, and writes nothing."""

    def __init__(self, folder: Path, *, start: int = 0):
        self.folder = folder
        self.records = read_records(folder / "metrics.jsonl", start) if start else []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass


class replacing:  # noqa: N801 - a context manager, read as a verb
    """A text file that takes the place of `path` when it is complete."""

    def __init__(self, path: Path):
        self.path, self.part = path, path.with_name(path.name + ".part")

    def __enter__(self) -> Any:
        self.file = self.part.open("w", encoding="utf-8", newline="")
        return self.file

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.file.close()
        if kind is None:
            self.part.replace(self.path)


def plot_loss(records: list[Record], file: Path) -> None:
    """The loss over steps as a PNG, on a logarithmic scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1 s to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [r["loss"] for r in records])
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(file)


class Bar:
    """Progress on the console: a bar on a terminal, else a line per record."""

    def __init__(self, name: str, steps: int, start: int, console: Console | None):
        self.console = console or Console()
        self.name, self.steps = name, steps  # `began`: when, and at which step
        self.began = time.monotonic(), start
        self._progress: Progress | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[rate]} img/s"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task(
                name, total=steps, completed=start, loss="-", rate="-"
            )

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, step: int) -> None:
        """A step was handed to the device."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def show(self, record: Record) -> None:
        """Show one record, with "step", "loss" and "img_per_s"."""
        step, loss, rate = int(record["step"]), record["loss"], record["img_per_s"]
        if self._progress is not None:
            self._progress.update(
                self._task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:,.0f}"
            )
            return
        began, start = self.began
        pace = (time.monotonic() - began) / max(step - start, 1)
        self.console.print(
            f"{self.name}  step {step}/{self.steps}  loss {loss:.4f}  "
            f"{rate:,.0f} img/s  ETA {clock(pace * (self.steps - step))}",
            soft_wrap=True,
            highlight=False,
        )

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
