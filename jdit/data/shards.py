# SPDX-License-Identifier: Apache-2.0
"""A folder of examples in shards: `jdit encode` writes it, `Encoded` reads it.

    index.json                              what the examples are, how they were made
    latents-00000-of-00157.array_record     records, each an example in safetensors
    latents-00000-of-00157.json             their sums, for the index's statistics

A file is there whole or not at all: it is written under another name, then renamed.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from safetensors.numpy import load, save

from jdit.data.base import Record

INDEX = "index.json"

FORMAT = "jdit latents 1"
"""The first field of an index; another number for what this code could not read."""


def shard(number: int, count: int) -> str:
    """The name of a shard, as TFDS names its own."""
    return f"latents-{number:05d}-of-{count:05d}.array_record"


def share(number: int, count: int, examples: int) -> range:
    """The examples of a shard: neighbours, as many as in the others or one more."""
    return range(examples * number // count, examples * (number + 1) // count)


def unfinished(folder: Path, count: int) -> list[int]:
    """The numbers of the shards that are not there yet."""
    return [i for i in range(count) if not (folder / shard(i, count)).is_file()]


def pack(example: Record) -> bytes:
    """An example as a record: arrays as they are, a text as the bytes of its UTF-8."""
    return save(
        {
            name: np.frombuffer(str(value).encode(), np.uint8)
            if name == "caption"
            else np.asarray(value, order="C")
            for name, value in example.items()
        }
    )


def unpack(record: bytes) -> Record:
    """The inverse of `pack`."""
    example: Record = load(record)
    if "caption" in example:
        example["caption"] = example["caption"].tobytes().decode()
    return example


def write_shard(path: Path, batches: Iterable[Record], moments: bool) -> None:
    """Write the examples of batches, and their sums beside them.

    moments: whether "x_0" is mean and log variance, side by side on the channel axis.
    """
    values, total, squares = 0, np.zeros(()), np.zeros(())
    with _replacing(path) as part:
        # no groups and no compression: a record is read at random in one piece, and
        # latents are noise to a compressor (9% smaller, read 3 times slower)
        writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        for batch in batches:
            for i in range(len(batch["x_0"])):
                writer.write(pack({name: column[i] for name, column in batch.items()}))
            x = batch["x_0"].astype(np.float64)
            x = x.reshape(-1, x.shape[-1])
            mean, logvar = np.split(x, 2, axis=-1) if moments else (x, None)
            values += len(mean)
            total = total + mean.sum(0)
            squares = squares + np.square(mean).sum(0)
            if logvar is not None:
                squares = squares + np.exp(logvar).sum(0)
        writer.close()
        sums = {"values": values, "sum": total.tolist(), "squares": squares.tolist()}
        write_json(path.with_suffix(".json"), sums)


def statistics(folder: Path, count: int) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, over all latents of all shards.

    Of draws from the posterior where moments are stored: its variance is in it.
    """
    values, total, squares = 0, np.zeros(()), np.zeros(())
    for i in range(count):
        path = (folder / shard(i, count)).with_suffix(".json")
        sums = json.loads(path.read_text("utf-8"))
        values += sums["values"]
        total, squares = total + sums["sum"], squares + sums["squares"]
    mean = total / values
    std = np.sqrt(np.maximum(squares / values - np.square(mean), 0))
    return {"mean": mean.tolist(), "std": std.tolist()}


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when all went well.

    What a killed process left of the same file is removed.
    """
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """A file of JSON, whole or not at all."""
    with _replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder, or None if it has none.

    Raises ValueError for a file that is no index of this format.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text("utf-8"))
        if index["format"] == FORMAT:
            return index
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is no index of latents ({FORMAT!r})")
