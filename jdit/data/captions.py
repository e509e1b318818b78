# SPDX-License-Identifier: Apache-2.0
"""Captions as condition tokens: any captioned set in memory, encoded once."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jdit.data.base import Record, Source, checksum
from jdit.data.pipeline import read

_BATCH = 64


@dataclass(frozen=True)
class Captioned:
    """A captioned data set whose examples are told by encoded text.

    The captions are encoded when the set is opened, so that a training step reads
    arrays: "text" `m e`, the tokens of the encoder, zeros where "mask" `m` is false,
    and "pooled" `e`. An epoch has each example once for every template.

    data: a data set whose examples have a "caption", all of them to be read now.
    encoder: a folder of a text encoder and its tokeniser, as transformers writes it.
    length: every caption is cut or padded to so many tokens.
    templates: what is said of an example, with {} for its caption.
    gives: which of "text", "mask" and "pooled" an example has.

    Raises FileNotFoundError without such a folder, ValueError for values that are not
    accepted and for a set without captions.
    """

    data: Any
    encoder: str
    length: int = 24
    templates: tuple[str, ...] = ("{}",)
    gives: tuple[str, ...] = ("text", "mask")

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length is {self.length}, but it must be at least 1")
        wrong = [template for template in self.templates if template.count("{}") != 1]
        if wrong or not self.templates:
            raise ValueError(
                f"templates is {self.templates}, but it must hold texts with one {{}}"
            )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.data.sample_shape

    @property
    def classes(self) -> None:
        return None

    @property
    def transforms(self) -> tuple[Any, ...]:
        return getattr(self.data, "transforms", ())

    def source(self) -> "CaptionedSource":
        return CaptionedSource(self)

    def conditions(self, numbers: NDArray[np.int64]) -> Record:
        """What a model is told to draw these examples, as arrays."""
        record = self.source().gather(np.asarray(numbers, np.int64))
        return {name: record[name] for name in self.gives}


class CaptionedSource:
    """Example i is told by template i mod t, of the set's example i div t."""

    def __init__(self, data: Captioned) -> None:
        self.inner, self.count = data.data.source(), len(data.templates)
        captions = _captions(self.inner)
        if captions is None:
            raise ValueError(f"{data.data!r} has no captions")
        self.captions = tuple(
            template.format(caption)
            for caption in captions
            for template in data.templates
        )
        told = encode(data.encoder, self.captions, data.length)
        missing = [name for name in data.gives if told.get(name) is None]
        if missing:
            raise ValueError(f"gives is {data.gives}, but there is no {missing[0]!r}")
        self.told = {name: told[name] for name in data.gives}

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Record:
        x_0 = self.inner[index // self.count]["x_0"]
        return {"x_0": x_0, "caption": self.captions[index], **self._at(index)}

    def gather(self, indices: NDArray[np.int64]) -> Record:
        x_0 = read(self.inner, indices // self.count)["x_0"]
        captions = np.array([self.captions[i] for i in indices])
        return {"x_0": x_0, "caption": captions, **self._at(indices)}

    def _at(self, index: Any) -> Record:
        return {name: column[index] for name, column in self.told.items()}

    def __repr__(self) -> str:
        # of the texts, not of their encoding, whose last bits differ between machines
        told = f"{len(self.captions)} captions #{checksum(self.captions):08x}"
        return f"Captioned({self.inner!r}, {told}, {', '.join(self.told)})"


def _captions(source: Source) -> list[str] | None:
    """The captions of a source, whose images are let go of at once."""
    if hasattr(source, "gather"):
        found = source.gather(np.arange(len(source)))
        return list(found["caption"]) if "caption" in found else None
    if "caption" not in source[0]:
        return None
    return [source[i]["caption"] for i in range(len(source))]


@functools.lru_cache(maxsize=2)
def encode(
    folder: str | Path, captions: tuple[str, ...], length: int
) -> dict[str, NDArray[Any]]:
    """What an encoder makes of captions: "text" `n m e`, "mask" `n m`, "pooled" `n e`.

    "pooled" is left out where the encoder has none.
    """
    from jdit.encoders import load_encoder, load_tokenizer  # 1 s to import

    encoder, params = load_encoder(folder)
    ids, mask = load_tokenizer(folder, length=length)(list(captions))
    run = jax.jit(encoder.apply)
    fill = -len(ids) % _BATCH
    tokens, pooled = [], []
    for start in range(0, len(ids) + fill, _BATCH):
        at = np.arange(start, start + _BATCH) % len(ids)
        found = run(params, jnp.asarray(ids[at]), jnp.asarray(mask[at]))
        tokens.append(np.asarray(found.tokens) * mask[at][..., None])
        if found.pooled is not None:
            pooled.append(np.asarray(found.pooled))
    told = {"text": np.concatenate(tokens)[: len(ids)], "mask": mask}
    return told | ({"pooled": np.concatenate(pooled)[: len(ids)]} if pooled else {})
