# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' autoencoders of videos, in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdit.codecs.video_layouts import wan_layout
from jdit.codecs.wan import AutoencoderKLQwenImage, AutoencoderKLWan
from jdit.interop.config import NATURAL, Config
from jdit.interop.layout import Layout

Fields = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """How the folder of one class of codecs is read and written.

    codec: the class of ours, which has diffusers' name. config: what its config.json
    may say. names: our field for each of theirs that means the same.
    read, write: the other fields, of ours from theirs and of theirs from the codec;
        `read` raises ValueError, which begins with the path, for what is not supported.
    layout: the tensors of a codec.
    """

    codec: type
    config: Config
    names: Mapping[str, str]
    layout: Callable[[Any], Layout]
    read: Callable[[Path, Fields], Fields] = lambda path, given: {}
    write: Callable[[Any], Fields] = lambda codec: {}

    def open(self, folder: Path) -> Any:
        """The codec of a folder with a config.json."""
        given = self.config.read(folder)
        fields = {ours: given[theirs] for theirs, ours in self.names.items()}
        fields |= self.read(folder / "config.json", given)
        return self.codec(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        )

    def config_of(self, codec: Any) -> Fields:
        """What the config.json of this codec holds."""
        fields = {theirs: getattr(codec, ours) for theirs, ours in self.names.items()}
        written = {**self.config.fixed, **fields, **self.write(codec)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in written.items()}


_FLAGS = "a list of true or false"
_NUMBERS = "a list of numbers or null"

_WAN_NAMES = {
    "base_dim": "width",
    "z_dim": "latent_channels",
    "dim_mult": "multipliers",
    "num_res_blocks": "blocks",
    "temperal_downsample": "halves_time",
    "latents_mean": "latents_mean",
    "latents_std": "latents_std",
}
_WAN_FIELDS = {
    "base_dim": (96, NATURAL),
    "z_dim": (16, NATURAL),
    "dim_mult": ((1, 2, 4, 4), "a list of positive whole numbers"),
    "num_res_blocks": (2, NATURAL),
    "temperal_downsample": ((False, True, True), _FLAGS),
    "latents_mean": (AutoencoderKLWan.latents_mean, _NUMBERS),
    "latents_std": (AutoencoderKLWan.latents_std, _NUMBERS),
}


def _read_wan(path: Path, given: Fields) -> Fields:
    patch = given["patch_size"] or 1
    if given["out_channels"] != given["in_channels"] or given["in_channels"] % patch**2:
        raise ValueError(
            f"{path} has in_channels {given['in_channels']} and out_channels "
            f"{given['out_channels']}, but they must be the same, and a multiple of "
            f"patch_size squared, {patch**2}"
        )
    halved = given["temperal_downsample"]
    for field, factor in (
        ("scale_factor_temporal", 2 ** sum(halved)),
        ("scale_factor_spatial", patch * 2 ** len(halved)),
    ):
        if given[field] not in (factor, None):
            raise ValueError(
                f"{path} has {field} {given[field]!r}, but a codec of these levels "
                f"has {factor}"
            )
    return {"patch": patch, "channels": given["in_channels"] // patch**2}


def _write_wan(codec: AutoencoderKLWan) -> Fields:
    values = codec.channels * codec.patch**2
    return {
        "in_channels": values,
        "out_channels": values,
        "patch_size": None if codec.patch == 1 else codec.patch,
        "scale_factor_temporal": codec.factor[0],
        "scale_factor_spatial": codec.factor[1],
    }


_FIXED = {"attn_scales": [], "dropout": 0.0}

WAN = Folder(
    AutoencoderKLWan,
    Config(
        ("AutoencoderKLWan",),
        _WAN_FIELDS
        | {
            "decoder_base_dim": (None, "a positive whole number or null"),
            "is_residual": (False, "true or false"),
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "patch_size": (None, "a positive whole number or null"),
            "scale_factor_temporal": (4, "a positive whole number or null"),
            "scale_factor_spatial": (8, "a positive whole number or null"),
        },
        _FIXED,
        # Said by some published folders, and read by no version of diffusers.
        ("clip_output",),
        folder="vae",
    ),
    _WAN_NAMES | {"decoder_base_dim": "decoder_width", "is_residual": "shortcuts"},
    wan_layout,
    _read_wan,
    _write_wan,
)

QWEN_IMAGE = Folder(
    AutoencoderKLQwenImage,
    Config(
        ("AutoencoderKLQwenImage",),
        _WAN_FIELDS | {"input_channels": (3, NATURAL)},
        _FIXED,
        folder="vae",
    ),
    _WAN_NAMES | {"input_channels": "channels"},
    wan_layout,
)

FOLDERS = {folder.config.names[0]: folder for folder in (WAN, QWEN_IMAGE)}
