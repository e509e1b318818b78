# SPDX-License-Identifier: Apache-2.0
"""Folders of runs in buckets, gs://bucket/run: all hosts see them, and they last.

Checkpoints are written there by all processes, and read from there. What is small and
written little by little (records, pictures, the export) is written on this machine and
copied, since objects of a bucket cannot grow.
"""

import importlib.util
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from etils import epath

from jdit.parallel import barrier, first

EVERY = 60.0
"""Seconds between copies."""


def in_bucket(folder: Any) -> bool:
    """Whether a folder is not one of this machine's file system."""
    return "://" in str(folder)


def located(folder: Any) -> Any:
    """A folder as an absolute path, whose methods are pathlib's, wherever it is.

    ImportError where it is in a bucket and what reads buckets is not installed.
    """
    if not in_bucket(folder):
        return Path(folder).absolute()
    known = map(importlib.util.find_spec, ("gcsfs", "tensorflow"))
    if str(folder).startswith("gs://") and not any(known):
        raise ImportError(
            f"{folder} is in a bucket, which needs gcsfs: pip install 'jdit[gcs]'"
        )
    return epath.Path(str(folder))


class Mirror:
    """A run's folder, and the one of this machine to write to; a context manager.

    here: the folder itself, or of one in a bucket a temporary one, from which new and
        changed files are copied, once a minute and at the end.
    checkpoints: where they are kept, in the folder itself.
    """

    def __init__(self, folder: str | Path):
        self.far, self.bucket = located(folder), in_bucket(folder)
        self.checkpoints = self.far / "checkpoints"
        self.here, self._copied = Path(folder), dict[Path, tuple[int, int]]()
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> "Mirror":
        if self.bucket:
            self._temporary = tempfile.TemporaryDirectory(prefix="jdit-")
            self.here = Path(self._temporary.name)
            self.pull("metrics.jsonl")
            self._thread = threading.Thread(target=self._now_and_then, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bucket:
            self._over.set()
            self._thread.join()
            self.push()
            self._temporary.cleanup()

    def push(self) -> None:
        """Copy what is new or changed here."""
        if not self.bucket:
            return
        with self._lock:
            for file in sorted(self.here.rglob("*")):
                if not file.is_file() or file.suffix == ".part":
                    continue
                if self._copied.get(file) != (state := _state(file)):
                    far = self.far / file.relative_to(self.here).as_posix()
                    far.parent.mkdir(parents=True, exist_ok=True)
                    epath.Path(file).copy(far, overwrite=True)
                    self._copied[file] = state

    def pull(self, name: str) -> None:
        """Copy a file, or a folder of files, if it is there."""
        if not self.bucket:
            return
        far = self.far / name
        files = sorted(far.iterdir()) if far.is_dir() else [far] if far.exists() else []
        for one in files:
            here = self.here / name / one.name if one != far else self.here / name
            here.parent.mkdir(parents=True, exist_ok=True)
            one.copy(here, overwrite=True)
            self._copied[here] = _state(here)

    def meet(self) -> None:
        """What the first process has written, every process has here."""
        self.push()
        barrier("copied")
        if not first():
            self.pull("export")

    def _now_and_then(self) -> None:
        while not self._over.wait(EVERY):
            try:
                self.push()
            except OSError:  # the last copy, at the end, does not forgive
                continue


@lru_cache
def fetched(folder: str) -> Path | None:
    """The export of a folder in a bucket, copied to this machine; None without one."""
    root = Path(tempfile.mkdtemp(prefix="jdit-"))
    for far in (located(folder), located(folder) / "export"):
        if (far / "model.json").exists():
            for file in far.iterdir():
                if not file.is_dir():
                    file.copy(root / file.name)
            return root
    return None


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
