# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' autoencoders of videos, in both directions."""

from collections.abc import Mapping
from pathlib import Path

from jdit.codecs.cogvideox import AutoencoderKLCogVideoX
from jdit.codecs.folder import Fields, Folder
from jdit.codecs.hunyuan_video import AutoencoderKLHunyuanVideo
from jdit.codecs.ltx import AutoencoderKLLTXVideo
from jdit.codecs.video_layouts import (
    cogvideox_layout,
    hunyuan_video_layout,
    ltx_layout,
    wan_layout,
)
from jdit.codecs.wan import AutoencoderKLQwenImage, AutoencoderKLWan
from jdit.interop.config import NATURAL, Config

_FLAG, _FLAGS = "true or false", "a list of true or false"
_NATURALS, _STRINGS = "a list of positive whole numbers", "a list of strings"
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
    "dim_mult": ((1, 2, 4, 4), _NATURALS),
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
    for name, factor in (
        ("scale_factor_temporal", 2 ** sum(halved)),
        ("scale_factor_spatial", patch * 2 ** len(halved)),
    ):
        if given[name] not in (factor, None):
            raise ValueError(
                f"{path} has {name} {given[name]!r}, but a codec of these levels "
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
            "is_residual": (False, _FLAG),
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


def _alike(path: Path, given: Fields, kinds: Mapping[str, str], count: int) -> None:
    """ValueError unless each of these fields is one kind of block, `count` times."""
    for name, kind in kinds.items():
        if list(given[name]) != [kind] * count:
            raise ValueError(
                f"{path} has {name} {given[name]!r}, but it must be {kind!r}, "
                f"{count} times"
            )


_COG_BLOCKS = {
    "down_block_types": "CogVideoXDownBlock3D",
    "up_block_types": "CogVideoXUpBlock3D",
}


def _read_cogvideox(path: Path, given: Fields) -> Fields:
    _alike(path, given, _COG_BLOCKS, len(given["block_out_channels"]))
    _same_channels(path, given)
    time = given["temporal_compression_ratio"]
    if time not in (1, 2, 4, 8):
        raise ValueError(
            f"{path} has temporal_compression_ratio {time!r}, but it must be 1, 2, 4 "
            "or 8"
        )
    size = (given["sample_height"], given["sample_width"])
    return {"time_factor": int(time), "sample_size": size}


def _same_channels(path: Path, given: Fields) -> None:
    if given["out_channels"] != given["in_channels"]:
        raise ValueError(
            f"{path} has out_channels {given['out_channels']}, but it must be "
            f"in_channels, {given['in_channels']}"
        )


def _write_cogvideox(codec: AutoencoderKLCogVideoX) -> Fields:
    return {
        "out_channels": codec.channels,
        "temporal_compression_ratio": codec.time_factor,
        "sample_height": codec.sample_size[0],
        "sample_width": codec.sample_size[1],
        **{k: [kind] * len(codec.widths) for k, kind in _COG_BLOCKS.items()},
    }


COGVIDEOX = Folder(
    AutoencoderKLCogVideoX,
    Config(
        ("AutoencoderKLCogVideoX",),
        {
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "block_out_channels": ((128, 256, 256, 512), _NATURALS),
            "latent_channels": (16, NATURAL),
            "layers_per_block": (3, NATURAL),
            "norm_num_groups": (32, NATURAL),
            "temporal_compression_ratio": (4, "a number"),
            "sample_height": (480, NATURAL),
            "sample_width": (720, NATURAL),
            "scaling_factor": (1.15258426, "a number"),
            "force_upcast": (True, _FLAG),
            "invert_scale_latents": (False, _FLAG),
            **{k: ((kind,) * 4, _STRINGS) for k, kind in _COG_BLOCKS.items()},
        },
        {
            "act_fn": "silu",
            "norm_eps": 1e-6,
            "shift_factor": None,
            "latents_mean": None,
            "latents_std": None,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        folder="vae",
    ),
    {
        "in_channels": "channels",
        "block_out_channels": "widths",
        "latent_channels": "latent_channels",
        "layers_per_block": "blocks",
        "norm_num_groups": "groups",
        "scaling_factor": "scaling_factor",
        "force_upcast": "force_upcast",
        "invert_scale_latents": "invert_scale_latents",
    },
    cogvideox_layout,
    _read_cogvideox,
    _write_cogvideox,
)

_LTX_FIXED = {
    "down_block_types": "LTXVideoDownBlock3D",
    "downsample_type": "conv",
    "upsample_residual": False,
    "upsample_factor": 1,
    "decoder_inject_noise": False,
}
_LTX_NAMES = {
    "in_channels": "channels",
    "latent_channels": "latent_channels",
    "block_out_channels": "widths",
    "spatio_temporal_scaling": "halves",
    "layers_per_block": "blocks",
    "decoder_block_out_channels": "decoder_widths",
    "decoder_spatio_temporal_scaling": "decoder_halves",
    "decoder_layers_per_block": "decoder_blocks",
    "patch_size": "patch",
    "scaling_factor": "scaling_factor",
}


def _read_ltx(path: Path, given: Fields) -> Fields:
    for name, value in _LTX_FIXED.items():
        if any(x != value for x in given[name]):
            raise ValueError(
                f"{path} has {name} {given[name]!r}, but only {value!r} throughout is "
                "supported, as in LTX-Video 0.9.0"
            )
    _same_channels(path, given)
    halved = sum(given["spatio_temporal_scaling"])
    for name, factor in (
        ("temporal_compression_ratio", 2**halved),
        ("spatial_compression_ratio", given["patch_size"] * 2**halved),
    ):
        if given[name] not in (factor, None):
            raise ValueError(
                f"{path} has {name} {given[name]!r}, but a codec of these levels has "
                f"{factor}"
            )
    return {}


def _write_ltx(codec: AutoencoderKLLTXVideo) -> Fields:
    count = len(codec.widths), len(codec.decoder_widths)
    lengths = (count[0], count[0], count[1], count[1], count[1] + 1)
    return {
        "out_channels": codec.channels,
        **{
            name: [value] * length
            for (name, value), length in zip(_LTX_FIXED.items(), lengths, strict=True)
        },
        "spatial_compression_ratio": None,
        "temporal_compression_ratio": None,
    }


_WIDTHS, _FIVE = (128, 256, 512, 512), (4, 3, 3, 3, 4)

LTX = Folder(
    AutoencoderKLLTXVideo,
    Config(
        ("AutoencoderKLLTXVideo",),
        {
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "latent_channels": (128, NATURAL),
            "block_out_channels": (_WIDTHS, _NATURALS),
            "decoder_block_out_channels": (_WIDTHS, _NATURALS),
            "spatio_temporal_scaling": ((True, True, True, False), _FLAGS),
            "decoder_spatio_temporal_scaling": ((True, True, True, False), _FLAGS),
            "layers_per_block": (_FIVE, _NATURALS),
            "decoder_layers_per_block": (_FIVE, _NATURALS),
            "patch_size": (4, NATURAL),
            "scaling_factor": (1.0, "a number"),
            "down_block_types": ((_LTX_FIXED["down_block_types"],), _STRINGS),
            "downsample_type": (("conv",), _STRINGS),
            "upsample_residual": ((False,), _FLAGS),
            "upsample_factor": ((1,), _NATURALS),
            "decoder_inject_noise": ((False,), _FLAGS),
            "spatial_compression_ratio": (None, "a positive whole number or null"),
            "temporal_compression_ratio": (None, "a positive whole number or null"),
        },
        {
            "timestep_conditioning": False,
            "patch_size_t": 1,
            "resnet_norm_eps": 1e-6,
            "encoder_causal": True,
            "decoder_causal": False,
        },
        folder="vae",
    ),
    _LTX_NAMES,
    ltx_layout,
    _read_ltx,
    _write_ltx,
    {"latents_mean": 0.0, "latents_std": 1.0},
)


_HUNYUAN_BLOCKS = {
    "down_block_types": "HunyuanVideoDownBlock3D",
    "up_block_types": "HunyuanVideoUpBlock3D",
}


def _read_hunyuan_video(path: Path, given: Fields) -> Fields:
    levels = len(given["block_out_channels"])
    _alike(path, given, _HUNYUAN_BLOCKS, levels)
    _same_channels(path, given)
    if given["spatial_compression_ratio"] != 2 ** (levels - 1):
        raise ValueError(
            f"{path} has spatial_compression_ratio "
            f"{given['spatial_compression_ratio']}, but with {levels} levels only "
            f"{2 ** (levels - 1)} is supported"
        )
    return {}


def _write_hunyuan_video(codec: AutoencoderKLHunyuanVideo) -> Fields:
    levels = len(codec.widths)
    return {
        "out_channels": codec.channels,
        "spatial_compression_ratio": codec.factor[1],
        **{name: [kind] * levels for name, kind in _HUNYUAN_BLOCKS.items()},
    }


HUNYUAN_VIDEO = Folder(
    AutoencoderKLHunyuanVideo,
    Config(
        ("AutoencoderKLHunyuanVideo",),
        {
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "latent_channels": (16, NATURAL),
            "block_out_channels": (_WIDTHS, _NATURALS),
            "layers_per_block": (2, NATURAL),
            "norm_num_groups": (32, NATURAL),
            "scaling_factor": (0.476986, "a number"),
            "spatial_compression_ratio": (8, NATURAL),
            "mid_block_add_attention": (True, _FLAG),
            **{k: ((kind,) * 4, _STRINGS) for k, kind in _HUNYUAN_BLOCKS.items()},
        },
        {"act_fn": "silu", "temporal_compression_ratio": 4},
        folder="vae",
    ),
    {
        "in_channels": "channels",
        "latent_channels": "latent_channels",
        "block_out_channels": "widths",
        "layers_per_block": "blocks",
        "norm_num_groups": "groups",
        "scaling_factor": "scaling_factor",
        "mid_block_add_attention": "attention",
    },
    hunyuan_video_layout,
    _read_hunyuan_video,
    _write_hunyuan_video,
)

FOLDERS = {
    folder.config.names[0]: folder
    for folder in (WAN, QWEN_IMAGE, COGVIDEOX, LTX, HUNYUAN_VIDEO)
}
