# SPDX-License-Identifier: Apache-2.0
"""diffusers' networks at a mid size: how each is made and told what jdit's is told.

Every network has heads of 64 channels, random weights, and sees 256 tokens of data
(images of 32 x 32 latents, videos of 4 frames of 16 x 16) and up to 77 tokens of text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from einops import rearrange

FEATURES, POOLED, TEXT = 1024, 768, 77
IMAGE, VIDEO = (32, 32), (4, 16, 16)

Inputs = dict[str, Any]
Net = torch.nn.Module


def images(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 1).contiguous()


def images_back(out: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    return out.movedim(1, -1)


def tokens(x: torch.Tensor) -> torch.Tensor:
    return rearrange(x, "b (h p) (w q) c -> b (h w) (c p q)", p=2, q=2)


def tokens_back(out: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    shape = dict(h=grid[0] // 2, p=2, q=2)
    return rearrange(out, "b (h w) (c p q) -> b (h p) (w q) c", **shape)


def index(given: Inputs) -> torch.Tensor:
    """The number of a step of a chain of 1,000, from 0."""
    return (1000 * given["time"]).round().long() - 1


@dataclass(frozen=True)
class Family:
    """kind, config: the network, of a width and a depth; ask: its arguments.

    grid, channels: of the data. names: the conditions, as jdit names them. answer: its
    output in jdit's layout. load: what jdit is told besides the folder. tie: what
    trained weights share, and random ones do not.
    """

    kind: str
    config: Callable[[int, int], dict[str, Any]]
    ask: Callable[[Inputs], dict[str, Any]]
    grid: tuple[int, ...] = IMAGE
    channels: int = 4
    depth: int = 6
    names: tuple[str, ...] = ("text",)
    answer: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor] = images_back
    load: dict[str, Any] = field(default_factory=dict)
    change: dict[str, Any] = field(default_factory=dict)
    tie: Callable[[Any], None] = lambda net: None

    def make(self, dim: int, depth: int) -> Net:
        """The network with random weights, of which none is zero."""
        torch.manual_seed(0)
        net = getattr(diffusers, self.kind)(**self.config(dim, depth))
        for name, parameter in net.named_parameters():
            scale = "norm" in name and parameter.ndim == 1 and name.endswith("weight")
            torch.nn.init.normal_(parameter, float(scale), 0.03)
        self.tie(net)
        return net.eval()


def heads(dim: int, depth: int) -> dict[str, Any]:
    return dict(num_attention_heads=dim // 64, attention_head_dim=64, num_layers=depth)


def one_embedding(net: Any) -> None:
    first = net.transformer_blocks[0].norm1.emb.state_dict()
    for block in net.transformer_blocks:
        block.norm1.emb.load_state_dict(first)


def one_query(net: Any) -> None:
    for layer in net.layers:
        layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
        layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())


SINGLE = dict(
    activation_fn="gelu-approximate",
    attention_bias=True,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    num_embeds_ada_norm=1000,
)


def ask_flux(given: Inputs) -> dict[str, Any]:
    rows, columns = torch.meshgrid(*map(torch.arange, (16, 16)), indexing="ij")
    return dict(
        hidden_states=tokens(given["x"]),
        encoder_hidden_states=given["text"],
        pooled_projections=given["pooled"],
        timestep=given["time"],
        img_ids=torch.stack([0 * rows, rows, columns], -1).reshape(-1, 3).float(),
        txt_ids=torch.zeros(TEXT, 3),
        guidance=given["guidance"],
    )


def ask_lumina(given: Inputs) -> dict[str, Any]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return dict(
        hidden_states=images(given["x"]),
        timestep=1 - given["time"],
        encoder_hidden_states=given["text"],
        encoder_mask=given["mask"].long(),
        image_rotary_emb=get_2d_rotary_pos_embed_lumina(64, 384, 384),
        cross_attention_kwargs={"base_sequence_length": 256},
    )


def lumina_back(out: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Its velocity points towards data, and jdit's towards noise."""
    velocity, rest = out.movedim(1, -1).split(4, -1)
    return torch.cat([-velocity, rest], -1)


def ask_hunyuan(given: Inputs) -> dict[str, Any]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
        get_resize_crop_region_for_grid,
    )

    crop = get_resize_crop_region_for_grid((16, 16), 32)
    return dict(
        hidden_states=images(given["x"]),
        timestep=index(given).float(),
        encoder_hidden_states=given["text"],
        text_embedding_mask=given["mask"],
        encoder_hidden_states_t5=given["second_text"],
        text_embedding_mask_t5=given["second_mask"],
        image_rotary_emb=get_2d_rotary_pos_embed(64, crop, (16, 16), output_type="pt"),
    )


def ask_latte(given: Inputs) -> dict[str, Any]:
    bias = torch.where(given["mask"], 0.0, -10000.0)[:, None]
    return dict(
        hidden_states=images(given["x"]),
        timestep=index(given),
        encoder_hidden_states=given["text"],
        encoder_attention_mask=bias.repeat_interleave(VIDEO[0], 0),
    )


def ask_cogvideox(given: Inputs) -> dict[str, Any]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    table = get_3d_rotary_pos_embed(64, ((0, 0), (8, 8)), (8, 8), VIDEO[0])
    return dict(
        hidden_states=given["x"].movedim(-1, 2).contiguous(),
        encoder_hidden_states=given["text"],
        timestep=index(given),
        image_rotary_emb=table,
    )


FAMILIES = {
    "DiT": Family(
        "DiTTransformer2DModel",
        lambda dim, depth: dict(
            heads(dim, depth), in_channels=4, out_channels=8, sample_size=32
        ),
        lambda given: dict(
            hidden_states=images(given["x"]),
            timestep=index(given),
            class_labels=given["label"],
        ),
        depth=12,
        names=("label",),
        tie=one_embedding,
    ),
    "PixArt": Family(
        "PixArtTransformer2DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=4,
            out_channels=8,
            cross_attention_dim=dim,
            sample_size=32,
            use_additional_conditions=False,
            caption_channels=FEATURES,
        ),
        lambda given: dict(
            hidden_states=images(given["x"]),
            encoder_hidden_states=given["text"],
            timestep=index(given),
            added_cond_kwargs={},
            encoder_attention_mask=given["mask"].float(),
        ),
        depth=10,
        names=("text", "mask"),
    ),
    "SD3": Family(
        "SD3Transformer2DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            sample_size=32,
            in_channels=16,
            out_channels=16,
            joint_attention_dim=FEATURES,
            caption_projection_dim=dim,
            pooled_projection_dim=POOLED,
            pos_embed_max_size=32,
        ),
        lambda given: dict(
            hidden_states=images(given["x"]),
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=1000 * given["time"],
        ),
        channels=16,
        names=("text", "pooled"),
    ),
    "Flux": Family(
        "FluxTransformer2DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=64,
            num_single_layers=2 * depth,
            joint_attention_dim=FEATURES,
            pooled_projection_dim=POOLED,
            guidance_embeds=True,
            axes_dims_rope=(16, 24, 24),
        ),
        ask_flux,
        channels=16,
        depth=3,
        names=("text", "pooled", "guidance"),
        answer=tokens_back,
        load=dict(grid=IMAGE),
    ),
    "Lumina-Next": Family(
        "LuminaNextDiT2DModel",
        lambda dim, depth: dict(
            sample_size=32,
            in_channels=4,
            hidden_size=dim,
            num_layers=depth,
            num_attention_heads=dim // 64,
            num_kv_heads=dim // 128,
            cross_attention_dim=FEATURES,
        ),
        ask_lumina,
        depth=8,
        names=("text", "mask"),
        answer=lumina_back,
        change=dict(base_tokens=256),
        tie=one_query,
    ),
    "HunyuanDiT": Family(
        "HunyuanDiT2DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=4,
            patch_size=2,
            sample_size=32,
            hidden_size=dim,
            mlp_ratio=4.3637,
            cross_attention_dim=FEATURES,
            cross_attention_dim_t5=FEATURES,
            pooled_projection_dim=FEATURES,
            text_len=TEXT,
            text_len_t5=TEXT,
            use_style_cond_and_image_meta_size=False,
        ),
        ask_hunyuan,
        depth=8,
        names=("text", "mask", "second_text", "second_mask"),
    ),
    "HunyuanVideo": Family(
        "HunyuanVideoTransformer3DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=16,
            out_channels=16,
            num_single_layers=2 * depth,
            num_refiner_layers=1,
            text_embed_dim=FEATURES,
            pooled_projection_dim=POOLED,
            rope_axes_dim=(16, 24, 24),
        ),
        lambda given: dict(
            hidden_states=images(given["x"]),
            timestep=1000 * given["time"],
            encoder_hidden_states=given["text"],
            encoder_attention_mask=given["mask"],
            pooled_projections=given["pooled"],
            guidance=1000 * given["guidance"],
        ),
        grid=VIDEO,
        channels=16,
        depth=3,
        names=("text", "mask", "pooled", "guidance"),
        load=dict(grid=VIDEO),
    ),
    "Qwen-Image": Family(
        "QwenImageTransformer2DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=64,
            out_channels=16,
            joint_attention_dim=FEATURES,
            axes_dims_rope=(16, 24, 24),
        ),
        lambda given: dict(
            hidden_states=tokens(given["x"]),
            encoder_hidden_states=given["text"],
            encoder_hidden_states_mask=given["mask"],
            timestep=given["time"],
            img_shapes=[[(1, 16, 16)]] * len(given["x"]),
        ),
        channels=16,
        names=("text", "mask"),
        answer=tokens_back,
        load=dict(grid=IMAGE),
    ),
    "Latte": Family(
        "LatteTransformer3DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=4,
            out_channels=8,
            cross_attention_dim=dim,
            sample_size=16,
            patch_size=2,
            caption_channels=FEATURES,
            video_length=VIDEO[0],
            **SINGLE,
        ),
        ask_latte,
        grid=VIDEO,
        names=("text", "mask"),
    ),
    "CogVideoX": Family(
        "CogVideoXTransformer3DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=16,
            out_channels=16,
            text_embed_dim=FEATURES,
            sample_width=16,
            sample_height=16,
            sample_frames=13,
            max_text_seq_length=TEXT,
            use_rotary_positional_embeddings=True,
        ),
        ask_cogvideox,
        grid=VIDEO,
        channels=16,
        depth=8,
        answer=lambda out, grid: out.movedim(2, -1),
    ),
    "Wan": Family(
        "WanTransformer3DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=16,
            out_channels=16,
            text_dim=FEATURES,
            ffn_dim=4 * dim,
        ),
        lambda given: dict(
            hidden_states=images(given["x"]),
            timestep=1000 * given["time"],
            encoder_hidden_states=given["text"] * given["mask"][..., None],
        ),
        grid=VIDEO,
        channels=16,
        depth=10,
        names=("text", "mask"),
        load=dict(grid=VIDEO, text_tokens=TEXT),
    ),
    "LTX-Video": Family(
        "LTXVideoTransformer3DModel",
        lambda dim, depth: dict(
            heads(dim, depth),
            in_channels=128,
            out_channels=128,
            cross_attention_dim=dim,
            caption_channels=FEATURES,
        ),
        lambda given: dict(
            hidden_states=given["x"].flatten(1, 3),
            encoder_hidden_states=given["text"],
            timestep=1000 * given["time"],
            encoder_attention_mask=given["mask"],
            num_frames=4,
            height=8,
            width=8,
            rope_interpolation_scale=(8 / 25, 32, 32),
        ),
        grid=(4, 8, 8),
        channels=128,
        depth=9,
        names=("text", "mask"),
        answer=lambda out, grid: out.unflatten(1, grid),
        load=dict(grid=(4, 8, 8)),
    ),
}
"""By the name in the table."""
