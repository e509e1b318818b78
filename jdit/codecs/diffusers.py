# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' autoencoders, in both directions."""

from pathlib import Path
from typing import Any

from jdit.codecs.image_diffusers import KL, TINY
from jdit.codecs.kl import AutoencoderKL
from jdit.codecs.rae import AutoencoderRAE
from jdit.codecs.rae_layouts import RAE
from jdit.codecs.tiny import AutoencoderTiny
from jdit.codecs.video import VideoCodec
from jdit.codecs.video_diffusers import FOLDERS as VIDEOS
from jdit.interop.config import open_weights, write_folder
from jdit.interop.files import DType, read_json
from jdit.interop.layout import pack
from jdit.typing import Params

AnyCodec = AutoencoderKL | AutoencoderTiny | AutoencoderRAE | VideoCodec

FOLDERS = {folder.config.names[0]: folder for folder in (KL, TINY, RAE)} | VIDEOS
_ACCEPTED = f"{', '.join([*FOLDERS][:-1])} or {[*FOLDERS][-1]}"


def load_codec(folder: str | Path) -> tuple[AnyCodec, Params]:
    """A codec and its parameters (float32) from a folder that diffusers wrote.

    folder: of an AutoencoderKL, AutoencoderTiny or AutoencoderRAE, or of a codec of
        videos (config.json and diffusion_pytorch_model .safetensors, whole or sharded;
        .bin needs torch), or of a pipeline, whose `vae` is read. An AutoencoderKL's
        attention may have the names of old folders (`query`) or of new (`to_q`), an
        AutoencoderRAE's encoder those of transformers 4 or 5.

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
    name = read_json(path).get("_class_name", "AutoencoderKL")
    if name not in FOLDERS:
        raise ValueError(f"{path} is of a {name}, but accepted is {_ACCEPTED}")
    return FOLDERS[name].load(folder, open_weights(folder))


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
    config, kind = config_of(codec), FOLDERS[type(codec).__name__]
    tensors = pack(kind.layout(codec), codec, params)
    write_folder(folder, config | kind.told(codec, params), tensors, dtype)


def config_of(codec: AnyCodec) -> dict[str, Any]:
    """What diffusers' config.json of this codec holds, but for its parameters.

    Raises ValueError for a codec that diffusers cannot express.
    """
    name = type(codec).__name__
    if name not in FOLDERS:
        raise ValueError(f"codec is a {name}, but accepted is {_ACCEPTED}")
    return FOLDERS[name].config_of(codec) | {"_class_name": name}
