# SPDX-License-Identifier: Apache-2.0
"""How the folder of one of diffusers' codecs is read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdit.interop.config import Config
from jdit.interop.files import Source
from jdit.interop.layout import Layout, unpack
from jdit.typing import Params

Fields = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """How the folder of one class of codecs is read and written.

    codec: the class of ours, which has diffusers' name. config: what its config.json
    may say. names: our field for each of theirs that means the same.
    read, write: the other fields, of ours from theirs and of theirs from the codec;
        `read` raises ValueError, which begins with the path, for what is not supported.
    layout: the tensors of a codec. view: weights under that layout's names.
    stored: tensors that are fields of the codec, where they differ from the values
        here, which stand for None. told: fields of theirs that hold parameters.
    """

    codec: type
    config: Config
    names: Mapping[str, str]
    layout: Callable[[Any], Layout]
    read: Callable[[Path, Fields], Fields] = lambda path, given: {}
    write: Callable[[Any], Fields] = lambda codec: {}
    stored: Mapping[str, float] = field(default_factory=dict)
    view: Callable[[Source], Source] = lambda source: source
    told: Callable[[Any, Params], Fields] = lambda codec, params: {}

    def load(self, folder: Path, source: Source) -> tuple[Any, Params]:
        """The codec of a folder with a config.json and these weights, and its own."""
        source = self.view(source)
        codec = self.open(folder, source)
        return codec, unpack(self.layout(codec), codec, source)

    def open(self, folder: Path, source: Source) -> Any:
        """The codec of a folder with a config.json and these weights."""
        given = self.config.read(folder)
        fields = {ours: given[theirs] for theirs, ours in self.names.items()}
        fields |= self.read(folder / "config.json", given)
        tensors = {}
        for name in self.stored:
            source.shape(name, 1)
            tensors[name] = source.read(name).astype("float32").tolist()
        if any(set(tensors[name]) != {x} for name, x in self.stored.items()):
            fields |= tensors
        return self.codec(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        )

    def config_of(self, codec: Any) -> Fields:
        """What the config.json of this codec holds."""
        fields = {theirs: getattr(codec, ours) for theirs, ours in self.names.items()}
        written = {**self.config.fixed, **fields, **self.write(codec)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in written.items()}
