# SPDX-License-Identifier: Apache-2.0
"""Pipelines from the folders that diffusers writes and the hub holds."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jdit.codecs import Frames, load_codec
from jdit.encoders import load_encoder
from jdit.encoders.tokenizer import load_tokenizer
from jdit.interop.diffusers import from_diffusers
from jdit.interop.files import read_json
from jdit.interop.flux import load_flux
from jdit.interop.hub import resolve
from jdit.interop.latte import load_latte
from jdit.interop.mmdit import load_mmdit
from jdit.interop.pixart import load_pixart
from jdit.interop.schedulers import scheduler_from_diffusers
from jdit.pipelines.compose import Pipeline, Weights
from jdit.pipelines.prompts import (
    ClassNames,
    OneText,
    PooledAndText,
    TextTower,
    ThreeTexts,
)
from jdit.typing import Params

INDEX = "model_index.json"


def pipeline(
    name: str | Path, *, revision: str | None = None, **changes: Any
) -> Pipeline:
    """A pipeline of a folder in diffusers' layout, or of a name on the hub.

    name: a folder with model_index.json, or "owner/name", which is downloaded once.
    revision: of the hub's repository: a commit, tag or branch.
    changes: fields of `Pipeline`, such as `steps=30`.

    Read are the pipelines of DiT, PixArt-alpha and -Sigma, Stable Diffusion 3 and 3.5,
    Flux, and Latte, which draws videos. Defaults of steps and guidance are diffusers'.

    Raises FileNotFoundError for what is not there, and ValueError for a pipeline of
    another class.
    """
    folder = resolve(name, revision)
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {INDEX}: accepted is the folder of a diffusers pipeline"
        )
    index = read_json(path)
    kind = index.get("_class_name")
    if kind not in _PIPELINES:
        raise ValueError(
            f"{path} is of a {kind}, but accepted is one of {', '.join(_PIPELINES)}"
        )
    made = _PIPELINES[kind](folder, index)
    return replace(made, **changes) if changes else made


def tower(
    folder: Path, encoder: str, tokenizer: str, length: int, **chosen: Any
) -> tuple[TextTower, Params]:
    """A text encoder and its tokeniser, from their places in a pipeline's folder."""
    model, params = load_encoder(folder / encoder, **chosen)
    return TextTower(model, load_tokenizer(folder / tokenizer, length=length)), params


def _parts(
    folder: Path, load: Callable, sigmas: bool = False, frames: bool = False
) -> dict[str, Any]:
    model, params = load(folder)
    codec, codec_params = load_codec(folder / "vae")

    def scheduler(tokens: int) -> Any:
        return scheduler_from_diffusers(folder, tokens=tokens, sigmas=sigmas)

    scheduler(model.tokens.count)  # what cannot be honoured is said now
    size = tuple(codec.factor * side for side in model.grid[-2:])
    return dict(
        model=model,
        codec=Frames(codec) if frames else codec,
        scheduler=scheduler,
        size=(*model.grid[:-2], *size),
        weights=Weights(params, codec_params, {}),
    )


def _with(
    parts: dict[str, Any], prompts: Any, encoders: Params, **more: Any
) -> Pipeline:
    weights = parts.pop("weights")._replace(encoders=encoders)
    return Pipeline(prompts=prompts, weights=weights, **parts | more)


def _dit(folder: Path, index: dict[str, Any]) -> Pipeline:
    parts = _parts(folder, from_diffusers)
    classes = parts["model"].conditioning.classes
    given = index.get("id2label") or {}
    names = tuple(str(given.get(str(i), i)) for i in range(classes))
    return _with(parts, ClassNames(names), {}, steps=50, guidance=4.0)


def _pixart(length: int, folder: Path, index: dict[str, Any]) -> Pipeline:
    parts = _parts(folder, load_pixart)
    text, params = tower(folder, "text_encoder", "tokenizer", length)
    return _with(parts, OneText(text), {"text": params}, steps=20, guidance=4.5)


def _latte(folder: Path, index: dict[str, Any]) -> Pipeline:
    parts = _parts(folder, load_latte, frames=True)
    text, params = tower(folder, "text_encoder", "tokenizer", 120)
    prompts = OneText(text, negatives=("text",))
    return _with(parts, prompts, {"text": params}, steps=50, guidance=7.5)


def _sd3(folder: Path, index: dict[str, Any]) -> Pipeline:
    parts = _parts(folder, load_mmdit)
    clip = dict(skip=1, normed=False)
    first, one = tower(folder, "text_encoder", "tokenizer", 77, **clip)
    second, two = tower(folder, "text_encoder_2", "tokenizer_2", 77, **clip)
    encoders, text = {"first": one, "second": two}, None
    if (index.get("text_encoder_3") or [None])[0] is not None:
        text, encoders["text"] = tower(folder, "text_encoder_3", "tokenizer_3", 256)
    prompts = ThreeTexts(first, second, text, parts["model"].conditioning.features)
    return _with(parts, prompts, encoders, steps=28, guidance=7.0)


def _flux(folder: Path, index: dict[str, Any]) -> Pipeline:
    parts = _parts(folder, load_flux, sigmas=True)
    pooled, one = tower(folder, "text_encoder", "tokenizer", 77)
    text, two = tower(folder, "text_encoder_2", "tokenizer_2", 512)
    prompts, encoders = PooledAndText(pooled, text), {"pooled": one, "text": two}
    told = parts["model"].guidance
    return _with(
        parts, prompts, encoders, guided="told" if told else "none",
        steps=28 if told else 4, guidance=3.5,
    )  # fmt: skip


_PIPELINES: dict[str, Callable[[Path, dict[str, Any]], Pipeline]] = {
    "DiTPipeline": _dit,
    "PixArtAlphaPipeline": partial(_pixart, 120),
    "PixArtSigmaPipeline": partial(_pixart, 300),
    "StableDiffusion3Pipeline": _sd3,
    "LattePipeline": _latte,
    "FluxPipeline": _flux,
}
"""The published classes, with the number of text tokens diffusers pads to."""
