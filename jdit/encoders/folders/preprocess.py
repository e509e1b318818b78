# SPDX-License-Identifier: Apache-2.0
"""The mean and deviation of images, as an image encoder's folder has them."""

import json
from pathlib import Path
from typing import Any

from jdit.encoders.vision import VisionTransformer
from jdit.interop.files import read_json

_NAME = "preprocessor_config.json"
_PROCESSORS = dict(clip_vision_model="CLIPImageProcessor",
                   siglip_vision_model="SiglipImageProcessor")  # fmt: skip


def read_statistics(folder: Path, channels: int) -> dict[str, Any]:
    """`mean` and `std` of preprocessor_config.json, where there is one.

    Raises ValueError for values that are no numbers, one a channel.
    """
    path = folder / _NAME
    if not path.is_file():
        return {}
    config = read_json(path)
    if config.get("do_normalize", True) is False:
        return dict(mean=(0.0,) * channels, std=(1.0,) * channels)
    found: dict[str, Any] = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        value = config.get(theirs)
        if value is None:
            continue
        numbers = isinstance(value, list) and all(
            isinstance(x, int | float) for x in value
        )
        if not numbers or len(value) != channels:
            raise ValueError(
                f"{path} has {theirs} {value!r}, but it must be {channels} numbers"
            )
        found[ours] = tuple(float(x) for x in value)
    return found


def write_statistics(folder: Path, encoder: VisionTransformer, kind: str) -> None:
    """Write preprocessor_config.json: resize to the native size, and normalise."""
    config: dict[str, Any] = dict(
        image_processor_type=_PROCESSORS.get(kind, "BitImageProcessor"),
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
        do_normalize=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_resize=True,
        size=dict(height=encoder.size, width=encoder.size),
    )
    (folder / _NAME).write_text(json.dumps(config, indent=2, sort_keys=True))
