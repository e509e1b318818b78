# SPDX-License-Identifier: Apache-2.0
"""The spatio-temporal autoencoder of LaVin-DiT, and its published layout."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from jdit.codecs.cogvideox import Chunks, LevelledCodec
from jdit.codecs.video_layouts import cogvideox_layout
from jdit.interop.files import DType, open_tensors, write_tensors
from jdit.interop.layout import Layout, pack, unpack
from jdit.typing import Params


@dataclass(frozen=True)
class AutoencoderKLSTVAE(LevelledCodec):
    """A causal variational autoencoder of videos (Wang et al., 2024).

    CogVideoX's layers and fields (see `AutoencoderKLCogVideoX`), used in another way:
    the whole clip is one chunk to every group norm, and the first latent always decodes
    to one frame. So 1 + 4n frames decode to as many; others can be encoded, as
    published, and decode to another number: see `data_grid`. Convolutions are causal,
    as the paper says, but norms tell every frame of the whole clip.

    groups: the published code gives the decoder 32, whatever the encoder has.
    scaling_factor, shift_factor: what `normalise` does; the published sampler's.

    LaVin-DiT's sampler encodes every image by itself, as `Frames(Stills(codec))` does,
    and samples the posterior. The published code can also work on tiles, which overlap
    and are blended; it does not by default, and this does not.

    Raises ValueError, also for videos and latents of another shape.
    Source: DerrickWang005/LaVin-DiT f372858, lib/model/vae3d.py; the statistics are
    those of inference.py.
    """

    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, ...] = (128, 256, 256, 512)
    blocks: int = 3
    groups: int = 32
    time_factor: int = 4
    scaling_factor: float = 1.08936170213
    shift_factor: float = 0.032470703125
    dtype: Literal["float32", "bfloat16"] = "float32"

    def cut(self, frames: int, size: int) -> Chunks:
        """Nowhere."""
        return Chunks(frames, 0)

    def alone(self, latents: int) -> int:
        """The first."""
        return 1


def lavin_vae() -> AutoencoderKLSTVAE:
    """Of LaVin-DiT: 216 M parameters, 4 x 8 x 8 to 16 channels."""
    return AutoencoderKLSTVAE()


def load_lavin_vae(
    path: str | Path, codec: AutoencoderKLSTVAE | None = None
) -> tuple[AutoencoderKLSTVAE, Params]:
    """A codec and its parameters from a file in the layout of LaVin-DiT's code.

    path: a torch file (needs torch), which may hold the weights under "state_dict", as
        stvae.pt must, or the same keys in a .safetensors file.
    codec: cannot be read off the file; None is `lavin_vae()`.

    The published loader passes over keys that it does not know. Here they are errors.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming a tensor that is missing, unknown or of another shape than the codec's.
    """
    codec = lavin_vae() if codec is None else codec
    return codec, unpack(_layout(codec), codec, open_tensors(path))


def save_lavin_vae(
    path: str | Path,
    codec: AutoencoderKLSTVAE,
    params: Params,
    *,
    dtype: DType = "float32",
) -> None:
    """Write parameters as LaVin-DiT's code reads them: inverse of `load_lavin_vae`.

    A torch file holds them under "state_dict". Raises ValueError for another codec.
    """
    if not isinstance(codec, AutoencoderKLSTVAE):
        raise ValueError(
            f"codec is a {type(codec).__name__}, but LaVin-DiT's layout holds an "
            "AutoencoderKLSTVAE"
        )
    tensors = pack(_layout(codec), codec, params)
    write_tensors(path, tensors, dtype, nest="state_dict")


def _layout(codec: AutoencoderKLSTVAE) -> Layout:
    return replace(cogvideox_layout(codec), name="LaVin-DiT's layout")
