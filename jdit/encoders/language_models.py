# SPDX-License-Identifier: Apache-2.0
"""The published language models that are read as text encoders."""

from typing import Any

from jdit.encoders.decoder import Decoder, Llama3Scaling, Rotary
from jdit.encoders.layers import OffsetRMSNorm, gelu_tanh


def gemma_2b(**fields: Any) -> Decoder:
    """The first Gemma, 2.5e9 parameters: Lumina-Next's text encoder."""
    sizes: dict[str, Any] = dict(
        vocab=256000,
        dim=2048,
        depth=18,
        heads=8,
        groups=1,
        width=256,
        hidden=16384,
        activation=gelu_tanh,
        norm=OffsetRMSNorm,
        embed_scale=2048**0.5,
    )
    return Decoder(**(sizes | fields))


def gemma_2_2b(**fields: Any) -> Decoder:
    """Gemma 2, 2.6e9 parameters: Sana's and Lumina-Image 2's text encoder."""
    sizes = dict(depth=26, heads=8, groups=4, hidden=9216)
    return Decoder(**(_gemma_2(2304) | sizes | fields))


def gemma_2_9b(**fields: Any) -> Decoder:
    """Gemma 2, 9.2e9 parameters."""
    sizes = dict(depth=42, heads=16, groups=8, hidden=14336)
    return Decoder(**(_gemma_2(3584) | sizes | fields))


def llama_3_8b(**fields: Any) -> Decoder:
    """Llama 3, 8.0e9 parameters: HunyuanVideo's text encoder."""
    return Decoder(**(_llama_3() | fields))


def llama_3_1_8b(**fields: Any) -> Decoder:
    """Llama 3.1: the same with the longer context's slower rotations (HiDream)."""
    rotary = Rotary(500000.0, Llama3Scaling())
    return Decoder(**(_llama_3() | dict(rotary=rotary) | fields))


def qwen2_5_0_5b(**fields: Any) -> Decoder:
    """Qwen2.5, 0.5e9 parameters."""
    sizes = dict(vocab=151936, dim=896, depth=24, heads=14, groups=2, hidden=4864)
    return Decoder(**(_qwen2(64) | sizes | fields))


def qwen2_5_1_5b(**fields: Any) -> Decoder:
    """Qwen2.5, 1.5e9 parameters."""
    sizes = dict(vocab=151936, dim=1536, depth=28, heads=12, groups=2, hidden=8960)
    return Decoder(**(_qwen2(128) | sizes | fields))


def qwen2_5_3b(**fields: Any) -> Decoder:
    """Qwen2.5, 3.1e9 parameters."""
    sizes = dict(vocab=151936, dim=2048, depth=36, heads=16, groups=2, hidden=11008)
    return Decoder(**(_qwen2(128) | sizes | fields))


def qwen2_5_7b(**fields: Any) -> Decoder:
    """Qwen2.5, 7.6e9 parameters; Qwen-Image reads the one that was taught to see."""
    sizes = dict(vocab=152064, dim=3584, depth=28, heads=28, groups=4, hidden=18944)
    return Decoder(**(_qwen2(128) | sizes | fields))


def _gemma_2(dim: int) -> dict[str, Any]:
    """Gemma team (2024), section 2 and table 1."""
    return dict(
        vocab=256000,
        dim=dim,
        width=256,
        scale=256**-0.5,
        softcap=50.0,
        windows=(4096, None),
        activation=gelu_tanh,
        norm=OffsetRMSNorm,
        order="sandwich",
        embed_scale=dim**0.5,
    )


def _llama_3() -> dict[str, Any]:
    """Llama team (2024), table 3."""
    sizes = dict(vocab=128256, dim=4096, depth=32, heads=32, groups=8, hidden=14336)
    return sizes | dict(width=128, rotary=Rotary(500000.0), eps=1e-5)


def _qwen2(width: int) -> dict[str, Any]:
    """Qwen team (2024), table 1."""
    return dict(width=width, qkv_bias=True, rotary=Rotary(1000000.0))
