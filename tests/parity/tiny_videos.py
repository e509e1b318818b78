# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' pipelines of videos, tiny and with random weights."""

import diffusers
import transformers
from tiny_pipelines import random, t5, t5_tokenizer, vae


def latte(folder):
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
        num_layers=2, sample_size=8, patch_size=2, cross_attention_dim=32,
        caption_channels=32, video_length=3, norm_type="ada_norm_single",
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    pipe = diffusers.LattePipeline(
        t5_tokenizer(), t5(), vae(), random(model),
        diffusers.DDIMScheduler(clip_sample=False),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def wan(folder, scheduler=None):
    text = transformers.UMT5Config(
        vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_dim=24, freq_dim=20, ffn_dim=40, num_layers=2,
    )  # fmt: skip
    codec = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1,
        temperal_downsample=[True, True], scale_factor_spatial=4,
        latents_mean=[0.1, -1, 0, 1], latents_std=[1, 2, 0.5, 1],
    )  # fmt: skip
    pipe = diffusers.WanPipeline(
        t5_tokenizer(), random(transformers.UMT5EncoderModel(text), 1),
        random(codec, 3),
        scheduler or diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        random(model),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def wan_euler(folder):
    return wan(folder, diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0))
