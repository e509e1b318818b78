# SPDX-License-Identifier: Apache-2.0
"""A model as a source of images, and what of it is in the protocol."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdit.draw import Drawer, by_label
from jdit.evals.decoder import Decoder
from jdit.evals.drawn import Drawn, asked_labels
from jdit.evals.protocol import Protocol, params_hash, part_hash, sampling_fields
from jdit.parallel import Plan
from jdit.recipe import Sampling
from jdit.typing import Params


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
        at_once = (4 if len(shape) == 4 else 32) * jax.local_device_count()
        decode = Decoder(codec, data, min(batch, at_once), shape)
        shape = decode.shape
    if len(shape) not in (3, 4) or shape[-1] not in (1, 3):
        raise ValueError(
            f"the model draws {shape}, which are no images or videos: give the --codec "
            "that decodes latents"
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
