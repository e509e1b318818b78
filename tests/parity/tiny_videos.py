# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' pipelines of videos, tiny and with random weights."""

import diffusers
import torch
import transformers
from tiny_pipelines import clip, clip_tokenizer, random, t5, t5_tokenizer, vae


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


def wan(folder, scheduler=None, boundary=None):
    text = transformers.UMT5Config(
        vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    model, other = (
        diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
            text_dim=24, freq_dim=20, ffn_dim=40, num_layers=2,
        )
        for _ in range(2)
    )  # fmt: skip
    two = {} if boundary is None else dict(transformer_2=random(other, 4))
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
        random(model), boundary_ratio=boundary, **two,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def wan_experts(folder):
    """As Wan 2.2: the second transformer below 0.875."""
    return wan(folder, boundary=0.875)


def wan_euler(folder):
    return wan(folder, diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0))


def cogvideox(folder, rotary=False):
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=20, text_embed_dim=32, num_layers=2, sample_width=12,
        sample_height=8, sample_frames=9, max_text_seq_length=226,
        use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    codec = diffusers.AutoencoderKLCogVideoX(
        down_block_types=["CogVideoXDownBlock3D"] * 3, norm_num_groups=2,
        up_block_types=["CogVideoXUpBlock3D"] * 3, block_out_channels=[4, 4, 4],
        latent_channels=4, layers_per_block=1, sample_height=32, sample_width=48,
        scaling_factor=0.7,
    )  # fmt: skip
    name = "DPM" if rotary else "DDIM"
    scheduler = getattr(diffusers, f"CogVideoX{name}Scheduler")(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if rotary else 3.0, timestep_spacing="trailing",
    )  # fmt: skip
    pipe = diffusers.CogVideoXPipeline(
        t5_tokenizer(), t5(), random(codec, 3), random(model), scheduler
    )
    pipe.save_pretrained(folder)
    return pipe


def cogvideox_dpm(folder):
    return cogvideox(folder, rotary=True)


def ltx_video(folder):
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, num_layers=2, caption_channels=32,
    )  # fmt: skip
    levels = dict(
        block_out_channels=(8, 8, 8), spatio_temporal_scaling=(True, True, False),
        layers_per_block=(1, 1, 1, 1),
    )  # fmt: skip
    codec = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, patch_size=2, **levels,
        **{f"decoder_{key}": value for key, value in levels.items()},
        down_block_types=("LTXVideoDownBlock3D",) * 3, downsample_type=("conv",) * 3,
        upsample_residual=(False,) * 3, upsample_factor=(1,) * 3,
        decoder_inject_noise=(False,) * 4,
    )  # fmt: skip
    codec.latents_std.copy_(torch.tensor([1, 2, 0.5, 1]))
    pipe = diffusers.LTXPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05,
            base_image_seq_len=1024, shift_terminal=0.1,
        ),
        random(codec, 3), t5(), t5_tokenizer(), random(model),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def hunyuan_video(folder):
    llama = transformers.LlamaConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32,
    )  # fmt: skip
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        num_layers=2, num_single_layers=2, num_refiner_layers=1, text_embed_dim=24,
        pooled_projection_dim=16, rope_axes_dim=(4, 4, 8),
    )  # fmt: skip
    codec = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=["HunyuanVideoDownBlock3D"] * 3,
        up_block_types=["HunyuanVideoUpBlock3D"] * 3, block_out_channels=[4, 4, 4],
        layers_per_block=1, norm_num_groups=2, spatial_compression_ratio=4,
    )  # fmt: skip
    second = clip_tokenizer(folder / "tokenizer_2")
    pipe = diffusers.HunyuanVideoPipeline(
        random(transformers.LlamaModel(llama), 1), t5_tokenizer(), random(model),
        random(codec, 3), diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        clip(second, projected=False), second,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe
