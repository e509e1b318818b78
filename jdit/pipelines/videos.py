# SPDX-License-Identifier: Apache-2.0
"""The published pipelines that draw videos: which parts they have, and how set."""

from pathlib import Path

from jdit.codecs import Frames
from jdit.interop.cogvideox import load_cogvideox
from jdit.interop.latte import load_latte
from jdit.interop.wan import load_wan
from jdit.pipelines.compose import Pipeline
from jdit.pipelines.parts import Index, Make, composed, parts, tower
from jdit.pipelines.prompts import OneText, cleaned, lowered

TEXT = ("text_encoder", "tokenizer")


def _latte(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_latte, wrap=Frames)
    text, params = tower(folder, *TEXT, 120, prepare=lowered)
    prompts = OneText(text, negatives=("text",))
    return composed(fields, prompts, {"text": params}, steps=50, guidance=7.5)


def _wan(folder: Path, index: Index) -> Pipeline:
    for field in ("boundary_ratio", "expand_timesteps"):
        if index.get(field):
            raise ValueError(
                f"{folder} sets {field} to {index[field]!r}, as Wan 2.2 does, but "
                "supported is Wan 2.1: one transformer, told one time"
            )
    fields = parts(folder, load_wan)
    text, params = tower(folder, *TEXT, 512, prepare=cleaned)
    return composed(fields, OneText(text), {"text": params}, steps=50, guidance=5.0)


def _cogvideox(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_cogvideox)
    text, params = tower(folder, *TEXT, 226)
    prompts = OneText(text, told=False, read=False)
    return composed(fields, prompts, {"text": params}, steps=50, guidance=6.0)


VIDEOS: dict[str, Make] = {
    "LattePipeline": _latte,
    "WanPipeline": _wan,
    "CogVideoXPipeline": _cogvideox,
}
"""By diffusers' class, with its numbers of text tokens, steps and guidance."""
