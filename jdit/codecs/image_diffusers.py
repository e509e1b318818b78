# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' autoencoders of images, in both directions."""

from dataclasses import replace
from pathlib import Path

from jdit.codecs.folder import Fields, Folder
from jdit.codecs.kl import AutoencoderKL
from jdit.codecs.layouts import kl_layout, tiny_layout
from jdit.codecs.tiny import AutoencoderTiny
from jdit.interop.config import NATURAL, Config
from jdit.interop.files import Source

_FLAG, _NATURALS = "true or false", "a list of positive whole numbers"
_WHOLE, _STRINGS = "a list of whole numbers", "a list of strings"
_NUMBERS = "a list of numbers or null"


def _plain_block(field: str) -> str:
    return "DownEncoderBlock2D" if field.startswith("down") else "UpDecoderBlock2D"


def _attended(path: Path, given: Fields, field: str) -> set[int]:
    """The places of those block types that have attention."""
    plain, kinds = _plain_block(field), given[field]
    levels = len(given["block_out_channels"])
    if not set(kinds) <= {plain, f"Attn{plain}"}:
        raise ValueError(
            f"{path} has {field} {kinds!r}, but it must be a list of {plain!r} and "
            f"{f'Attn{plain}'!r}"
        )
    if len(kinds) != levels:
        raise ValueError(
            f"{path} has {len(kinds)} {field}, but {levels} block_out_channels"
        )
    return {i for i, kind in enumerate(kinds) if kind != plain}


def _read_kl(path: Path, given: Fields) -> Fields:
    if given["act_fn"] not in ("silu", "swish"):
        raise ValueError(
            f"{path} has act_fn {given['act_fn']!r}, but only 'silu' is supported"
        )
    down, up = (
        _attended(path, given, f"{side}_block_types") for side in ("down", "up")
    )
    if down != {len(given["block_out_channels"]) - 1 - i for i in up}:
        raise ValueError(
            f"{path} has up_block_types with attention at other resolutions than "
            "down_block_types, but they must be the same"
        )
    alike = given["out_channels"] == given["in_channels"]
    return {
        "out_channels": None if alike else given["out_channels"],
        "attention": tuple(sorted(down)),
    }


def _write_kl(codec: AutoencoderKL) -> Fields:
    def blocks(field: str) -> list[str]:
        plain, levels = _plain_block(field), range(len(codec.widths))
        return [f"Attn{plain}" if i in codec.attention else plain for i in levels]

    return {
        "out_channels": codec.out_channels or codec.channels,
        "act_fn": "silu",
        "down_block_types": blocks("down"),
        "up_block_types": blocks("up")[::-1],
    }


def _with_new_names(source: Source) -> Source:
    """Weights with attention named as since diffusers 0.15 (`to_q`, not `query`)."""
    if not any(key.endswith(".query.weight") for key in source.shapes):
        return source
    names = {}
    for key in source.shapes:
        new = key
        for old, now in (
            (".query.", ".to_q."),
            (".key.", ".to_k."),
            (".value.", ".to_v."),
            (".proj_attn.", ".to_out.0."),
        ):
            new = new.replace(old, now)
        names[new] = key
    shapes = {new: source.shapes[key] for new, key in names.items()}
    return replace(source, shapes=shapes, load=lambda new: source.load(names[new]))


KL = Folder(
    AutoencoderKL,
    Config(
        ("AutoencoderKL",),
        {
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "latent_channels": (4, NATURAL),
            "block_out_channels": ((64,), _NATURALS),
            "layers_per_block": (1, NATURAL),
            "norm_num_groups": (32, NATURAL),
            "mid_block_add_attention": (True, _FLAG),
            "use_quant_conv": (True, _FLAG),
            "use_post_quant_conv": (True, _FLAG),
            "scaling_factor": (0.18215, "a number"),
            "shift_factor": (None, "a number or null"),
            "latents_mean": (None, _NUMBERS),
            "latents_std": (None, _NUMBERS),
            "sample_size": (32, NATURAL),
            "force_upcast": (True, _FLAG),
            "act_fn": ("silu", "a string"),
            "down_block_types": (("DownEncoderBlock2D",), _STRINGS),
            "up_block_types": (("UpDecoderBlock2D",), _STRINGS),
        },
        folder="vae",
    ),
    {
        "in_channels": "channels",
        "latent_channels": "latent_channels",
        "block_out_channels": "widths",
        "layers_per_block": "blocks",
        "norm_num_groups": "groups",
        "mid_block_add_attention": "mid_attention",
        "use_quant_conv": "quant",
        "use_post_quant_conv": "post_quant",
        "scaling_factor": "scaling_factor",
        "shift_factor": "shift_factor",
        "latents_mean": "latents_mean",
        "latents_std": "latents_std",
        "sample_size": "sample_size",
        "force_upcast": "force_upcast",
    },
    kl_layout,
    _read_kl,
    _write_kl,
    view=_with_new_names,
)

_SIDES = {"encoder": "num_encoder_blocks", "decoder": "num_decoder_blocks"}


def _read_tiny(path: Path, given: Fields) -> Fields:
    if given["out_channels"] != given["in_channels"]:
        raise ValueError(
            f"{path} has out_channels {given['out_channels']!r}, but it must be "
            f"in_channels, {given['in_channels']}"
        )
    widths = []
    for side, blocks in _SIDES.items():
        field, count = f"{side}_block_out_channels", len(given[blocks])
        kinds = list(given[field])
        if kinds != kinds[:1] * count:
            raise ValueError(
                f"{path} has {field} {kinds!r}, but it must be one positive whole "
                f"number, {count} times"
            )
        widths.append(kinds[0])
    return {"widths": tuple(widths)}


def _write_tiny(codec: AutoencoderTiny) -> Fields:
    if codec.latents_mean is not None:
        raise ValueError(
            "codec has latents_mean, but diffusers' AutoencoderTiny has no such field"
        )
    levels = len(codec.encoder_blocks)
    encoder, decoder = ([width] * levels for width in codec.widths)
    return {
        "out_channels": codec.channels,
        "encoder_block_out_channels": encoder,
        "decoder_block_out_channels": decoder,
        "block_out_channels": decoder,
    }


TINY = Folder(
    AutoencoderTiny,
    Config(
        ("AutoencoderTiny",),
        {
            "in_channels": (3, NATURAL),
            "out_channels": (3, NATURAL),
            "latent_channels": (4, NATURAL),
            "num_encoder_blocks": ((1, 3, 3, 3), _WHOLE),
            "num_decoder_blocks": ((3, 3, 3, 1), _WHOLE),
            "encoder_block_out_channels": ((64,) * 4, _NATURALS),
            "decoder_block_out_channels": ((64,) * 4, _NATURALS),
            "scaling_factor": (1.0, "a number"),
            "shift_factor": (0.0, "a number"),
        },
        {
            "act_fn": "relu",
            "upsample_fn": "nearest",
            "upsampling_scaling_factor": 2,
            "latent_magnitude": 3,
            "latent_shift": 0.5,
            "force_upcast": False,
        },
        ("block_out_channels",),
        folder="vae",
    ),
    {
        "in_channels": "channels",
        "latent_channels": "latent_channels",
        "num_encoder_blocks": "encoder_blocks",
        "num_decoder_blocks": "decoder_blocks",
        "scaling_factor": "scaling_factor",
        "shift_factor": "shift_factor",
    },
    tiny_layout,
    _read_tiny,
    _write_tiny,
)
