# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' autoencoders, in both directions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdit.codecs.kl import AutoencoderKL
from jdit.codecs.layouts import DIFFUSERS, OLD_DIFFUSERS, kl_layout, tiny_layout
from jdit.codecs.tiny import AutoencoderTiny
from jdit.codecs.video import VideoCodec
from jdit.codecs.video_diffusers import FOLDERS
from jdit.interop.config import ACCEPTED, META, NATURAL, open_weights, write_folder
from jdit.interop.files import DType, read_json
from jdit.interop.layout import pack, unpack
from jdit.typing import Params

AnyCodec = AutoencoderKL | AutoencoderTiny | VideoCodec

_CLASSES = ("AutoencoderKL", "AutoencoderTiny", *FOLDERS)
_ACCEPTED = f"{', '.join(_CLASSES[:-1])} or {_CLASSES[-1]}"

_KL = {
    "in_channels": ("channels", 3, "a positive whole number"),
    "out_channels": ("out_channels", 3, "a positive whole number"),
    "latent_channels": ("latent_channels", 4, "a positive whole number"),
    "block_out_channels": ("widths", (64,), "a list of positive whole numbers"),
    "layers_per_block": ("blocks", 1, "a positive whole number"),
    "norm_num_groups": ("groups", 32, "a positive whole number"),
    "mid_block_add_attention": ("mid_attention", True, "true or false"),
    "use_quant_conv": ("quant", True, "true or false"),
    "use_post_quant_conv": ("post_quant", True, "true or false"),
    "scaling_factor": ("scaling_factor", 0.18215, "a number"),
    "shift_factor": ("shift_factor", None, "a number or null"),
    "latents_mean": ("latents_mean", None, "a list of numbers or null"),
    "latents_std": ("latents_std", None, "a list of numbers or null"),
    "sample_size": ("sample_size", 32, "a positive whole number"),
    "force_upcast": ("force_upcast", True, "true or false"),
}
"""Fields of AutoencoderKL: ours, diffusers' default, what is accepted."""

_TINY = {
    "in_channels": ("channels", 3, "a positive whole number"),
    "latent_channels": ("latent_channels", 4, "a positive whole number"),
    "num_encoder_blocks": ("encoder_blocks", (1, 3, 3, 3), "a list of whole numbers"),
    "num_decoder_blocks": ("decoder_blocks", (3, 3, 3, 1), "a list of whole numbers"),
    "scaling_factor": ("scaling_factor", 1.0, "a number"),
    "shift_factor": ("shift_factor", 0.0, "a number"),
}
_TINY_FIXED = {
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "latent_magnitude": (3,),
    "latent_shift": (0.5,),
    "force_upcast": (False,),
}
_WIDTHS = ("encoder_block_out_channels", "decoder_block_out_channels")


def load_codec(folder: str | Path) -> tuple[AnyCodec, Params]:
    """A codec and its parameters (float32) from a folder that diffusers wrote.

    folder: of an AutoencoderKL or AutoencoderTiny, or of a codec of videos
        (config.json and diffusion_pytorch_model .safetensors, whole or sharded; .bin
        needs torch), or of a pipeline, whose `vae` is read. An AutoencoderKL's
        attention may have the names of old folders (`query`) or of new (`to_q`).

    Raises FileNotFoundError, and ValueError naming the config's field or the tensor
    that is unknown, missing or cannot be honoured.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "vae").is_dir():
        folder = folder / "vae"
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json, but accepted is the folder of a diffusers "
            f"{_ACCEPTED}, or of a pipeline with one"
        )
    config = read_json(path)
    name = config.get("_class_name", "AutoencoderKL")
    if name not in _CLASSES:
        raise ValueError(f"{path} is of a {name}, but accepted is {_ACCEPTED}")
    source = open_weights(folder)
    if name in FOLDERS:
        video = FOLDERS[name].open(folder, source)
        return video, unpack(FOLDERS[name].layout(video), video, source)
    if name == "AutoencoderTiny":
        tiny = _read_tiny(path, config)
        return tiny, unpack(tiny_layout(tiny), tiny, source)
    codec = _read_kl(path, config)
    old = any(key.endswith(".query.weight") for key in source.shapes)
    layout = kl_layout(codec, OLD_DIFFUSERS if old else DIFFUSERS)
    return codec, unpack(layout, codec, source)


def save_codec(
    folder: str | Path,
    codec: AnyCodec,
    params: Params,
    *,
    dtype: DType = "float32",
) -> None:
    """Write the folder that diffusers reads: the inverse of `load_codec`.

    Raises ValueError for another codec, for parameters that are not the codec's, and
    for a folder that holds a sharded model.
    """
    config = config_of(codec)
    if isinstance(codec, VideoCodec):
        layout = FOLDERS[type(codec).__name__].layout(codec)
    elif isinstance(codec, AutoencoderTiny):
        layout = tiny_layout(codec)
    else:
        layout = kl_layout(codec)
    write_folder(folder, config, pack(layout, codec, params), dtype)


def config_of(codec: AnyCodec) -> dict[str, Any]:
    """What diffusers' config.json of this codec holds.

    Raises ValueError for a codec that diffusers cannot express.
    """
    if isinstance(codec, AutoencoderKL):
        config = _write_kl(codec)
    elif isinstance(codec, AutoencoderTiny):
        config = _write_tiny(codec)
    elif type(codec).__name__ in FOLDERS:
        config = FOLDERS[type(codec).__name__].config_of(codec)
    else:
        raise ValueError(
            f"codec is a {type(codec).__name__}, but accepted is {_ACCEPTED}"
        )
    return config | {"_class_name": type(codec).__name__}


def _read(
    path: Path, config: Mapping[str, Any], plain: Mapping[str, tuple[str, Any, str]]
) -> dict[str, Any]:
    """Our fields from theirs; lists become tuples."""
    fields = {}
    for theirs, (ours, default, kind) in plain.items():
        value = config.get(theirs, default)
        if not ACCEPTED[kind](value):
            raise ValueError(f"{path} has {theirs} {value!r}, but it must be {kind}")
        fields[ours] = tuple(value) if isinstance(value, list) else value
    return fields


def _known(path: Path, config: Mapping[str, Any], known: Any, fixed: Any) -> None:
    for field, value in config.items():
        if field in fixed and value not in fixed[field]:
            raise ValueError(
                f"{path} has {field} {value!r}, but only {fixed[field][0]!r} is "
                "supported"
            )
        if field not in (*known, *fixed, *META):
            raise ValueError(f"{path} has the unknown field {field!r}")


def _read_kl(path: Path, config: dict[str, Any]) -> AutoencoderKL:
    types = ("down_block_types", "up_block_types")
    _known(path, config, (*_KL, *types), {"act_fn": ("silu", "swish")})
    fields = _read(path, config, _KL)
    last = len(fields["widths"]) - 1
    down, up = (_attended(path, config, field, last) for field in types)
    if down != {last - i for i in up}:
        raise ValueError(
            f"{path} has up_block_types with attention at other resolutions than "
            "down_block_types, but they must be the same"
        )
    if fields["out_channels"] == fields["channels"]:
        fields["out_channels"] = None
    return AutoencoderKL(**fields, attention=tuple(sorted(down)))


def _attended(path: Path, config: dict[str, Any], field: str, last: int) -> set[int]:
    """The places of those block types that have attention."""
    plain, attended = _block_types(field)
    given = config.get(field, [plain])
    if not isinstance(given, list) or not set(given) <= {plain, attended}:
        raise ValueError(
            f"{path} has {field} {given!r}, but it must be a list of {plain!r} and "
            f"{attended!r}"
        )
    if len(given) != last + 1:
        raise ValueError(
            f"{path} has {len(given)} {field}, but {last + 1} block_out_channels"
        )
    return {i for i, kind in enumerate(given) if kind == attended}


def _block_types(field: str) -> tuple[str, str]:
    plain = "DownEncoderBlock2D" if field.startswith("down") else "UpDecoderBlock2D"
    return plain, f"Attn{plain}"


def _write_kl(codec: AutoencoderKL) -> dict[str, Any]:
    config = {field: getattr(codec, ours) for field, (ours, _, _) in _KL.items()}
    config["out_channels"] = codec.out_channels or codec.channels
    levels = range(len(codec.widths))
    down, up = _block_types("down"), _block_types("up")
    config["down_block_types"] = [down[i in codec.attention] for i in levels]
    config["up_block_types"] = [up[i in codec.attention] for i in reversed(levels)]
    return config | {"act_fn": "silu"}


def _read_tiny(path: Path, config: dict[str, Any]) -> AutoencoderTiny:
    known = (*_TINY, *_WIDTHS, "out_channels", "block_out_channels")
    _known(path, config, known, _TINY_FIXED)
    fields = _read(path, config, _TINY)
    if config.get("out_channels", 3) != fields["channels"]:
        raise ValueError(
            f"{path} has out_channels {config.get('out_channels', 3)!r}, but it must "
            f"be in_channels, {fields['channels']}"
        )
    widths = []
    for field, blocks in zip(
        _WIDTHS, (fields["encoder_blocks"], fields["decoder_blocks"]), strict=True
    ):
        given = config.get(field, [64] * 4)
        alike = len(given) == len(blocks) and len(set(given)) == 1
        if not alike or not ACCEPTED[NATURAL](given[0]):
            raise ValueError(
                f"{path} has {field} {given!r}, but it must be one positive whole "
                f"number, {len(blocks)} times"
            )
        widths.append(given[0])
    return AutoencoderTiny(**fields, widths=(widths[0], widths[1]))


def _write_tiny(codec: AutoencoderTiny) -> dict[str, Any]:
    if codec.latents_mean is not None:
        raise ValueError(
            "codec has latents_mean, but diffusers' AutoencoderTiny has no such field"
        )
    config = {field: getattr(codec, ours) for field, (ours, _, _) in _TINY.items()}
    config |= {field: values[0] for field, values in _TINY_FIXED.items()}
    levels = len(codec.encoder_blocks)
    for field, width in zip(_WIDTHS, codec.widths, strict=True):
        config[field] = [width] * levels
    config["block_out_channels"] = config[_WIDTHS[1]]
    return config | {"out_channels": codec.channels}
