# SPDX-License-Identifier: Apache-2.0
"""A tiny model of every family, with every published feature of it switched on."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.blocks.pixart import Compression
from jdit.conditioning import Labels, LinearClock, Text
from jdit.conditioning.frames import KnownFrames
from jdit.models import VDT, Backbone, DiCo, DiMR, DiT, MMDiT, UViT
from jdit.models.cogvideox import CogVideoX, Resized
from jdit.models.ddt import DDT, DiTDH, Tower
from jdit.models.dimr import Level
from jdit.models.fit import FIT
from jdit.models.flux import Flux
from jdit.models.glyph_mmdit import GlyphMMDiT, TextAndGlyphs
from jdit.models.hunyuan_dit import HunyuanDiT, TwoTexts
from jdit.models.hunyuan_video import HunyuanVideo
from jdit.models.latte import Latte
from jdit.models.lavin_dit import LaVinDiT
from jdit.models.lightning_dit import LightningDiT
from jdit.models.ltx_video import LTXVideo
from jdit.models.lumina import FlagDiT, NextDiT
from jdit.models.lumina_labels import FlagDiTLabels, NextDiTLabels
from jdit.models.pixart import PixArt, Sizes
from jdit.models.qwen_image import QwenImage
from jdit.models.wan import Wan
from jdit.tokens.fractional import Fractional
from jdit.tokens.rotary_geometries import Axes, Centred, Diagonal
from jdit.tokens.stretched import Scaled, TimeAware

BATCH = 2


def draw(*shape: int, seed: int = 0) -> jax.Array:
    """Reproducible numbers, made without compiling anything."""
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def text(tokens: int, features: int, **more: Any) -> dict[str, Any]:
    """Encoded text of which the first image has all tokens, the second fewer."""
    mask = jnp.arange(tokens)[None] < jnp.array([[tokens], [max(1, tokens - 2)]])
    return {"text": draw(BATCH, tokens, features), "mask": mask, **more}


@dataclass(frozen=True)
class Member:
    """model: tiny. conditions: of `BATCH` images.

    starts_at_zero: whether the published initialisation gives zero output.
    idle: parameters that published weights hold and no output depends on.
    """

    model: Backbone
    conditions: dict[str, Any] = field(default_factory=dict)
    starts_at_zero: bool = True
    idle: tuple[str, ...] = ()


LUMINA = dict(channels=2, dim=32, depth=2, heads=4, groups=2, hidden=40)
FIVE = dict(conditioning=Labels(5))

LOW_HEAD = tuple(
    f"['final_0']['{a}']"
    for a in [
        *(
            f"norm']['{part}']['{name}"
            for part in ("scale", "bias")
            for name in ("noisy", "clean", "rate", "shift")
        ),
        "conv']['kernel",
        "conv']['bias",
    ]
)
"""The read-out of DiMR's low resolution, which training alone uses."""

ALBUM = {
    "dit": Member(
        DiT(grid=(8, 8), channels=2, dim=32, depth=3, heads=2, conditioning=Labels(5)),
        {"label": jnp.array([0, 4])},
    ),
    "uvit": Member(
        UViT((4, 6), 2, dim=32, depth=4, heads=2, conditioning=Labels(5)),
        {"label": jnp.array([0, 4])},
        starts_at_zero=False,
    ),
    "uvit-text": Member(
        UViT((4, 4), 2, dim=32, depth=2, heads=2, conditioning=Text(6), text_tokens=3),
        {"text": draw(BATCH, 3, 6)},
        starts_at_zero=False,
    ),
    "mmdit": Member(
        MMDiT(
            grid=(8, 4),
            channels=2,
            dim=32,
            depth=3,
            heads=2,
            qk_norm=True,
            dual_layers=1,
            max_size=6,
            conditioning=Text(12, 10),
        ),
        text(5, 12, pooled=draw(BATCH, 10)),
        idle=("['last_blocks']['attention']['text']['q_norm']['scale']",),
    ),
    "glyph-mmdit": Member(
        GlyphMMDiT(
            grid=(4, 4),
            channels=2,
            dim=16,
            depth=2,
            heads=2,
            max_size=6,
            qk_norm=True,
            rotary=Centred((4, 4), (2, 2)),
            conditioning=TextAndGlyphs(6, 3, second_features=5),
            text_tokens=8,
        ),
        text(
            3,
            6,
            pooled=draw(BATCH, 3),
            second_text=draw(BATCH, 4, 5),
            second_mask=jnp.arange(4)[None] < jnp.array([[0], [3]]),
        ),
        idle=("['last_blocks']['attention']['text']['q_norm']['scale']",),
    ),
    "lightning-dit": Member(
        LightningDiT((4, 6), 2, 4, 1, 32, 2, 2, 40, qk_norm=True, **FIVE),
        {"label": jnp.array([0, 4])},
    ),
    "lightning-dit-wo-shift": Member(
        LightningDiT((4, 4), 2, None, 2, 32, 2, 2, 40, shift=False, **FIVE),
        {"label": jnp.array([0, 4])},
    ),
    "dico": Member(
        DiCo((8, 4), 2, 4, dim=16, depths=(2, 1, 1, 1, 1), conditioning=Labels(5)),
        {"label": jnp.array([0, 4])},
    ),
    "vdt": Member(
        VDT(
            (3, 4, 8),
            2,
            4,
            dim=32,
            depth=2,
            heads=2,
            conditioning=KnownFrames(Labels(5)),
        ),
        {
            "label": jnp.array([0, 4]),
            "frames": draw(BATCH, 3, 4, 8, 2),
            "noised": jnp.ones((BATCH, 3, 4, 8)).at[0, 0].set(0).at[1, :, :2].set(0),
        },
    ),
    "pixart": Member(
        PixArt(
            (8, 4),
            channels=2,
            out_channels=4,
            dim=24,
            depth=3,
            heads=2,
            base=3,
            interpolation=2.0,
            sizes=Sizes(),
            compression=Compression(2, 1),
            conditioning=Text(12),
        ),
        text(5, 12, resolution=draw(BATCH, 2), aspect_ratio=draw(BATCH)),
    ),
    "dimr": Member(
        DiMR(
            (4, 8),
            2,
            (Level(16, 24, 3, 2, 2), Level(8, 16, 2, kernel=3)),
            largest=(8, 8),
            conditioning=Labels(5),
        ),
        {"label": jnp.array([0, 4])},
        starts_at_zero=False,
        idle=LOW_HEAD,
    ),
    "fit": Member(
        FIT(
            (8, 12),
            2,
            2,
            groups=(2, 3),
            latents=2,
            layers=((1, 2), (1, 0)),
            dim=16,
            heads=2,
            latent_dim=24,
            latent_heads=4,
            clock=LinearClock(-1000.0, 1000.0),
            **FIVE,
        ),
        {"label": jnp.array([0, 4]), "latents": draw(BATCH, 12, 24)},
        starts_at_zero=False,
    ),
    "flux": Member(
        Flux(
            grid=(4, 8),
            channels=2,
            dim=32,
            depth=2,
            single_depth=2,
            heads=2,
            geometry=Axes((4, 4, 8)),
            conditioning=Text(12, 10),
        ),
        text(5, 12, pooled=draw(BATCH, 10), guidance=jnp.array([3.5, 1.0])),
    ),
    "qwen_image": Member(
        QwenImage(
            grid=(4, 8),
            channels=2,
            dim=32,
            depth=2,
            heads=2,
            geometry=Diagonal((4, 4, 8)),
            conditioning=Text(12),
        ),
        text(5, 12),
    ),
    "lavin-dit": Member(
        LaVinDiT((1, 4, 6), 2, dim=48, depth=2, heads=4, groups=2, hidden=32),
        {"shown": draw(BATCH, 3, 4, 6, 2)},
    ),
    "latte": Member(
        Latte(
            (3, 4, 8), 2, 4, dim=16, depth=2, heads=2, base=2, conditioning=Labels(5)
        ),
        {"label": jnp.array([0, 4])},
    ),
    "latte-text": Member(
        Latte((3, 4, 8), 2, 4, dim=16, depth=2, heads=2, base=2, conditioning=Text(12)),
        text(5, 12),
    ),
    "hunyuan-dit": Member(
        HunyuanDiT(
            (8, 4),
            channels=2,
            out_channels=4,
            dim=16,
            depth=4,
            heads=2,
            pooled=6,
            conditioning=TwoTexts(12, None, 0.1, 16, 5, 4),
        ),
        text(
            5,
            12,
            second_text=draw(BATCH, 4, 16),
            second_mask=jnp.arange(4)[None] < jnp.array([[4], [1]]),
            sizes=100 * draw(BATCH, 6),
            style=jnp.array([0, 0]),
        ),
    ),
    "ddt": Member(
        DDT((4, 6), 2, 2, Tower(32, 2, 2, 40), Tower(32, 1, 2, 40), **FIVE),
        {"label": jnp.array([0, 4])},
    ),
    "ddt-wide-head": Member(
        DiTDH((4, 4), 2, 1, Tower(16, 2, 2, 24), Tower(32, 1, 2, 40), **FIVE),
        {"label": jnp.array([0, 4])},
    ),
    "flag-dit": Member(
        FlagDiT(
            (2, 4, 4),
            patch=(1, 2, 2),
            conditioning=Text(6),
            stretch=Scaled(1.5, 2.0),
            base_tokens=8,
            **LUMINA,
        ),
        text(4, 6),
    ),
    "next-dit": Member(
        NextDiT(
            (4, 4),
            patch=1,
            conditioning=Text(6),
            stretch=TimeAware(2.0, 8),
            base_tokens=9,
            context_drop=2,
            **LUMINA,
        ),
        text(4, 6),
    ),
    "flag-dit-labels": Member(
        FlagDiTLabels((4, 6), conditioning=Labels(5), **LUMINA),
        {"label": jnp.array([0, 4])},
    ),
    "next-dit-labels": Member(
        NextDiTLabels((4, 4), conditioning=Labels(5), context_drop=2, **LUMINA),
        {"label": jnp.array([0, 4])},
    ),
    "wan": Member(
        Wan(
            (2, 4, 6),
            channels=2,
            dim=24,
            depth=2,
            heads=2,
            hidden=32,
            text_tokens=6,
            conditioning=Text(12),
        ),
        text(5, 12),
    ),
    "cogvideox": Member(
        CogVideoX(
            (2, 4, 8),
            channels=2,
            dim=32,
            depth=2,
            heads=2,
            condition=24,
            rotary=Resized((4, 6, 6), (2, 3)),
            conditioning=Text(12),
        ),
        text(5, 12),
    ),
    "hunyuan-video": Member(
        HunyuanVideo(
            (2, 4, 8),
            channels=2,
            dim=32,
            depth=2,
            single_depth=2,
            refiner_depth=2,
            heads=2,
            geometry=Axes((4, 4, 8), 256.0),
            conditioning=Text(12, 10),
        ),
        text(5, 12, pooled=draw(BATCH, 10), guidance=jnp.array([6.0, 1.0])),
    ),
    "ltx-video": Member(
        LTXVideo(
            (3, 2, 4),
            channels=2,
            dim=32,
            depth=2,
            heads=2,
            positions=Fractional(causal=True, frame_rate=30.0),
            conditioning=Text(12),
        ),
        text(5, 12),
    ),
}

ALIKE = {
    "uvit-text": "uvit",
    "glyph-mmdit": "mmdit",
    "lightning-dit-wo-shift": "lightning-dit",
    "latte-text": "latte",
    "ddt-wide-head": "ddt",
    "flag-dit-labels": "flag-dit",
}
"""Members whose layers are another's: they differ in what they embed and read out."""
