# SPDX-License-Identifier: Apache-2.0
"""Runs in buckets; the bucket is a folder here, which etils' paths treat alike."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

import jdit
from jdit import bucket
from jdit.bucket import Mirror, fetched, in_bucket, located
from jdit.recipe import Constant
from jdit.train import fit
from jdit.train.log import read_records
from tests.train.tiny import tiny

FOLDER = "s3://bucket/run"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `FOLDER` stands for."""

    def path(name: Any) -> Any:
        return epath.Path(str(name).replace("s3://", f"{tmp_path}/"))

    monkeypatch.setattr(bucket, "epath", SimpleNamespace(Path=path))
    fetched.cache_clear()
    return tmp_path / "bucket" / "run"


def test_a_run_in_a_bucket_is_the_run_of_a_folder(far: Path, tmp_path: Path):
    """Stopped and taken up again, by a machine that has none of its files."""
    short, whole = (tiny(steps=n, schedule=Constant()) for n in (4, 8))
    quiet: Any = dict(tensorboard=False)
    want = fit(whole, tmp_path / "own", **quiet)
    first = fit(short, FOLDER, **quiet)
    assert first.folder == far and not Path(FOLDER).exists()
    with pytest.raises(FileExistsError, match="bucket/run already holds a run, at ste"):
        fit(whole, FOLDER, **quiet)
    found = fit(whole, FOLDER, resume=True, **quiet)
    jax.tree.map(np.testing.assert_array_equal, found.state.params, want.state.params)
    names = {path.name for path in far.iterdir()}
    assert names >= {"checkpoints", "metrics.jsonl", "loss.png", "export"}
    steps = [
        [r["step"] for r in read_records(f / "metrics.jsonl")]
        for f in (far, tmp_path / "own")
    ]
    assert steps[0] == steps[1]
    loaded = jdit.load(FOLDER)
    assert loaded.about["step"] == 8
    averages = want.state.sampled(whole.training)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, averages)
    with pytest.raises(FileNotFoundError, match="no trained model 's3://bucket/other'"):
        jdit.load("s3://bucket/other")


def test_what_changed_is_copied_and_nothing_else(far: Path):
    with Mirror(FOLDER) as run:
        (run.here / "deep").mkdir()
        (run.here / "deep" / "a.txt").write_text("one")
        (run.here / "b.txt.part").write_text("half")
        run.push()
        assert (far / "deep" / "a.txt").read_text() == "one"
        assert not (far / "b.txt.part").exists()
        (far / "deep" / "a.txt").write_text("other")
        run.push()
        assert (far / "deep" / "a.txt").read_text() == "other"  # it is not new here
        (run.here / "deep" / "a.txt").write_text("three")
        here = run.here
    assert (far / "deep" / "a.txt").read_text() == "three"
    assert not here.exists()
    with Mirror(FOLDER) as run:
        run.pull("deep")
        assert (run.here / "deep" / "a.txt").read_text() == "three"


def test_files_are_copied_now_and_then(far: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bucket, "EVERY", 0.01)
    with Mirror(FOLDER) as run:
        (run.here / "a.txt").write_text("one")
        for _ in range(500):
            if (far / "a.txt").exists():
                break
            run._over.wait(0.01)
        assert (far / "a.txt").read_text() == "one"


def test_a_folder_of_this_machine_is_itself(tmp_path: Path):
    with Mirror(tmp_path) as run:
        assert run.here == tmp_path and run.checkpoints == tmp_path / "checkpoints"
        run.meet()
        run.pull("export")
    assert not list(tmp_path.iterdir())
    assert in_bucket("gs://a/b") and not in_bucket(tmp_path)


def test_a_bucket_needs_what_reads_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bucket.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs gcsfs: pip install 'jdit\[gcs\]'"):
        located("gs://bucket/run")
