# SPDX-License-Identifier: Apache-2.0
"""Backbone families, a file each."""

from jdit.models.backbone import Backbone, Output
from jdit.models.cogvideox import CogVideoX, cogvideox_2b, cogvideox_5b
from jdit.models.ddt import DDT, DiTDH, Tower, ddt, dit_dh
from jdit.models.dico import DiCo, dico
from jdit.models.dimr import DiMR, dimr
from jdit.models.dit import DiT, dit, sit
from jdit.models.fit import FIT, fit
from jdit.models.flux import Flux, flux_dev, flux_schnell
from jdit.models.glyph_mmdit import GlyphMMDiT
from jdit.models.hunyuan_dit import HunyuanDiT, hunyuan_dit
from jdit.models.hunyuan_video import HunyuanVideo, hunyuan_video
from jdit.models.latte import Latte, latte, latte_text
from jdit.models.lavin_dit import LaVinDiT, lavin_dit
from jdit.models.lightning_dit import LightningDiT, lightning_dit
from jdit.models.ltx_video import LTXVideo, ltx_video_2b, ltx_video_13b
from jdit.models.lumina import FlagDiT, NextDiT, flag_dit, next_dit
from jdit.models.lumina_labels import (
    FlagDiTLabels,
    NextDiTLabels,
    flag_dit_labels,
    next_dit_labels,
)
from jdit.models.mmdit import MMDiT, sd3, sd35_large, sd35_medium
from jdit.models.pixart import (
    PixArt,
    from_class_conditional,
    pixart_alpha,
    pixart_sigma,
)
from jdit.models.qwen_image import QwenImage, qwen_image
from jdit.models.uvit import UViT, uvit
from jdit.models.vdt import VDT, vdt
from jdit.models.wan import Wan, WanExperts, wan_1b, wan_2_2_14b, wan_14b

__all__ = [
    "Backbone",
    "CogVideoX",
    "DDT",
    "DiCo",
    "DiMR",
    "DiT",
    "DiTDH",
    "FIT",
    "FlagDiT",
    "FlagDiTLabels",
    "Flux",
    "GlyphMMDiT",
    "HunyuanDiT",
    "HunyuanVideo",
    "LaVinDiT",
    "LTXVideo",
    "Latte",
    "LightningDiT",
    "MMDiT",
    "NextDiT",
    "NextDiTLabels",
    "Output",
    "PixArt",
    "QwenImage",
    "Tower",
    "UViT",
    "VDT",
    "Wan",
    "WanExperts",
    "cogvideox_2b",
    "cogvideox_5b",
    "ddt",
    "dico",
    "dimr",
    "dit",
    "dit_dh",
    "fit",
    "flag_dit",
    "flag_dit_labels",
    "flux_dev",
    "flux_schnell",
    "from_class_conditional",
    "hunyuan_dit",
    "hunyuan_video",
    "latte",
    "latte_text",
    "lavin_dit",
    "lightning_dit",
    "ltx_video_13b",
    "ltx_video_2b",
    "next_dit",
    "next_dit_labels",
    "pixart_alpha",
    "pixart_sigma",
    "qwen_image",
    "sd3",
    "sd35_large",
    "sd35_medium",
    "sit",
    "uvit",
    "vdt",
    "wan_14b",
    "wan_1b",
    "wan_2_2_14b",
]
