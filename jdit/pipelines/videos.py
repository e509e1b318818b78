# SPDX-License-Identifier: Apache-2.0
"""The published pipelines that draw videos: which parts they have, and how set."""

from dataclasses import replace
from pathlib import Path

from jdit.codecs import Frames
from jdit.interop.cogvideox import load_cogvideox
from jdit.interop.hunyuan_video import load_hunyuan_video
from jdit.interop.latte import load_latte
from jdit.interop.ltx_video import load_ltx_video
from jdit.interop.wan import load_wan, load_wan_experts
from jdit.pipelines.compose import Pipeline
from jdit.pipelines.parts import Index, Make, composed, parts, tower
from jdit.pipelines.prompts import OneText, Templated, cleaned, lowered

TEXT = ("text_encoder", "tokenizer")
LLAMA_TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing "
    "the following aspects: 1. The main content and theme of the video.2. The color, "
    "shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes "
    "of the objects.4. background environment, light, style and atmosphere.5. camera "
    "angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
"""What HunyuanVideo was trained to be told; its first 95 tokens are not."""


def _latte(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_latte, wrap=Frames)
    text, params = tower(folder, *TEXT, 120, prepare=lowered)
    prompts = OneText(text, negatives=("text",))
    return composed(fields, prompts, {"text": params}, steps=50, guidance=7.5)


def _wan(folder: Path, index: Index) -> Pipeline:
    if index.get("expand_timesteps"):
        raise ValueError(
            f"{folder} sets expand_timesteps to {index['expand_timesteps']!r}, as Wan "
            "2.2's 5B does, which is told a time for each token, but supported is one "
            "time"
        )
    two = index.get("boundary_ratio") is not None
    fields = parts(folder, load_wan_experts if two else load_wan)
    text, params = tower(folder, *TEXT, 512, prepare=cleaned)
    return composed(fields, OneText(text), {"text": params}, steps=50, guidance=5.0)


def _cogvideox(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_cogvideox)
    text, params = tower(folder, *TEXT, 226)
    prompts = OneText(text, told=False, read=False)
    return composed(fields, prompts, {"text": params}, steps=50, guidance=6.0)


def _ltx_video(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_ltx_video, sigmas=True)
    model, codec = fields["model"], fields["codec"]
    positions = replace(model.positions, pixels=codec.factor)
    fields["model"] = replace(model, positions=positions)
    text, params = tower(folder, *TEXT, 128)
    prompts = OneText(text, read=False)
    return composed(fields, prompts, {"text": params}, steps=50, guidance=3.0)


def _hunyuan_video(folder: Path, index: Index) -> Pipeline:
    fields = parts(folder, load_hunyuan_video, sigmas=True)
    text, one = tower(folder, *TEXT, 256 + 95, side="right", layer=-3)
    pooled, two = tower(folder, "text_encoder_2", "tokenizer_2", 77)
    return composed(
        fields, Templated(text, LLAMA_TEMPLATE, 95, pooled),
        {"text": one, "pooled": two},
        guided="told" if fields["model"].guidance else "none", steps=50, guidance=6.0,
    )  # fmt: skip


VIDEOS: dict[str, Make] = {
    "LattePipeline": _latte,
    "WanPipeline": _wan,
    "CogVideoXPipeline": _cogvideox,
    "LTXPipeline": _ltx_video,
    "HunyuanVideoPipeline": _hunyuan_video,
}
"""By diffusers' class, with its numbers of text tokens, steps and guidance."""
