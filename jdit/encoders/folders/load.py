# SPDX-License-Identifier: Apache-2.0
"""An encoder from a folder of transformers, and back."""

import json
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jdit.encoders.bert import Bert
from jdit.encoders.clip import CLIPText
from jdit.encoders.decoder import Decoder
from jdit.encoders.folders.bert import BERT
from jdit.encoders.folders.clip import CLIP_TEXT
from jdit.encoders.folders.decoder import DECODER
from jdit.encoders.folders.family import Family
from jdit.encoders.folders.fields import Fields
from jdit.encoders.folders.pooling import read_pooling
from jdit.encoders.folders.preprocess import read_statistics, write_statistics
from jdit.encoders.folders.t5 import T5
from jdit.encoders.folders.vision import DINO, VISION
from jdit.encoders.t5 import T5Encoder
from jdit.encoders.vision import VisionTransformer
from jdit.interop.files import DType, Source, open_tensors, read_json, write_tensors
from jdit.interop.layout import pack, unpack
from jdit.typing import Params

Tower = Literal["text", "vision"]

_FAMILIES = {
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "clip_text_model": CLIP_TEXT,
    "clip_vision_model": VISION,
    "siglip_vision_model": VISION,
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "bert": BERT,
    "gemma": DECODER,
    "gemma2": DECODER,
    "llama": DECODER,
    "qwen2": DECODER,
}
_SEEING = (
    "vision_config", "image_token_id", "video_token_id", "vision_token_id",
    "vision_start_token_id", "vision_end_token_id", "text_config",
)  # fmt: skip
"""The fields of a Qwen2.5-VL that are not of its language model."""

_WHOLE = {"clip": ("text", "vision"), "siglip": ("vision",)}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json")  # fmt: skip


def load_encoder(
    folder: str | Path, *, tower: Tower | None = None, **chosen: Any
) -> tuple[Any, Params]:
    """An encoder and its parameters (float32) from a folder that transformers wrote.

    folder: with config.json and model.safetensors, whole or sharded; a
        pytorch_model.bin needs torch. config.json's model_type says which encoder it
        is: t5, mt5, umt5, clip_text_model, clip_vision_model, siglip_vision_model,
        dinov2, dinov2_with_registers, bert, gemma, gemma2, llama, qwen2, a qwen2_5_vl,
        of which the language model is read, or a whole clip or siglip, of which one
        tower is read.
    tower: of a whole model, "text" or "vision".
    chosen: fields that no folder stores, such as `layer=-2` or `dtype="bfloat16"`.

    Decoders, other towers and heads are left in the file, by the prefixes that each
    module here names in SKIPPED; any other tensor that is not the encoder's is an
    error. So is a field of config.json that may change the function and is unknown, or
    has a value that is not supported.

    An image encoder's mean and std are those of preprocessor_config.json, where there
    is one, else the published ones; a BERT's pooling that of modules.json.

    Raises FileNotFoundError, and ValueError that names the field or the tensor.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json, but accepted is a folder of transformers"
        )
    family, config = _family(path, read_json(path), tower)
    encoder = family.read(Fields(path, config))
    if isinstance(encoder, VisionTransformer):
        encoder = replace(encoder, **read_statistics(folder, encoder.channels))
    source = family.view(_weights(folder))
    if isinstance(encoder, Bert):  # a model with a language head has no pooler
        pooler = any(key.startswith("pooler.") for key in source.shapes)
        encoder = replace(encoder, pooler=pooler, **read_pooling(folder))
    unknown = sorted(set(chosen) - set(family.chosen))
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no field to choose; a {type(encoder).__name__} has "
            f"{', '.join(family.chosen)}"
        )
    encoder = replace(encoder, **chosen)
    return encoder, unpack(family.layout(encoder), encoder, source)


def save_encoder(
    folder: str | Path, encoder: Any, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write the folder that transformers reads: the inverse of `load_encoder`.

    Written is the encoder alone. Fields that are chosen at load are not stored.

    Raises ValueError for parameters that are not the encoder's, for a field that the
    folder cannot express, and for a folder that holds a sharded model.
    """
    folder, family = Path(folder), _family_of(encoder)
    config = family.write(encoder)
    again = family.read(Fields("config.json", config))
    kept = (*family.chosen, "mean", "std", "pooler")  # these lie beside the config
    for field in dataclass_fields(encoder):
        ours, theirs = getattr(encoder, field.name), getattr(again, field.name)
        if ours != theirs and field.name not in kept:
            raise ValueError(
                f"{field.name} is {ours!r}, but a folder of {config['model_type']} "
                f"means {theirs!r}"
            )
    for name in _WEIGHTS[1:]:
        if (folder / name).exists():
            raise ValueError(f"{folder} holds {name} already: save to another folder")
    tensors = pack(family.layout(encoder), encoder, params)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / _WEIGHTS[0], tensors, dtype)
    config["dtype"] = config["torch_dtype"] = dtype
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text)
    if isinstance(encoder, VisionTransformer):
        write_statistics(folder, encoder, config["model_type"])


def _family(
    path: Path, config: dict[str, Any], tower: Tower | None
) -> tuple[Family, dict[str, Any]]:
    """The family of a config, and the part of the config that is its own."""
    kind = config.get("model_type")
    if kind == "qwen2_5_vl":
        return DECODER, _language_config(config)
    if kind in _WHOLE:
        towers = _WHOLE[kind]
        if tower is None and len(towers) == 1:
            tower = towers[0]  # type: ignore[assignment]
        if tower not in towers:
            raise ValueError(
                f"tower is {tower!r}, but {path} is of a whole {kind}: it must be "
                f"{' or '.join(map(repr, towers))}"
            )
        own = _tower_config(path, config, kind, str(tower))
        return _FAMILIES[own["model_type"]], own
    if kind not in _FAMILIES:
        raise ValueError(
            f"{path} has model_type {kind!r}, but it must be one of "
            f"{', '.join((*_FAMILIES, 'qwen2_5_vl', *_WHOLE))}"
        )
    family = _FAMILIES[kind]
    is_vision = family.encoder is VisionTransformer
    if tower is not None and is_vision != (tower == "vision"):
        raise ValueError(f"tower is {tower!r}, but {path} is of a {kind}")
    return family, config


def _language_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model of a Qwen2.5-VL, whose old folders keep it at the top."""
    own = config.get("text_config") or config
    own = {key: value for key, value in own.items() if key not in _SEEING}
    defaults = dict(rms_norm_eps=1e-5)
    if not own.get("rope_parameters"):
        defaults |= dict(rope_theta=1e6)
    return {**defaults, **own, "model_type": "qwen2"}


def _tower_config(
    path: Path, config: dict[str, Any], kind: str, tower: str
) -> dict[str, Any]:
    own = config.get(f"{tower}_config")
    if not isinstance(own, dict):
        raise ValueError(f"{path} has no {tower}_config")
    name = f"{kind}_{tower}_model"
    # Old files also keep the differences to the defaults apart.
    own = {**own, **(config.get(f"{tower}_config_dict") or {}), "model_type": name}
    if kind == "clip":
        suffix = "Text" if tower == "text" else "Vision"
        own["architectures"] = [f"CLIP{suffix}ModelWithProjection"]
        own["projection_dim"] = config.get("projection_dim", 512)
    return own


def _family_of(encoder: Any) -> Family:
    if isinstance(encoder, VisionTransformer):
        return DINO if encoder.readout == "class of all" else VISION
    families = {T5Encoder: T5, CLIPText: CLIP_TEXT, Bert: BERT, Decoder: DECODER}
    if type(encoder) not in families:
        raise ValueError(
            f"encoder is a {type(encoder).__name__}, but it must be one of "
            f"{', '.join(kind.__name__ for kind in families)} and VisionTransformer"
        )
    return families[type(encoder)]


def _weights(folder: Path) -> Source:
    found = [name for name in _WEIGHTS if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(_WEIGHTS)}")
    if found[:2] == list(_WEIGHTS[:2]):
        raise ValueError(
            f"{folder} holds both {found[0]} and {found[1]}, so it is not clear which "
            "weights are meant: remove the stale ones"
        )
    return open_tensors(folder / found[0])
