# SPDX-License-Identifier: Apache-2.0
"""The published pipelines that draw images: which parts they have, and how set."""

from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jdit.codecs import Stills
from jdit.guidance import CFG
from jdit.interop.diffusers import from_diffusers
from jdit.interop.flux import load_flux
from jdit.interop.hunyuan_dit import load_hunyuan_dit
from jdit.interop.lumina import next_dit_from_diffusers
from jdit.interop.mmdit import load_mmdit
from jdit.interop.pixart import load_pixart
from jdit.interop.qwen_image import load_qwen_image
from jdit.models import HunyuanDiT, NextDiT
from jdit.pipelines.compose import Pipeline
from jdit.pipelines.guided import TokenCFG
from jdit.pipelines.parts import Index, Make, composed, parts, tower
from jdit.pipelines.prompts import (
    ClassNames,
    OneText,
    PooledAndText,
    Templated,
    ThreeTexts,
    TwoMaskedTexts,
    lowered,
)
from jdit.tokens.stretched import Scaled
from jdit.typing import Conditions

QWEN_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, "
    "texture, quantity, text, spatial relationships of the objects and background:"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What Qwen-Image was trained to be told; its first 34 tokens are not."""


def _dit(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, from_diffusers)
    classes = fields["model"].conditioning.classes
    given = index.get("id2label") or {}
    names = tuple(str(given.get(str(i), i)) for i in range(classes))
    return composed(fields, ClassNames(names), {}, steps=50, guidance=4.0)


def _pixart(length: int, folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_pixart)
    places = ("text_encoder", "tokenizer", length)
    text, params = tower(folder, *places, prepare=lowered)
    return composed(fields, OneText(text), {"text": params}, steps=20, guidance=4.5)


def _sd3(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_mmdit)
    clip: dict[str, Any] = dict(skip=1, normed=False)
    first, one = tower(folder, "text_encoder", "tokenizer", 77, **clip)
    second, two = tower(folder, "text_encoder_2", "tokenizer_2", 77, **clip)
    encoders, text = {"first": one, "second": two}, None
    if (index.get("text_encoder_3") or [None])[0] is not None:
        text, encoders["text"] = tower(folder, "text_encoder_3", "tokenizer_3", 256)
    prompts = ThreeTexts(first, second, text, fields["model"].conditioning.features)
    return composed(fields, prompts, encoders, steps=28, guidance=7.0)


def _flux(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_flux, sigmas=True)
    pooled, one = tower(folder, "text_encoder", "tokenizer", 77)
    text, two = tower(folder, "text_encoder_2", "tokenizer_2", 512)
    prompts, encoders = PooledAndText(pooled, text), {"pooled": one, "text": two}
    told = fields["model"].guidance
    return composed(
        fields, prompts, encoders, guided="told" if told else "none",
        steps=28 if told else 4, guidance=3.5,
    )  # fmt: skip


def _hunyuan_dit(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_hunyuan_dit)
    first, one = tower(folder, "text_encoder", "tokenizer", 77)
    second, two = tower(folder, "text_encoder_2", "tokenizer_2", 256)
    return composed(
        fields, TwoMaskedTexts(first, second), {"first": one, "second": two},
        told=_hunyuan_sizes, steps=50, guidance=5.0,
    )  # fmt: skip


def _hunyuan_sizes(model: HunyuanDiT) -> Conditions:
    """An original of 1,024 pixels, not cropped, and the wanted size."""
    if not model.sizes:
        return {}
    height, width = (8.0 * side for side in model.grid)
    return {"sizes": jnp.array([[1024.0, 1024.0, height, width, 0.0, 0.0]])}


def _lumina(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, next_dit_from_diffusers)
    places = ("text_encoder", "tokenizer", 256)
    text, params = tower(folder, *places, prepare=lowered, layer=-2)
    return composed(
        fields, OneText(text), {"text": params}, guide=partial(CFG, channels=3),
        fit=partial(_lumina_on_grid, fields["model"].tokens.count), steps=30,
        guidance=4.0,
    )  # fmt: skip


def _lumina_on_grid(trained: int, model: NextDiT, grid: tuple[int, ...]) -> NextDiT:
    """Positions interpolated to the trained area, attention in proportion to it.

    Lumina-Next's code would pass to a larger base at times below 1 - watershed, which
    is time 0 unless told otherwise.
    """
    sized = replace(model, grid=grid)
    scale = sqrt(sized.tokens.count / trained)
    return replace(sized, stretch=Scaled(linear=scale), base_tokens=trained)


def _qwen_image(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_qwen_image, sigmas=True, wrap=Stills)
    length = 1024 + 34
    text, params = tower(folder, "text_encoder", "tokenizer", length, side="right")
    return composed(
        fields, Templated(text, QWEN_TEMPLATE, 34), {"text": params}, guide=TokenCFG,
        steps=50, guidance=4.0,
    )  # fmt: skip


IMAGES: dict[str, Make] = {
    "DiTPipeline": _dit,
    "PixArtAlphaPipeline": partial(_pixart, 120),
    "PixArtSigmaPipeline": partial(_pixart, 300),
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "HunyuanDiTPipeline": _hunyuan_dit,
    "LuminaPipeline": _lumina,
    "LuminaText2ImgPipeline": _lumina,
    "QwenImagePipeline": _qwen_image,
}
"""By diffusers' class, with its numbers of text tokens, steps and guidance."""
