# SPDX-License-Identifier: Apache-2.0
"""Files of named tensors: safetensors without torch, .pt through torch."""

import argparse
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

DType = Literal["float32", "bfloat16"]

_FLOATS = ("float32", "bfloat16", "float16")
_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_INDEX = ".index.json"


@dataclass(frozen=True)
class Source:
    """Named tensors of a file or of several, read one at a time.

    name: what error messages call it. shapes: of every tensor, by key.
    load: the tensor of a key, as numpy, in the dtype in which it is stored.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], np.ndarray]

    def shape(self, key: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there and have so many axes."""
        if key not in self.shapes:
            raise ValueError(f"{self.name} lacks {key!r}")
        if len(self.shapes[key]) != axes:
            raise ValueError(
                f"{key!r} of {self.name} has shape {self.shapes[key]}, but it must "
                f"have {axes} axes"
            )
        return self.shapes[key]

    def read(self, key: str) -> np.ndarray:
        """The tensor of a key; ValueError unless it holds floats."""
        array = self.load(key)
        if array.dtype.name not in _FLOATS:
            raise ValueError(
                f"{key!r} of {self.name} holds {array.dtype.name}, but weights must "
                f"be one of {', '.join(_FLOATS)}"
            )
        return array

    def without(self, keys: Iterable[str]) -> "Source":
        """The tensors of all other keys."""
        left = set(keys)
        shapes = {key: x for key, x in self.shapes.items() if key not in left}
        return Source(self.name, shapes, self.load)

    def under(self, prefix: str) -> "Source":
        """The tensors whose keys begin so, without it; all as they are if none does."""
        inner = [key for key in self.shapes if key.startswith(prefix)]
        if not inner:
            return self
        shapes = {key.removeprefix(prefix): self.shapes[key] for key in inner}
        return Source(self.name, shapes, lambda key: self.load(prefix + key))


def open_tensors(path: str | Path) -> Source:
    """Open a .safetensors file, the index of a sharded one, or a torch file.

    Torch files are read with `weights_only=True`, so that nothing in them is executed,
    and need torch. A training checkpoint gives its "ema" weights, else its "model",
    "state_dict" or "module".

    Raises FileNotFoundError, ValueError for a file that is not what its name says, and
    ImportError for a torch file without torch.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.name.endswith(_INDEX):
        return _open_index(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(str(path), [path])
    if path.suffix in _TORCH:
        return _open_torch(path)
    raise ValueError(
        f"{path} ends in {path.suffix or 'nothing'!r}, but weights are read from "
        f".safetensors, *{_INDEX} and {', '.join(_TORCH)} files"
    )


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    dtype: DType = "float32",
    nest: str | None = None,
) -> None:
    """Write named float arrays to a .safetensors or a torch file, whole or not at all.

    nest: the key under which a torch file holds them all, if its readers look there.
    bfloat16 rounds to nearest even; what was bfloat16 before comes back bitwise.
    """
    path = Path(path)
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}, but it must be 'float32' or 'bfloat16'")
    if path.suffix != ".safetensors" and path.suffix not in _TORCH:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'!r}, but weights are written to "
            f".safetensors and {', '.join(_TORCH)} files"
        )
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    arrays = {k: np.ascontiguousarray(v, dtype=kind) for k, v in tensors.items()}
    part = path.with_name(path.name + ".part")
    if path.suffix == ".safetensors":
        save_file(arrays, part, metadata={"format": "pt"})
    else:
        torch = torch_for(path)
        state = {k: _to_torch(torch, v) for k, v in arrays.items()}
        torch.save({nest: state} if nest else state, part)
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError in one sentence when the file does not hold one."""
    try:
        value = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def _open_safetensors(name: str, paths: list[Path]) -> Source:
    files: dict[str, Any] = {}
    for path in paths:
        try:
            file = safe_open(path, framework="np")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error})"
            ) from None
        files.update(dict.fromkeys(file.keys(), file))
    shapes = {key: tuple(f.get_slice(key).get_shape()) for key, f in files.items()}
    return Source(name, shapes, lambda key: files[key].get_tensor(key))


def _open_index(path: Path) -> Source:
    weights = read_json(path).get("weight_map")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} has no 'weight_map', so it is no index of shards")
    names = sorted(set(map(str, weights.values())))
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise ValueError(f"{path} names {name!r}, which is no file beside it")
    source = _open_safetensors(str(path), [path.parent / name for name in names])
    for key in weights:
        if key not in source.shapes:
            raise ValueError(f"{path} promises {key!r}, but no shard holds it")
    return source


def _open_torch(path: Path) -> Source:
    torch = torch_for(path)
    # DiT's and SiT's training checkpoints also hold their parsed arguments.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, "cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # torch raises many kinds, some of them its own
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{path} is not a torch file of plain tensors ({reason})"
            ) from None
    for nest in ("ema", "model", "state_dict", "module"):
        if isinstance(state, dict) and isinstance(state.get(nest), dict):
            state = state[nest]
            break
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{key!r} of {path} is a {type(value).__name__}, not a tensor: it "
                "looks like a training checkpoint without 'ema' or 'model' weights"
            )
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    return Source(str(path), shapes, lambda key: _from_torch(torch, state[key]))


def torch_for(path: Path, instead: str = "a .safetensors file") -> Any:
    """torch, to read or write this file; ImportError says what to use instead of it."""
    with suppress(ImportError):
        import torch

        return torch
    raise ImportError(
        f"{path} is a torch file, and torch is not installed: install torch, or use "
        f"{instead}"
    )


def _from_torch(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy does not know it
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
