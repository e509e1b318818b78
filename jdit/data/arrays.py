# SPDX-License-Identifier: Apache-2.0
"""Arrays in memory, and files of precomputed latents."""

import functools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jdit.data.base import ArraySource, Record, normals


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays in memory.

    x_0: `n *g c`; bytes are images, scaled to [-1, 1] by the pipeline; floats are used
        as they are, as float32.
    label: `n` integers from 0, or None.
    caption: `n` strings, or None.
    names: names of the labels; the numbers 0 ... max(label) if None.

    Raises ValueError for arrays that do not fit each other.
    """

    x_0: NDArray[Any]
    label: NDArray[Any] | None = None
    caption: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        x_0 = np.asarray(self.x_0)
        if x_0.ndim < 2:
            raise ValueError(
                f"x_0 has shape {x_0.shape}, but it needs (examples, *grid, channels)"
            )
        if x_0.dtype != np.uint8 and x_0.dtype.kind != "f":
            raise ValueError(f"x_0 has dtype {x_0.dtype}, but must be uint8 or float")
        if self.label is not None:
            _check_label(np.asarray(self.label), self.names)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return np.shape(self.x_0)[1:]

    @property
    def classes(self) -> tuple[str, ...] | None:
        if self.label is None or self.names is not None:
            return self.names
        return tuple(map(str, range(int(np.max(self.label)) + 1)))

    def source(self) -> ArraySource:
        x_0 = np.asarray(self.x_0)
        if x_0.dtype != np.uint8:
            x_0 = x_0.astype(np.float32, copy=False)
        columns = {"x_0": x_0}
        if self.label is not None:
            columns["label"] = np.asarray(self.label, np.int32)
        if self.caption is not None:
            columns["caption"] = np.asarray(self.caption, np.str_)
        return ArraySource("Arrays", columns)


@dataclass(frozen=True)
class PosteriorMean:
    """The mean of a Gaussian posterior stored as moments, `b *g 2c` -> `b *g c`."""

    def __call__(self, batch: Record, keys: NDArray[np.uint64]) -> Record:
        mean, _ = np.split(np.asarray(batch["x_0"], np.float32), 2, axis=-1)
        return {**batch, "x_0": mean}


@dataclass(frozen=True)
class PosteriorSample:
    """A draw from the stored posterior, another one each epoch, as DiT trains.

    `x_0 = mean + exp(logvar / 2) noise` for moments (mean, logvar) side by side on the
    channel axis; logvar is clipped to [-30, 20]. The noise is a function of the seed,
    the epoch and the example.

    Source: CompVis/latent-diffusion, ldm/modules/distributions/distributions.py.
    """

    def __call__(self, batch: Record, keys: NDArray[np.uint64]) -> Record:
        mean, logvar = np.split(np.asarray(batch["x_0"], np.float32), 2, axis=-1)
        noise = normals(keys, mean.shape[1:])
        scale = np.exp(np.clip(logvar, -30, 20) / 2)
        return {**batch, "x_0": mean + scale * noise}


@dataclass(frozen=True)
class Rescale:
    """`x_0 = (z - shift) scale` in float32; numbers, or one for each channel."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(self, batch: Record, keys: NDArray[np.uint64]) -> Record:
        z = np.asarray(batch["x_0"], np.float32)
        shift, scale = (
            np.array(self.shift, np.float32),
            np.array(self.scale, np.float32),
        )
        return {**batch, "x_0": (z - shift) * scale}


Posterior = PosteriorMean | PosteriorSample | Callable[..., Record]


@dataclass(frozen=True)
class Latents:
    """Precomputed latents in a file, normalised for the model.

    path: .npz or .safetensors with "x_0" and, if there are classes, "label", read into
        memory; or .npy of x_0 alone, memory-mapped. Nothing is unpickled.
    label_path: a .npy of labels, beside a .npy of latents.
    shift, scale: the model sees `(z - shift) scale`; a number or one for each channel.
        None takes the arrays "shift" and "scale" of the file, else 0 and 1. For Stable
        Diffusion's VAE: 0 and 0.18215.
    posterior: `PosteriorSample()` or `PosteriorMean()` where the file stores moments,
        (mean, logvar) side by side on the channel axis; None for plain latents.
    channels_first: x_0 is `n c *g` in the file (PyTorch's order).
    names: names of the labels; numbers if None.
    conditions: other arrays of the file, by name, that the model is told, such as
        ("text", "mask") of precomputed text; one row for each example.

    Raises FileNotFoundError, or ValueError for a file or an array that does not fit.
    """

    path: str
    label_path: str | None = None
    shift: float | tuple[float, ...] | None = None
    scale: float | tuple[float, ...] | None = None
    posterior: Posterior | None = None
    channels_first: bool = False
    names: tuple[str, ...] | None = None
    conditions: tuple[str, ...] = ()

    @functools.cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = _read(Path(self.path))
        if "x_0" not in arrays:
            raise ValueError(
                f"path {self.path!r} holds {sorted(arrays)}, but latents are read from "
                "an array named 'x_0'"
            )
        x_0 = arrays["x_0"]
        if x_0.ndim < 3 or x_0.dtype.kind not in "fV":
            raise ValueError(
                f"x_0 in {self.path!r} is {x_0.dtype}{list(x_0.shape)}, but latents "
                "are floats of shape (examples, *grid, channels)"
            )
        if self.channels_first:
            arrays["x_0"] = np.moveaxis(x_0, 1, -1)
        if self.posterior is not None and arrays["x_0"].shape[-1] % 2:
            raise ValueError(
                f"posterior needs moments, an even number of channels, but x_0 in "
                f"{self.path!r} has {arrays['x_0'].shape[-1]}"
            )
        if self.label_path is not None:
            arrays["label"] = _read(Path(self.label_path))["x_0"]
        if "label" in arrays:
            _check_label(arrays["label"], self.names)
        for name in self.conditions:
            if name not in arrays:
                raise ValueError(
                    f"conditions names {name!r}, but path {self.path!r} holds "
                    f"{sorted(arrays)}"
                )
        return arrays

    @property
    def sample_shape(self) -> tuple[int, ...]:
        *grid, channels = self._arrays["x_0"].shape[1:]
        return (*grid, channels // 2 if self.posterior is not None else channels)

    @property
    def classes(self) -> tuple[str, ...] | None:
        label = self._arrays.get("label")
        if label is None or self.names is not None:
            return self.names
        return tuple(map(str, range(int(label.max()) + 1)))

    @property
    def rescale(self) -> Rescale:
        """The normalisation in use; before decoding, `z = x_0 / scale + shift`."""
        channels = self.sample_shape[-1]
        values = []
        for name, given, default in (
            ("shift", self.shift, 0.0),
            ("scale", self.scale, 1.0),
        ):
            value = self._arrays.get(name, default) if given is None else given
            flat = np.ravel(value).astype(float)
            if flat.size not in (1, channels):
                raise ValueError(
                    f"{name} has {flat.size} numbers, but latents of {channels} "
                    f"channels need 1 or {channels}"
                )
            values.append(tuple(flat.tolist()))
        return Rescale(*values)

    @property
    def transforms(self) -> tuple[Callable[..., Record], ...]:
        first = () if self.posterior is None else (self.posterior,)
        return (*first, self.rescale)

    def source(self) -> ArraySource:
        arrays = self._arrays
        columns = {"x_0": arrays["x_0"]}
        if "label" in arrays:
            columns["label"] = np.asarray(arrays["label"], np.int32)
        columns |= {name: arrays[name] for name in self.conditions}
        return ArraySource("Latents", columns)


def _check_label(label: NDArray[Any], names: tuple[str, ...] | None) -> None:
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise ValueError(
            f"label is {label.dtype}{list(label.shape)}, but it must be one integer "
            "for each example"
        )
    top = int(label.max(initial=0))
    if int(label.min(initial=0)) < 0 or (names is not None and top >= len(names)):
        known = f"0 ... {len(names) - 1}" if names is not None else "0 or more"
        raise ValueError(
            f"label has values {int(label.min())} ... {top}, but they must be {known}"
        )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"path is {str(path)!r}, but there is no such file")
    try:
        if path.suffix == ".npy":
            return {"x_0": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            return load_file(path)
    except (
        ValueError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as e:
        raise ValueError(f"path {str(path)!r} cannot be read as arrays: {e}") from e
    raise ValueError(
        f"path {str(path)!r} ends in {path.suffix!r}, but latents are .npy, .npz or "
        ".safetensors"
    )
