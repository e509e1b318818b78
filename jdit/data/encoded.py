# SPDX-License-Identifier: Apache-2.0
"""Folders of latents that `jdit encode` wrote, read at random."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jdit.data.arrays import Posterior, PosteriorSample, Rescale
from jdit.data.base import Record, checksum, uniforms
from jdit.data.shards import read_index, shard, unfinished, unpack


@dataclass(frozen=True)
class Either:
    """One of the two latents of each image, its own or the mirrored image's.

    `b 2 *g c -> b *g c`, each with probability one half, anew each epoch. So images are
    mirrored in training, whose latents are not those of the image, mirrored.
    """

    def __call__(self, batch: Record, keys: NDArray[np.uint64]) -> Record:
        x = batch["x_0"]
        second = (uniforms(keys) < 0.5).astype(int)
        return {**batch, "x_0": x[np.arange(len(x)), second]}


@dataclass(frozen=True)
class Encoded:
    """Latents of images in the shards of a folder, normalised for the model.

    Each image is an example, and where its mirror image was encoded too, one of both is
    seen at a time. Examples are read from the files when they are asked for.

    path: the folder, all of it written.
    posterior: what is made of the stored mean and variance; a codec without variance
        leaves nothing to do.
    scaling: "codec" as the codec does it (Stable Diffusion's: times 0.18215);
        "channels" to mean 0 and variance 1 of each channel, over all latents of the
        folder, as LightningDiT does with its own codec.

    Raises FileNotFoundError for a missing folder, ValueError for one that is not
    finished or damaged.
    """

    path: str
    posterior: Posterior = PosteriorSample()
    scaling: Literal["codec", "channels"] = "codec"

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """What the folder's index.json says."""
        folder = Path(self.path)
        if folder.is_file():
            raise ValueError(
                f"path is {self.path!r}, a file, but a folder is read here; "
                "jdit.data.Latents reads .npz, .npy and .safetensors"
            )
        if not folder.is_dir():
            raise FileNotFoundError(
                f"path is {self.path!r}, but there is no such folder: `jdit encode` "
                "writes it"
            )
        index = read_index(folder)
        if index is None:
            raise ValueError(
                f"path {self.path!r} has no index.json: `jdit encode` writes such "
                "folders"
            )
        missing = len(unfinished(folder, index["shards"]))
        if missing or "mean" not in index:
            raise ValueError(
                f"path {self.path!r} is not finished, {missing} of {index['shards']} "
                "shards are missing: the same `jdit encode` again goes on"
            )
        return index

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.index["latent"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        names = self.index["classes"]
        return None if names is None else tuple(names)

    @property
    def rescale(self) -> Rescale:
        """The normalisation in use; before decoding, `z = x_0 / scale + shift`."""
        index = self.index
        if self.scaling == "codec":
            return Rescale(tuple(index["shift"]), tuple(index["scale"]))
        return Rescale(tuple(index["mean"]), tuple(1 / s for s in index["std"]))

    @property
    def transforms(self) -> tuple[Callable[..., Record], ...]:
        either = (Either(),) if self.index["mirrored"] else ()
        posterior = (self.posterior,) if self.index["moments"] else ()
        return (*either, *posterior, self.rescale)

    def source(self) -> "EncodedExamples":
        return EncodedExamples(Path(self.path), self.index)


class EncodedExamples:
    """The examples of the folder; "x_0" is `[2] *g c`, or `2c` if it is moments."""

    def __init__(self, folder: Path, index: dict[str, Any]):
        from grain.sources import ArrayRecordDataSource

        names = [shard(i, index["shards"]) for i in range(index["shards"])]
        self._mark = f"{checksum([json.dumps(index, sort_keys=True)]):08x}"
        self._records = ArrayRecordDataSource([str(folder / name) for name in names])
        if len(self._records) != index["count"]:
            raise ValueError(
                f"{folder} is damaged: its shards have {len(self._records)} examples, "
                f"but its index says {index['count']}"
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return unpack(self._records[index])

    def __repr__(self) -> str:
        """The same wherever the folder lies."""
        return f"Encoded[{len(self)} examples#{self._mark}]"
