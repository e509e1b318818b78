# SPDX-License-Identifier: Apache-2.0
"""What a kind of folder is: its config, its names, and what else lies in its file."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jdit.encoders.folders.fields import Fields
from jdit.interop.files import Source
from jdit.interop.layout import Layout


@dataclass(frozen=True)
class Family:
    """One kind of folder, in both directions.

    encoder: our class. read: an encoder from a config. write: the inverse.
    layout: the names of its tensors.
    rename: a key as the layout has it, or None for a tensor that belongs to another
        part of the stored model (a decoder, another tower, a head); given all keys.
    chosen: fields of the encoder that the folder does not store.
    """

    encoder: type
    read: Callable[[Fields], Any]
    write: Callable[[Any], dict[str, Any]]
    layout: Callable[[Any], Layout]
    rename: Callable[[str, Collection[str]], str | None]
    chosen: tuple[str, ...] = ("dtype", "layer")

    def view(self, source: Source) -> Source:
        """The source's own tensors, under the layout's names."""
        names: Mapping[str, str] = {
            new: key
            for key in source.shapes
            if (new := self.rename(key, source.shapes.keys())) is not None
        }
        shapes = {new: source.shapes[key] for new, key in names.items()}
        return replace(source, shapes=shapes, load=lambda new: source.load(names[new]))


def prefixed(
    key: str, prefix: str, skipped: tuple[str, ...], bare: tuple[str, ...]
) -> str | None:
    """A key with the prefix that new files leave out, or None if it is skipped."""
    if key.startswith(skipped):
        return None
    return f"{prefix}{key}" if key.startswith(bare) else key


def stripped(key: str, prefix: str, skipped: tuple[str, ...]) -> str | None:
    """A key without the prefix that models with a head have, or None if skipped."""
    key = key.removeprefix(prefix)
    return None if key.startswith(skipped) else key
