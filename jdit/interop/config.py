# SPDX-License-Identifier: Apache-2.0
"""Folders of one diffusers model: a config.json that is read strictly, and weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdit.interop.files import DType, Source, open_tensors, read_json, write_tensors

WEIGHTS = "diffusion_pytorch_model"
INDEX = ".safetensors.index.json"
META = ("_class_name", "_diffusers_version", "_name_or_path")


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _naturals(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) > 0 and all(map(_natural, value))
    )


ACCEPTED: dict[str, Callable[[Any], bool]] = {
    "a positive whole number": _natural,
    "a positive whole number or null": lambda x: x is None or _natural(x),
    "a number": _number,
    "a number or null": lambda x: x is None or _number(x),
    "true or false": lambda x: isinstance(x, bool),
    "true, false or null": lambda x: x is None or isinstance(x, bool),
    "a list of positive whole numbers": _naturals,
    "a list of whole numbers": lambda x: (
        isinstance(x, list | tuple) and all(y == 0 or _natural(y) for y in x)
    ),
    "a list of strings": lambda x: (
        isinstance(x, list | tuple) and all(isinstance(y, str) for y in x)
    ),
    "a list of true or false": lambda x: (
        isinstance(x, list | tuple) and all(isinstance(y, bool) for y in x)
    ),
    "a list of numbers or null": lambda x: (
        x is None or isinstance(x, list | tuple) and all(map(_number, x))
    ),
    "a list or null": lambda x: x is None or isinstance(x, list | tuple),
    "a string": lambda x: isinstance(x, str),
    "a string or null": lambda x: x is None or isinstance(x, str),
}
"""What a field may hold, in the words of the error message."""

NATURAL = "a positive whole number"


@dataclass(frozen=True)
class Config:
    """What the config.json of one diffusers class may say.

    names: the class, and older names of it that are read too.
    fields: those that say which model it is: {field: (default, what is accepted)},
        the latter a key of `ACCEPTED`.
    fixed: those that must have one value: what it is for every published model.
    ignored: those that do not change what is computed. folder: the model's own within
        a pipeline's.
    """

    names: tuple[str, ...]
    fields: Mapping[str, tuple[Any, str]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    folder: str = "transformer"

    def find(self, folder: str | Path) -> Path:
        """The model's folder, given it or a pipeline's. Raises FileNotFoundError."""
        folder = Path(folder)
        if not (folder / "config.json").is_file() and (folder / self.folder).is_dir():
            folder = folder / self.folder
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no config.json, but accepted is the folder of a "
                f"diffusers {self.names[0]}, or of a pipeline with one"
            )
        return folder

    def read(self, folder: Path) -> dict[str, Any]:
        """The fields, defaults filled in; ValueError names one that does not fit."""
        path = folder / "config.json"
        given = read_json(path)
        name = given.get("_class_name", self.names[0])
        if name not in self.names:
            raise ValueError(f"{path} is of a {name}, but accepted is {self.names[0]}")
        for key, value in given.items():
            if key in self.fixed and value != self.fixed[key]:
                raise ValueError(
                    f"{path} has {key} {value!r}, but only {self.fixed[key]!r} is "
                    "supported"
                )
            if key not in (*self.fields, *self.fixed, *self.ignored, *META):
                raise ValueError(f"{path} has the unknown field {key!r}")
        values = {}
        for key, (default, accepted) in self.fields.items():
            values[key] = given.get(key, default)
            if not ACCEPTED[accepted](values[key]):
                raise ValueError(
                    f"{path} has {key} {values[key]!r}, but it must be {accepted}"
                )
        return values


def open_weights(folder: Path) -> Source:
    """The weights of a model's folder: whole, sharded, or of torch.

    Raises FileNotFoundError, and ValueError where it is not clear which are meant.
    """
    names = [WEIGHTS + end for end in (".safetensors", INDEX, ".bin")]
    found = [name for name in names if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(names)}")
    if found[:2] == names[:2]:
        raise ValueError(
            f"{folder} holds both {names[0]} and {names[1]}, so it is not clear which "
            "weights are meant: remove the stale ones"
        )
    return open_tensors(folder / found[0])


def write_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    dtype: DType = "float32",
) -> None:
    """Write config.json and one file of weights; ValueError for a sharded folder."""
    folder = Path(folder)
    if (folder / f"{WEIGHTS}{INDEX}").exists():
        raise ValueError(
            f"{folder} holds a sharded model already: save to another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / f"{WEIGHTS}.safetensors", tensors, dtype)
    text = json.dumps(
        {"_diffusers_version": "0.36.0", **config}, indent=2, sort_keys=True
    )
    (folder / "config.json").write_text(text + "\n")
