# SPDX-License-Identifier: Apache-2.0
"""Images as a model draws them, each by its number alone, and how they came about."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from jdit.codecs import load_codec
from jdit.data import Encoded, Latents, to_uint8
from jdit.draw import Drawer, by_label
from jdit.evals.devices import over_devices
from jdit.evals.protocol import (
    Protocol,
    params_hash,
    part_hash,
    sampling_fields,
    settings,
)
from jdit.interop.hub import resolve
from jdit.parallel import Plan
from jdit.recipe import Sampling
from jdit.sample import image_keys
from jdit.typing import Array, Float, Params

LABELS = 2**32 - 1
"""Folded into the seed for labels, so that they do not share the images' keys."""

_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


@dataclass(frozen=True)
class Drawn:
    """Images as they are drawn, of the shape `h w c`, as bytes.

    draw: of a seed, labels and the first one's number, float in [-1, 1].
    """

    draw: Callable[[int, np.ndarray, int], np.ndarray]
    labels: Int[np.ndarray, " n"]
    shape: tuple[int, ...]
    seed: int = 0
    rounding: str = "nearest"

    @property
    def count(self) -> int:
        return len(self.labels)

    def stream(self, start: int, batch: int) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        """From image `start` on. Raises ValueError for NaN, and says in which image."""
        for first in range(start, self.count, batch):
            x = self.draw(self.seed, self.labels[first : first + batch], first)
            finite = np.isfinite(x).all((1, 2, 3))
            if not finite.all():
                raise ValueError(
                    f"image {first + int(np.argmin(finite))} of seed {self.seed} has "
                    "NaN or infinite values"
                )
            yield to_uint8(x) if self.rounding == "nearest" else rounded_down(x)


def rounded_down(x: np.ndarray) -> UInt8[np.ndarray, "b h w c"]:
    """Values in [-1, 1] to bytes as REPA's and RAE's code does: the fraction is cut."""
    value = (np.asarray(x, np.float32) + 1) / 2 * np.float32(255)
    return np.clip(value, 0, 255).astype(np.uint8)


def asked_labels(
    scheme: str, classes: int, count: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Label i depends on the seed and on i alone, as image i does."""
    if scheme == "balanced":
        return np.arange(count, dtype=np.int32) % classes
    keys = image_keys(jax.random.fold_in(jax.random.key(seed), LABELS), count)
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))
    return np.asarray(jax.jit(draw)(keys), np.int32)


class Decoder:
    """Latents to pixels by one function of a fixed batch, split over all devices.

    Latents are scaled back as the data were scaled that the model was trained on, where
    that is known, and else as the codec's file says.

    codec: a folder in diffusers' layout, or a hub's repository. data: the recipe's.
    fields: of the protocol.
    """

    def __init__(self, codec: str | Path, data: Any, batch: int) -> None:
        made: Any
        made, params = load_codec(resolve(codec))
        scaling = _scaling(data)
        fields = {f.name for f in dataclasses.fields(made)}
        said = settings(made, tuple(fields.difference(_SCALING)))
        if scaling is not None:
            said = f"shift={scaling[0]}, scale={scaling[1]}"

        def run(params: Params, z: Array) -> Array:
            if scaling is None:
                return made.decode(params, made.denormalise(z))
            shift, scale = (jnp.asarray(x, jnp.float32) for x in scaling)
            return made.decode(params, z / scale + shift)

        self.run, self.batch = over_devices(run, params), batch
        self.shape_of = partial(jax.eval_shape, run, params)
        self.fields: Protocol = {
            "codec": f"{type(made).__name__} {params_hash(params)}",
            "codec_scaling": said,
        }

    def __call__(self, z: Float[np.ndarray, "n *g c"]) -> Float[np.ndarray, "n h w e"]:
        images = []
        for start in range(0, len(z), self.batch):
            part = z[start : start + self.batch]
            full = np.concatenate(
                [part, np.repeat(part[-1:], self.batch - len(part), 0)]
            )
            images.append(np.asarray(self.run(full))[: len(part)])
        return np.concatenate(images)

    def shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """Of an image, given that of its latent."""
        z = jax.ShapeDtypeStruct((1, *latent), "float32")
        return self.shape_of(z).shape[1:]


def _scaling(data: Any) -> tuple[Any, Any] | None:
    """(shift, scale) of a data set of latents: the file's, or what the recipe says."""
    if isinstance(data, Encoded):
        own = data.scaling == "codec"
        return None if own else (data.rescale.shift, data.rescale.scale)
    if not isinstance(data, Latents):
        return None
    if Path(data.path).is_file():
        return data.rescale.shift, data.rescale.scale
    return None if data.scale is None else (data.shift or 0.0, data.scale)


def model_fields(
    model: Any, params: Params, process: Any, sampling: Sampling
) -> Protocol:
    """What draws: the model, its weights, and how the reverse process is integrated."""
    return {
        "model": type(model).__name__,
        "model_hash": part_hash(model),
        "checkpoint": params_hash(params),
        "dtype": str(getattr(model, "dtype", "float32")),
        **sampling_fields(process, sampling),
    }


def drawn_by(
    model: Any,
    params: Params,
    process: Any,
    sampling: Sampling,
    count: int,
    *,
    seed: int = 0,
    labels: str = "balanced",
    rounding: str = "nearest",
    batch: int | None = None,
    codec: str | Path | None = None,
    data: Any = None,
    plan: Plan | None = None,
) -> tuple[Drawn, Protocol, int]:
    """What a model draws, its fields of the protocol, and how many at once.

    batch: the sampling's if None; made a multiple of what the plan splits it into.
    plan: of many devices, for the drawing.
    data: whose `conditions`, if it is a data set that has any, the model is told,
        example after example.

    Raises ValueError for a model of latents without a codec.
    """
    batch = min(batch or sampling.batch, count)
    batch = batch if plan is None else plan.round_up(batch)
    told: Any = getattr(data, "conditions", None)
    if callable(told):
        classes, labels = len(data.source()), "balanced"
        scheme = f"each of {classes} examples in turn"
    else:
        told, classes = by_label, getattr(model.conditioning, "classes", None) or 1
        scheme = f"{labels} of {classes}"
    shape, decode = tuple(model.sample_shape), None
    if codec is not None:
        decode = Decoder(codec, data, min(batch, 32 * jax.local_device_count()))
        shape = decode.shape(shape)
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(
            f"the model draws {shape}, which are no images: give the --codec that "
            "decodes latents"
        )
    drawer = Drawer(model, params, process, sampling, batch, told, plan)

    def draw(seed: int, labels: np.ndarray, first: int) -> np.ndarray:
        x = drawer(seed, labels, first)
        return x if decode is None else decode(x)

    protocol = {
        **model_fields(model, params, process, sampling),
        **({"codec": None, "codec_scaling": None} if decode is None else decode.fields),
        "labels": scheme,
        "seed": seed,
        "rounding": rounding,
    }
    asked = asked_labels(labels, classes, count, seed)
    return Drawn(draw, asked, shape, seed, rounding), protocol, batch
