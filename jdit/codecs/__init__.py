# SPDX-License-Identifier: Apache-2.0
"""Pixels to latents and back."""

from jdit.codecs.base import Codec, Posterior
from jdit.codecs.cogvideox import AutoencoderKLCogVideoX, cogvideox_vae
from jdit.codecs.diffusers import load_codec, save_codec
from jdit.codecs.frames import Frames
from jdit.codecs.hunyuan_video import AutoencoderKLHunyuanVideo, hunyuan_video_vae
from jdit.codecs.kl import (
    AutoencoderKL,
    flux_vae,
    sd3_vae,
    sd_vae,
    sdxl_vae,
    va_vae,
)
from jdit.codecs.lavin import (
    AutoencoderKLSTVAE,
    lavin_vae,
    load_lavin_vae,
    save_lavin_vae,
)
from jdit.codecs.ldm import load_ldm
from jdit.codecs.ltx import AutoencoderKLLTXVideo, ltx_vae
from jdit.codecs.rae import AutoencoderRAE, PatchDecoder, rae
from jdit.codecs.rae_layouts import load_rae, save_rae
from jdit.codecs.tiled import Tiled
from jdit.codecs.tiny import AutoencoderTiny, taesd
from jdit.codecs.video import Stills, VideoCodec
from jdit.codecs.wan import (
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    qwen_image_vae,
    wan_2_2_vae,
    wan_vae,
)

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLQwenImage",
    "AutoencoderKLSTVAE",
    "AutoencoderKLWan",
    "AutoencoderRAE",
    "AutoencoderTiny",
    "Codec",
    "Frames",
    "PatchDecoder",
    "Posterior",
    "Stills",
    "Tiled",
    "VideoCodec",
    "cogvideox_vae",
    "flux_vae",
    "hunyuan_video_vae",
    "lavin_vae",
    "load_codec",
    "load_lavin_vae",
    "load_ldm",
    "load_rae",
    "ltx_vae",
    "qwen_image_vae",
    "rae",
    "save_codec",
    "save_lavin_vae",
    "save_rae",
    "sd3_vae",
    "sd_vae",
    "sdxl_vae",
    "taesd",
    "va_vae",
    "wan_2_2_vae",
    "wan_vae",
]
