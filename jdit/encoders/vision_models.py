# SPDX-License-Identifier: Apache-2.0
"""The published vision transformers that are read as image encoders."""

from typing import Any

from jdit.encoders.layers import gelu_tanh, quick_gelu, silu
from jdit.encoders.vision import Values, VisionTransformer

CLIP_MEAN: Values = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Values = (0.26862954, 0.26130258, 0.27577711)

_CLIP: dict[str, Any] = dict(
    mean=CLIP_MEAN,
    std=CLIP_STD,
    patch_bias=False,
    entry_norm=True,
    readout="class",
    eps=1e-5,
)
_SIGLIP: dict[str, Any] = dict(
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    class_token=False,
    readout="attention",
    activation=gelu_tanh,
)


def clip_vision_l(size: int = 224, **fields: Any) -> VisionTransformer:
    """OpenAI's ViT-L/14, at 224 or 336 pixels."""
    parts = dict(size=size, activation=quick_gelu, **_CLIP)
    return VisionTransformer(**(parts | fields))


def clip_vision_h(**fields: Any) -> VisionTransformer:
    """OpenCLIP's ViT-H/14, which image prompt adapters read."""
    sizes = dict(dim=1280, depth=32, hidden=5120, projection=1024)
    return VisionTransformer(**(sizes | _CLIP | fields))


def siglip_base(size: int = 224, patch: int = 16, **fields: Any) -> VisionTransformer:
    """SigLIP ViT-B/16 (Zhai et al., 2023)."""
    sizes = dict(size=size, patch=patch, dim=768, depth=12, heads=12, hidden=3072)
    return VisionTransformer(**(sizes | _SIGLIP | fields))


def siglip_so400m(size: int = 384, **fields: Any) -> VisionTransformer:
    """SigLIP's shape-optimised 400 million, patch 14 (Flux Redux reads it at 384)."""
    sizes = dict(size=size, patch=14, dim=1152, depth=27, heads=16, hidden=4304)
    return VisionTransformer(**(sizes | _SIGLIP | fields))


def dinov2(
    size: str = "b", *, registers: int = 0, image: int = 518, **fields: Any
) -> VisionTransformer:
    """DINOv2 (Oquab et al., 2023, table 17): s, b, l or g, patch 14.

    registers: 4 for the published variants with registers.
    """
    sizes: dict[str, dict[str, Any]] = dict(
        s=dict(dim=384, depth=12, heads=6, hidden=1536),
        b=dict(dim=768, depth=12, heads=12, hidden=3072),
        l=dict(dim=1024, depth=24, heads=16, hidden=4096),
        g=dict(dim=1536, depth=40, heads=24, hidden=4096, gated=True, activation=silu),
    )
    if size not in sizes:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(sizes)}")
    parts: dict[str, Any] = dict(
        size=image,
        registers=registers,
        mask_token=True,
        layer_scale=True,
        antialias=registers > 0,
    )
    return VisionTransformer(**(parts | sizes[size] | fields))
