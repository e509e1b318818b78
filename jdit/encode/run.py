# SPDX-License-Identifier: Apache-2.0
"""The run: shards that are not there yet, one after the other, and the index."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from jdit.data import Record
from jdit.data.shards import (
    FORMAT,
    INDEX,
    read_index,
    shard,
    share,
    statistics,
    unfinished,
    write_json,
    write_shard,
)
from jdit.encode.options import Encode, images, open_codec
from jdit.encode.stream import Pieces, encoded, encoder
from jdit.evals.protocol import machine_fields, params_hash, part_hash
from jdit.parallel import first
from jdit.typing import Params

SHARD = 8192
"""Images of a shard, about, where their number is not given: what a restart may lose,
and 256 MiB of Stable Diffusion's latents with their mirror images'."""


def encode(name: str, options: Encode, console: Console | None = None) -> Path:
    """Encode the images of a name, and return the folder they are in.

    What is there already is not made again, and the result is bit by bit that of a run
    which was never stopped: of the same command, on as many devices. Each of several
    processes writes shards of its own; all see the same folder.

    Raises FileNotFoundError, and ValueError for options that do not fit each other, for
    a folder of other latents, and for an image that cannot be read.
    """
    if options.codec is None or options.out is None:
        raise ValueError("give --codec, what encodes, and --out, the folder to write")
    data, out = images(name, options.resolution, options.split), options.out
    codec, params = open_codec(options.codec, data.sample_shape)
    source, run = data.source(), encoder(codec, params, options)
    batch, there = _rows(options), read_index(out)
    index = _about(data, source, codec, params, options)
    if there is None:
        index |= _seen(run, np.repeat(source[0]["x_0"][None], batch, 0))
        how = {"batch": batch, "devices": jax.local_device_count()}
        index["made"] = machine_fields() | how
        out.mkdir(parents=True, exist_ok=True)
        if first():
            write_json(out / INDEX, index)
    else:
        index = _same(there, index, options)
    shards = index["shards"]
    mine = range(jax.process_index(), shards, jax.process_count())
    parts = {i: share(i, shards, index["count"]) for i in mine}
    left = [i for i in unfinished(out, shards) if i in mine]
    pieces = {
        i: [parts[i][at : at + batch] for at in range(0, len(parts[i]), batch)]
        for i in left
    }
    reader = Pieces(source, [*chain.from_iterable(pieces.values())])
    found = encoded(run, reader, batch, index)
    console = console or Console(stderr=True, quiet=not first())
    with _bar(name, sum(map(len, parts.values())), console) as advance:
        advance(sum(len(parts[i]) for i in mine if i not in left))
        for i in left:
            batches = _counted(islice(found, len(pieces[i])), advance)
            write_shard(out / shard(i, shards), batches, index["moments"])
            if not console.is_terminal:
                console.print(f"wrote {out / shard(i, shards)}", soft_wrap=True)
    while unfinished(out, shards):  # the other processes are at them
        time.sleep(1)
    if first():
        write_json(out / INDEX, index | statistics(out, shards))
    return out


def _rows(options: Encode) -> int:
    """The batch, made a multiple of the devices."""
    devices = jax.local_device_count()
    return -(-options.batch // devices) * devices


def _about(
    data: Any, source: Any, codec: Any, params: Params, options: Encode
) -> dict[str, Any]:
    """What an index says before anything is encoded, and what must stay the same."""
    zeros = jnp.zeros(codec.latent_channels)
    zero, one = (np.asarray(codec.normalise(z)) for z in (zeros, zeros + 1))
    count = len(source)
    shards = options.shards or max(-(-count // SHARD), jax.process_count())
    return {
        "format": FORMAT,
        "codec": f"{type(codec).__name__} {part_hash(codec)}",
        "weights": params_hash(params),
        "shift": (-zero / (one - zero) + 0.0).tolist(),
        "scale": (one - zero).tolist(),
        "resolution": data.sample_shape[0],
        "mirrored": options.flip,
        "dtype": options.dtype,
        "precision": options.precision,
        "data": repr(source),
        "count": count,
        "shards": min(shards, count),
        "classes": None if data.classes is None else list(data.classes),
    }


def _seen(run: Any, images: np.ndarray) -> dict[str, Any]:
    """What an index says of the latents, known when there are some."""
    mean, logvar = jax.device_get(run(images))
    moments = not bool(np.isneginf(logvar).all())
    return {"latent": list(mean.shape[-3:]), "moments": moments}


def _same(
    there: dict[str, Any], index: dict[str, Any], options: Encode
) -> dict[str, Any]:
    """The index of a run that may go on. ValueError for one of other latents."""
    for name, value in index.items():
        if name == "shards" and options.shards is None:
            continue  # it was chosen by the first run
        if there.get(name) != value:
            other = f"{there.get(name)!r:.80} there, and would be {value!r:.80}"
            raise ValueError(
                f"{options.out} holds other latents: {name} is {other}; give another "
                "--out"
            )
    return there


def _counted(
    batches: Iterator[Record], advance: Callable[[int], None]
) -> Iterator[Record]:
    for batch in batches:
        yield batch
        advance(len(batch["x_0"]))


@contextmanager
def _bar(name: str, count: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar, where the console is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"encode {name}", total=count)
        yield lambda more: bar.advance(task, more)
