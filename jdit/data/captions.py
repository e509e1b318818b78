# SPDX-License-Identifier: Apache-2.0
"""Captions as condition tokens: any captioned set in memory, encoded once."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jdit.data.base import Record, checksum
from jdit.data.pipeline import read

_BATCH = 64


@dataclass(frozen=True)
class Captioned:
    """A captioned data set whose examples are told by text: "text" and "mask".

    The captions are encoded when the set is opened, so that a training step reads
    arrays: "text" `m e`, the last hidden states of the encoder, zeros where "mask" `m`
    is false. An epoch has each example once for every template.

    data: a data set whose examples have a "caption", all of them to be read now.
    encoder: a folder of a text encoder and its tokeniser, as transformers writes it.
    length: every caption is cut or padded to so many tokens.
    templates: what is said of an example, with {} for its caption.

    Raises FileNotFoundError without such a folder, ValueError for values that are not
    accepted and for a set without captions.
    """

    data: Any
    encoder: str
    length: int = 24
    templates: tuple[str, ...] = ("{}",)

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

    def source(self) -> "CaptionedSource":
        return CaptionedSource(self)

    def conditions(self, numbers: NDArray[np.integer]) -> Record:
        """What a model is told to draw these examples, as arrays."""
        record = self.source().gather(np.asarray(numbers))
        return {name: record[name] for name in ("text", "mask")}


class CaptionedSource:
    """Example i is told by template i mod t, of the set's example i div t."""

    def __init__(self, data: Captioned) -> None:
        self.inner, self.count = data.data.source(), len(data.templates)
        everything = read(self.inner, np.arange(len(self.inner)))
        if "caption" not in everything:
            raise ValueError(f"{data.data!r} has no captions")
        self.captions = tuple(
            template.format(caption)
            for caption in everything["caption"]
            for template in data.templates
        )
        self.text, self.mask = encode(data.encoder, self.captions, data.length)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Record:
        record = self.inner[index // self.count]
        text, mask = self.text[index], self.mask[index]
        return self._told(record, self.captions[index], text, mask)

    def gather(self, indices: NDArray[np.integer]) -> Record:
        record = read(self.inner, indices // self.count)
        captions = np.array([self.captions[i] for i in indices])
        return self._told(record, captions, self.text[indices], self.mask[indices])

    def _told(self, record: Record, caption: Any, text: Any, mask: Any) -> Record:
        told = {"x_0": record["x_0"], "caption": caption}
        return told | {"text": text, "mask": mask}

    def __repr__(self) -> str:
        told = checksum(self.captions), checksum(self.text), checksum(self.mask)
        return f"Captioned({self.inner!r}, {self.count} templates, {told})"


@functools.lru_cache(maxsize=2)
def encode(
    folder: str | Path, captions: tuple[str, ...], length: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Condition tokens `n m e` of captions, and which are real, `n m`."""
    from jdit.encoders import load_encoder, load_tokenizer  # 1 s to import

    encoder, params = load_encoder(folder)
    ids, mask = load_tokenizer(folder, length=length)(list(captions))
    run = jax.jit(lambda p, i, m: encoder.apply(p, i, m).tokens * m[..., None])
    fill = -len(ids) % _BATCH
    parts = []
    for start in range(0, len(ids) + fill, _BATCH):
        at = np.arange(start, start + _BATCH) % len(ids)
        parts.append(np.asarray(run(params, ids[at], mask[at]), np.float32))
    return np.concatenate(parts)[: len(ids)], mask
