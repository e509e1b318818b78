# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of latent-diffusion's autoencoder, such as VA-VAE's."""

from pathlib import Path

from jdit.codecs.kl import AutoencoderKL
from jdit.codecs.layouts import LDM, kl_layout
from jdit.interop.files import Source, open_tensors
from jdit.interop.layout import unpack
from jdit.typing import Params

_TRAINING = ("loss.", "foundation_model.", "linear_proj.")
"""What a checkpoint holds besides: the discriminator, and what VA-VAE aligns with."""


def load_ldm(path: str | Path, codec: AutoencoderKL) -> Params:
    """The parameters of a codec from the checkpoint of the code that trained it.

    path: a torch or safetensors file, e.g. vavae-imagenet256-f16d32-dinov2.pt for
        `va_vae()`. codec: cannot be read off the file.

    Raises FileNotFoundError, and ValueError naming a tensor that is missing, unknown or
    of another shape than the codec's.
    Source: hustvl/LightningDiT 2725fed, tokenizer/autoencoder.py, which was run beside
    this: encoder and decoder of three levels, 32 to 64 channels, attention at the
    coarsest.
    """
    source = open_tensors(path)
    shapes = {
        key: shape
        for key, shape in source.shapes.items()
        if not key.startswith(_TRAINING)
    }
    return unpack(
        kl_layout(codec, LDM), codec, Source(source.name, shapes, source.load)
    )
