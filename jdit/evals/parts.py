# SPDX-License-Identifier: Apache-2.0
"""What is measured of a set of images, part by part in files: stopped, shared, joined.

A part is one file, named by its first image and the one behind its last. What no file
covers is still to do, by any number of processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Bool

from jdit.evals.meter import Measured, Meter, Values, read

Range = tuple[int, int]
"""The first image, and the one behind the last."""


class Source(Protocol):
    """Images by their numbers: `Drawn`, or `Stored`."""

    @property
    def count(self) -> int: ...

    def stream(self, start: int, batch: int) -> Iterator[np.ndarray]: ...


def measure_in(
    folder: Path,
    source: Source,
    net: Any,
    *,
    batch: int = 64,
    rows: int = 64,
    part: int = 2048,
    seen: Callable[[int, int], object] = lambda done, of: None,
) -> None:
    """Write the features of all images to a folder, part by part.

    It may be stopped at any moment, and goes on where it was. Of several processes,
    which must share the folder, each measures its share of what is missing; all must
    call this together.

    batch: images drawn or read at once; rows: that the net sees at once; part: images
    of a file, cut to a multiple of the batch, and to the share of a process.
    seen: told after each batch how many images of this process are done, of how many.

    Raises ValueError for a stream that ends too early, and what `extract` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index, processes = jax.process_index(), jax.process_count()
    covered = _of_first(_covered(folder, source.count))
    share = -(-int((~covered).sum()) // processes)
    part = max(min(part, -(-share // batch) * batch) // batch, 1) * batch
    missing = _missing(covered, part)
    cuts = [len(missing) * i // processes for i in range(processes + 1)]
    mine = missing[cuts[index] : cuts[index + 1]]
    done, of = 0, sum(stop - start for start, stop in mine)

    def told(images: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
        nonlocal done
        for array in images:
            yield array[:count]
            done += len(array[:count])
            count -= len(array[:count])
            seen(done, of)

    seen(done, of)
    images: Iterator[np.ndarray] = iter(())
    at = -1
    for start, stop in mine:
        if start != at:
            images = source.stream(start, batch)
        at = stop
        needed = islice(images, -(-(stop - start) // batch))
        found = list(read(net, told(needed, stop - start), rows))
        count = sum(len(values.pool) for values in found)
        if count != stop - start:
            raise ValueError(
                f"the stream ends at image {start + count} of {source.count}"
            )
        _write(folder / f"{start:08d}-{stop:08d}.npz", found)


def joined(folder: Path, count: int) -> Measured:
    """All parts of a folder, in their order. Cut into the same parts, the same bits.

    Raises ValueError for a damaged file, and for parts that are not all images.
    """
    meter, at = Meter(), 0
    for path in sorted(folder.glob("*.npz")):
        start, stop = _range(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            values = Values(**arrays)
        except (OSError, KeyError, EOFError, TypeError, ValueError, BadZipFile) as e:
            raise ValueError(f"{path} is damaged ({e}): delete it to go on") from e
        if start != at or len(values.pool) != stop - start:
            raise ValueError(f"{folder} has no part that begins at image {at}")
        meter.add(values)
        at = stop
    if at != count:
        raise ValueError(f"{folder} holds parts of {at} images, not {count}")
    return meter.measured()


def _covered(folder: Path, count: int) -> Bool[np.ndarray, " n"]:
    """Which images a file covers."""
    covered = np.zeros(count, bool)
    for path in folder.glob("*.npz"):
        start, stop = _range(path)
        covered[start:stop] = True
    return covered


def _missing(covered: Bool[np.ndarray, " n"], part: int) -> list[Range]:
    """Ranges of at most `part` images that are not covered."""
    edges = np.flatnonzero(np.diff(np.r_[True, covered, True]))
    gaps = edges.reshape(-1, 2).tolist()
    return [
        (at, min(at + part, stop))
        for start, stop in gaps
        for at in range(start, stop, part)
    ]


def _range(path: Path) -> Range:
    start, _, stop = path.stem.partition("-")
    return int(start), int(stop)


def _of_first(covered: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """What the first process found: another may read the folder when it has changed."""
    if jax.process_count() == 1:
        return covered
    return np.asarray(multihost_utils.broadcast_one_to_all(covered))


def _write(path: Path, found: list[Values]) -> None:
    """Whole or not at all: a process may be killed meanwhile."""
    fields = zip(Values._fields, zip(*found, strict=True), strict=True)
    arrays = {
        name: np.concatenate(parts).astype(np.float32)
        for name, parts in fields
        if parts[0] is not None
    }
    part = path.with_name(f".{path.stem}.{os.getpid()}")
    with open(part, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)
