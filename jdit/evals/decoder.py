# SPDX-License-Identifier: Apache-2.0
"""Latents to pixels, for scores of models of latents."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.codecs import Frames, Stills, load_codec
from jdit.data import Encoded, Latents
from jdit.evals.devices import over_devices
from jdit.evals.protocol import Protocol, params_hash, settings
from jdit.interop.hub import resolve
from jdit.typing import Array, Float, Params

_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


class Decoder:
    """Latents to pixels by one function of a fixed batch, split over all devices.

    Latents are scaled back as the data were scaled that the model was trained on, where
    that is known, and else as the codec's file says. Latents of videos are decoded
    frame by frame where the codec is one of images.

    codec: a folder in diffusers' layout, or a hub's repository. data: the recipe's.
    latent: the shape of one. fields: of the protocol. shape: of what is decoded.
    """

    def __init__(
        self, codec: str | Path, data: Any, batch: int, latent: tuple[int, ...]
    ) -> None:
        made: Any
        made, params = load_codec(resolve(codec))
        name, stills = type(made).__name__, isinstance(made.factor, int)
        scaling = _scaling(data)
        fields = {f.name for f in dataclasses.fields(made)}
        said = settings(made, tuple(fields.difference(_SCALING)))
        if scaling is not None:
            said = f"shift={scaling[0]}, scale={scaling[1]}"
        if stills and len(latent) == 4:
            made = Frames(made)
        elif not stills and len(latent) == 3:
            made = Stills(made)

        def run(params: Params, z: Array) -> Array:
            if scaling is None:
                return made.decode(params, made.denormalise(z))
            shift, scale = (jnp.asarray(x, jnp.float32) for x in scaling)
            return made.decode(params, z / scale + shift)

        self.run, self.batch = over_devices(run, params), batch
        one = jax.ShapeDtypeStruct((1, *latent), "float32")
        self.shape = jax.eval_shape(run, params, one).shape[1:]
        self.fields: Protocol = {
            "codec": f"{name} {params_hash(params)}",
            "codec_scaling": said,
        }

    def __call__(self, z: Float[np.ndarray, "n *g c"]) -> Float[np.ndarray, "n *o e"]:
        images = []
        for start in range(0, len(z), self.batch):
            part = z[start : start + self.batch]
            full = np.concatenate(
                [part, np.repeat(part[-1:], self.batch - len(part), 0)]
            )
            images.append(np.asarray(self.run(full))[: len(part)])
        return np.concatenate(images)


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
