# SPDX-License-Identifier: Apache-2.0
"""From a data set to batches: an order, a share of it, transforms, and a state.

    stream     epoch 0, shuffled | epoch 1, shuffled | ...     (repeat)
    batch k    positions k B ... (k + 1) B - 1 of the stream
    process p  the p-th of `process_count` equal pieces of batch k

Everything about batch k follows from k, so the state is one integer, and Grain's
reader may compute batches on several threads. The unit that Grain sees is a batch, not
an example: 128 digits cost 36 us so, and 3.6 ms on Grain's per-example path.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from jdit.data.base import Dataset, Record, Source, keys, to_float
from jdit.data.images import Flip

Transform = Callable[[Record, NDArray[np.uint64]], Record]
"""`(batch, keys) -> batch`, with 64 random bits per example (`jdit.data.keys`)."""


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The permutation of 0 ... count - 1 that an epoch uses: a sort by hash."""
    return np.argsort(keys(seed, epoch, np.arange(count)), kind="stable")


class _Batches:
    """Batches by number: the random-access source that Grain reads."""

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform],
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        repeat: bool,
        drop_remainder: bool,
        process_index: int,
        process_count: int,
    ):
        self.source, self.transforms = source, tuple(transforms)
        self.batch, self.seed, self.repeat = batch, seed, repeat
        self.process_index, self.process_count = process_index, process_count
        count = len(source)
        if repeat:
            self.length = sys.maxsize
        else:
            self.length = count // batch if drop_remainder else -(-count // batch)
        self.order = functools.lru_cache(maxsize=3)(
            (lambda epoch: order(seed, epoch, count))
            if shuffle
            else (lambda epoch: np.arange(count))
        )
        names = ", ".join(getattr(t, "__qualname__", repr(t)) for t in self.transforms)
        self.name = (
            f"{source!r} batch={batch} seed={seed} shuffle={shuffle} repeat={repeat} "
            f"transforms=[{names}]"
        )

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, number: int) -> Record:
        count = len(self.source)
        first, last = number * self.batch, (number + 1) * self.batch
        if not self.repeat:
            last = min(last, count)
        share = [
            first + (last - first) * p // self.process_count
            for p in (self.process_index, self.process_index + 1)
        ]
        position = np.arange(*share)
        epoch = position // count
        index = np.empty_like(position)
        for e in np.unique(epoch):
            chosen = epoch == e
            index[chosen] = self.order(int(e))[position[chosen] - e * count]
        record = read(self.source, index)
        for i, transform in enumerate(self.transforms):
            record = transform(record, keys(self.seed, i + 1, epoch, index))
        if record["x_0"].dtype == np.uint8:
            record["x_0"] = to_float(record["x_0"])
        return {k: v for k, v in record.items() if v.dtype.kind not in "OSUT"}


def read(source: Source, indices: NDArray[np.int64]) -> Record:
    """Some examples of a source, stacked."""
    gather = getattr(source, "gather", None)
    if gather is not None:
        return gather(indices)
    if not len(indices):
        return {key: value[:0] for key, value in read(source, np.zeros(1, int)).items()}
    records = [source[int(i)] for i in indices]
    shapes = {np.shape(record["x_0"]) for record in records}
    if len(shapes) > 1:
        raise ValueError(
            f"x_0 has shapes {sorted(shapes)} in one batch, but all must be equal"
        )
    return {key: np.stack([r[key] for r in records]) for key in records[0]}


class Batches(grain.DatasetIterator[Record]):
    """The iterator that `pipeline` returns: Grain's, which knows its own pipeline.

    `get_state()` is a small dictionary that JSON can hold; `set_state(state)` goes to
    where it was taken, exactly, at any step. The number of processes and of threads may
    differ. ValueError if the state is of another data set, batch size or seed.
    """

    def __init__(self, parent: grain.DatasetIterator[Record], name: str):
        super().__init__(parent)
        self._name = name

    def __next__(self) -> Record:
        return next(self._parent)

    def get_state(self) -> dict[str, Any]:
        return {**self._parent.get_state(), "pipeline": self._name}

    def set_state(self, state: dict[str, Any]) -> None:
        if state.get("pipeline") != self._name:
            raise ValueError(
                f"state is of the pipeline {state.get('pipeline')!r}, but this one is "
                f"{self._name!r}; resume with the same data, batch, seed and transforms"
            )
        self._parent.set_state({k: v for k, v in state.items() if k != "pipeline"})

    def __repr__(self) -> str:
        return f"Batches({self._name})"


def pipeline(
    dataset: Dataset,
    *,
    batch: int,
    seed: int,
    shuffle: bool = True,
    repeat: bool = True,
    drop_remainder: bool = True,
    flip: bool = False,
    transforms: Sequence[Transform] = (),
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
) -> Batches:
    """Iterate over a data set in batches of stacked numpy arrays.

    batch: examples of a batch of *all* processes; each yields `batch / process_count`
        of them. So the global batches do not depend on the number of processes.
    seed: decides the order and the transforms' random bits; a different order each
        epoch, a function of (seed, epoch) alone.
    repeat: go on for ever. Epochs follow each other without a gap: a batch may hold
        the end of one and the start of the next, so each epoch has every example once.
    drop_remainder: leave out the last, smaller batch. Only with `repeat=False`; without
        dropping, the shares of the last batch may differ by one example, or be empty.
    flip: mirror each image left-right in half of the epochs, `Flip()`.
    transforms: run in order, after the data set's own and `flip`; they see images as
        bytes and captions as strings.
    threads: how many batches are read at once, ahead of their use. 0 reads in the
        caller's thread: the default for arrays in memory, else one thread a core, at
        most 16.

    "x_0" comes out as float32, bytes scaled to [-1, 1] (`to_float`); other columns as
    they are, but for strings, which are left out.

    Raises ValueError for sizes that do not fit.
    """
    if batch < 1 or process_count < 1 or batch % process_count:
        raise ValueError(
            f"batch is {batch} for {process_count} processes, but it must be a "
            "positive multiple of process_count"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}, but it must be in 0 ... "
            f"{process_count - 1}"
        )
    if threads is not None and threads < 0:
        raise ValueError(f"threads is {threads}, but it must be 0 or more")
    source = dataset.source()
    if not repeat and drop_remainder and len(source) < batch:
        raise ValueError(
            f"batch is {batch}, but the data set has {len(source)} examples; take a "
            "smaller batch, or drop_remainder=False"
        )
    own = getattr(dataset, "transforms", ())
    batches = _Batches(
        source,
        (*own, *([Flip()] if flip else []), *transforms),
        batch=batch,
        seed=seed,
        shuffle=shuffle,
        repeat=repeat,
        drop_remainder=drop_remainder,
        process_index=process_index,
        process_count=process_count,
    )
    if threads is None:
        threads = 0 if hasattr(source, "gather") else min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
    return Batches(iterator, batches.name)
