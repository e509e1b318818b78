# SPDX-License-Identifier: Apache-2.0
"""Pipelines from the folders that diffusers writes and the hub holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jdit.interop.files import read_json
from jdit.interop.hub import resolve
from jdit.pipelines.compose import Pipeline
from jdit.pipelines.images import IMAGES
from jdit.pipelines.videos import VIDEOS

INDEX = "model_index.json"


def pipeline(
    name: str | Path, *, revision: str | None = None, **changes: Any
) -> Pipeline:
    """A pipeline of a folder in diffusers' layout, or of a name on the hub.

    name: a folder with model_index.json, or "owner/name", which is downloaded once.
    revision: of the hub's repository: a commit, tag or branch.
    changes: fields of `Pipeline`, such as `steps=30`.

    Read are the pipelines of DiT, PixArt-alpha and -Sigma, Stable Diffusion 3 and 3.5,
    Flux, HunyuanDiT, Lumina-Next and Qwen-Image, which draw images, and of Latte, Wan
    2.1, CogVideoX, LTX-Video and HunyuanVideo, which draw videos. Defaults of steps and
    guidance are diffusers'.

    Raises FileNotFoundError for what is not there, and ValueError for a pipeline of
    another class.
    """
    folder = resolve(name, revision)
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {INDEX}: accepted is the folder of a diffusers pipeline"
        )
    index, known = read_json(path), IMAGES | VIDEOS
    kind = index.get("_class_name")
    if kind not in known:
        raise ValueError(
            f"{path} is of a {kind}, but accepted is one of {', '.join(known)}"
        )
    made = known[kind](folder, index)
    return replace(made, **changes) if changes else made
