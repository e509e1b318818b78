# SPDX-License-Identifier: Apache-2.0
"""Latents to pixels, for scores of models of latents."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.codecs import load_codec
from jdit.data import Latents
from jdit.evals.devices import over_devices
from jdit.evals.protocol import Protocol, params_hash, settings
from jdit.interop.hub import resolve
from jdit.typing import Array, Float, Params

_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


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
    if not isinstance(data, Latents):
        return None
    if Path(data.path).is_file():
        return data.rescale.shift, data.rescale.scale
    return None if data.scale is None else (data.shift or 0.0, data.scale)
