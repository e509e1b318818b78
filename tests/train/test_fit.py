# SPDX-License-Identifier: Apache-2.0
import csv
import io
import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_dit import start

from jdit import train
from jdit.checkpoint import Checkpoints
from jdit.pretrained import export, load
from jdit.recipe import Recipe
from jdit.train import (
    Fit,
    NonFinite,
    abstract_state,
    batches_of,
    init_state,
    report,
    trained,
)
from jdit.train.log import Bar, Log, clock, read_records
from jdit.train.memory import check_memory, held
from tests.train.tiny import Hooked, tiny

QUIET = Console(file=io.StringIO())


def fit(recipe: Recipe, folder: Path, **options: Any) -> Fit:
    return train.fit(recipe, folder, tensorboard=False, console=QUIET, **options)


def hooked(recipe: Recipe, at: int, act: Any) -> Any:
    return Hooked(batches_of(recipe), at, act)


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_leaves_its_files(tmp_path: Path):
    recipe = replace(tiny(), source="# my recipe\n")
    result = train.fit(recipe, tmp_path, console=QUIET)
    assert result.done and int(result.state.step) == 6
    records = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [r["step"] for r in records] == [2, 4, 6] and records[-1] == result.metrics
    assert {"loss", "grad_norm", "learning_rate", "img_per_s"} <= set(records[0])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss"]) for r in rows] == [r["loss"] for r in records]
    assert Image.open(tmp_path / "loss.png").size[0] > 100
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert (tmp_path / "recipe.py").read_text() == "# my recipe\n"
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 6]
        about = checkpoints.about(6)
    assert about["source"] == "# my recipe\n" and "jax" in about["versions"]
    assert about["recipe"]["fields"]["training"]["fields"]["steps"] == 6
    loaded = load(tmp_path)
    equal(loaded.params, result.state.ema[0])
    equal(trained(recipe, tmp_path), result.state.ema[0])
    wide = replace(recipe, model=replace(recipe.model, dim=64))
    with pytest.raises(ValueError, match="is a run of another model: its "):
        trained(wide, tmp_path)
    longer = fit(tiny(steps=8), tmp_path, resume=True)
    export(tmp_path / "export", recipe, result.state.params, step=6)  # an old one
    equal(trained(recipe, tmp_path), longer.state.ema[0])


def test_a_folder_with_a_run_needs_resume(tmp_path: Path):
    first = fit(tiny(), tmp_path)
    with pytest.raises(FileExistsError, match="already holds a run, at step 6: resume"):
        fit(tiny(), tmp_path)
    again = fit(tiny(), tmp_path, resume=True)  # nothing is left to do
    assert again.done and again.metrics == first.metrics
    equal(again.state.params, first.state.params)
    with pytest.raises(ValueError, match="is of another model: "):
        recipe = tiny()
        fit(replace(recipe, model=replace(recipe.model, dim=64)), tmp_path, resume=True)
    with pytest.raises(ValueError, match="state is of the pipeline"):
        fit(tiny(batch=4), tmp_path, resume=True)


def test_sigterm_saves_and_the_run_goes_on_as_if_nothing_was(tmp_path: Path):
    recipe = tiny()
    whole = fit(recipe, tmp_path / "whole")

    def terminate(batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return batch

    before = signal.getsignal(signal.SIGTERM)
    part = fit(recipe, tmp_path / "part", batches=hooked(recipe, 3, terminate))
    assert signal.getsignal(signal.SIGTERM) is before
    assert not part.done and int(part.state.step) == 4
    assert not (tmp_path / "part" / "export").exists()  # which could take long
    rest = fit(recipe, tmp_path / "part", resume=True)
    assert rest.done
    for name in ("params", "ema", "opt_state"):
        equal(getattr(rest.state, name), getattr(whole.state, name))
    assert rest.metrics["loss"] == whole.metrics["loss"]


def test_too_little_memory_is_one_sentence_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def having(limit: int | None) -> Any:
        stats = None if limit is None else {"bytes_limit": limit}
        device = SimpleNamespace(device_kind="TPU v0", memory_stats=lambda: stats)
        own = SimpleNamespace(
            local_devices=lambda: [device], dtypes=jax.dtypes, tree=jax.tree
        )
        monkeypatch.setattr("jdit.train.memory.jax", own)

    recipe = tiny()
    state = init_state(recipe)
    state = state.replace(key=jax.random.key_data(state.key))
    needed = sum(x.nbytes for x in jax.tree.leaves(state))
    assert held(abstract_state(recipe)) == needed
    for enough in (needed, None):
        having(enough)
        check_memory(recipe, None)
    having(needed - 1)
    with pytest.raises(ValueError, match="GiB on each device, but TPU v0 has .* split"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_with_nan_stops_the_run_and_is_never_saved(tmp_path: Path):
    recipe = tiny(log_every=5)

    def poison(batch: Any) -> Any:
        return {**batch, "x_0": np.full_like(batch["x_0"], np.nan)}

    with pytest.raises(NonFinite) as error:
        fit(recipe, tmp_path, batches=hooked(recipe, 3, poison))
    for words in (
        "step 4 is not finite",
        "batch 3 (examples 24 to 31",
        f"last good checkpoint: {tmp_path / 'checkpoints' / '3'}",
    ):
        assert words in str(error.value)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
    for leaf in jax.tree.leaves(trained(recipe, tmp_path)):
        assert np.isfinite(leaf).all()
    with pytest.raises(NonFinite, match="last good checkpoint: none was written yet"):
        fit(recipe, tmp_path / "first", batches=hooked(recipe, 0, poison))
    assert fit(recipe, tmp_path, resume=True).done  # from 3, with sound data


@dataclass(frozen=True)
class Elsewhere:
    """A wrapper of the denoiser that is not jdit's, so it has no safe JSON form."""

    def __call__(self, denoiser: Any) -> Any:
        return denoiser


def test_a_part_from_elsewhere_is_trained_but_not_exported(tmp_path: Path):
    recipe = tiny()
    recipe = replace(recipe, sampling=replace(recipe.sampling, guidance=Elsewhere()))
    file = io.StringIO()
    console = Console(file=file, width=1000)
    result = train.fit(recipe, tmp_path, tensorboard=False, console=console)
    assert "not exported, as sampling.guidance is a" in file.getvalue()
    equal(trained(recipe, tmp_path), result.state.ema[0])  # from the checkpoint


def test_a_log_goes_on_without_repeating_steps(tmp_path: Path):
    log = Log(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    log = Log(tmp_path, start=2, tensorboard=False)
    log.write({"step": 3, "loss": 0.5, "new": 7.0})
    log.close()
    assert read_records(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5, "new": 7.0},
    ]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["step,loss,new", "1,1.0,", "2,0.5,", "3,0.5,7.0"]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_step_loss_rate_and_time_left(terminal: bool):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with Bar("run", 400, 0, console) as bar:
        bar.advance(100)
        bar.show({"step": 200, "loss": 0.125, "img_per_s": 1234.0})
    shown = file.getvalue()
    for words in ("run", "200/400", "loss 0.125", "1,234 img/s", "0:0"):
        assert words in shown
    assert ("\x1b" in shown) == terminal
    assert clock(3725) == "1:02:05"


@dataclass(frozen=True)
class Brightness:
    """An evaluation: the mean of a few images, which do not depend on the batch."""

    def __call__(self, draw: Any, folder: Any = None) -> dict[str, float]:
        labels = np.arange(8) % 3
        images = draw(3, labels, 0)
        parts = [draw(3, labels[:5], 0), draw(3, labels[5:], 5)]
        np.testing.assert_array_equal(images, np.concatenate(parts))
        assert np.abs(images - draw(4, labels, 0)).max() > 0.1
        assert images.shape == (8, 4, 4, 1)
        return {"mean": float(images.mean())}

    def line(self, scores: dict[str, float]) -> str:
        return f"brightness {scores['mean']:.3f}"


def test_a_report_draws_every_class_and_scores(tmp_path: Path):
    recipe = replace(tiny(), evaluation=Brightness())
    with pytest.raises(FileNotFoundError, match="there is no trained run in"):
        report(recipe, tmp_path, console=QUIET)
    params = start(recipe.model)
    file = io.StringIO()
    scores = report(recipe, tmp_path, params=params, console=Console(file=file))
    picture = Image.open(tmp_path / "samples.png")
    assert picture.height / picture.width == pytest.approx(3 / 2)  # 3 classes, 2 each
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["scores"] == scores and found["protocol"]["steps"] == 2
    assert f"; checkpoint {found['protocol']['checkpoint']}; " in file.getvalue()
    assert f"tiny: brightness {scores['mean']:.3f}" in file.getvalue()
    assert report(tiny(), tmp_path, params=params, console=QUIET) == {}


def test_a_report_on_latents_draws_nothing_and_says_so(tmp_path: Path):
    recipe, file = tiny(), io.StringIO()
    recipe = replace(recipe, model=replace(recipe.model, channels=4))
    console = Console(file=file)
    assert report(recipe, tmp_path, params=start(recipe.model), console=console) == {}
    assert "its samples are 4x4x4, not pictures" in file.getvalue()
    assert not list(tmp_path.iterdir())
