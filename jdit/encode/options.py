# SPDX-License-Identifier: Apache-2.0
"""What is encoded, by what, and how: the options of `jdit encode`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jdit.codecs import Stills, VideoCodec, load_codec
from jdit.data import TFDS, ImageFolder
from jdit.interop.hub import resolve
from jdit.recipe import load_recipe
from jdit.typing import Params


@dataclass(frozen=True)
class Encode:
    """Encode images once: latents for training, in shards. Stopped, it goes on."""

    codec: str | None = None
    """The folder of a codec (or of a pipeline with one) in diffusers' layout, or
    owner/name on the hub."""
    out: Path | None = None
    """The folder that is written, for `jdit.data.Encoded`."""
    resolution: int | None = None
    """Pixels a side, to which the middle of each image is cropped and resized; 256 if
    not given, or what a recipe's data have."""
    flip: bool = True
    """Encode the mirror image too: in training each is seen half of the time."""
    shards: int | None = None
    """Files; one for each 8,192 images if not given."""
    batch: int = 64
    """Images encoded at once, over all devices of a process."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of what is stored."""
    precision: Literal["default", "high", "highest"] = "high"
    """Of products of float32: "high" is TF32 on a GPU and three passes of bfloat16 on a
    TPU, where "default" is one."""
    split: str = "train"
    """Of a TFDS data set."""

    def __post_init__(self) -> None:
        for name in ("resolution", "shards", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but it must be at least 1")


def images(name: str, resolution: int | None, split: str) -> Any:
    """The data set of a folder, of "tfds:NAME", or of a recipe.

    Raises FileNotFoundError for another name, ValueError for a data set of latents, or
    of images of another resolution that cannot be resized.
    """
    folder, size = Path(name), resolution or 256
    if folder.is_dir():
        prepared = (folder / "dataset_info.json").is_file()
        return TFDS(name, split, size) if prepared else ImageFolder(name, size)
    if name.startswith("tfds:"):
        return TFDS(name.removeprefix("tfds:"), split, size)
    try:
        data = load_recipe(name).data
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise FileNotFoundError(
            f"the data are {name!r}, which is neither a folder, nor tfds:NAME, nor a "
            f"recipe: {error}"
        ) from error
    if getattr(data, "transforms", ()):
        raise ValueError(f"the data of {name!r} are no images, but made in training")
    if resolution is None or data.sample_shape[:2] == (resolution, resolution):
        return data
    if not hasattr(data, "size"):
        raise ValueError(
            f"resolution is {resolution}, but the data of {name!r} are "
            f"{data.sample_shape[0]} by {data.sample_shape[1]}, and cannot be resized"
        )
    return replace(data, size=resolution)


def open_codec(name: str, shape: tuple[int, ...]) -> tuple[Any, Params]:
    """The codec of a name, and its parameters.

    Raises ValueError for one that cannot encode images of this shape, `h w c`.
    """
    made: Any
    made, params = load_codec(resolve(name))
    made = Stills(made) if isinstance(made, VideoCodec) else made
    if len(shape) != 3 or shape[-1] not in (1, made.channels):
        raise ValueError(
            f"the data have the shape {shape}, but the codec encodes images with "
            f"{made.channels} channels"
        )
    if any(side % made.factor for side in shape[:2]):
        raise ValueError(
            f"resolution is {shape[0]} by {shape[1]}, but the codec needs multiples of "
            f"{made.factor}"
        )
    return made, params
