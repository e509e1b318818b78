# SPDX-License-Identifier: Apache-2.0
"""Folders of diffusers' pipelines, tiny and with random weights."""

import json

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = "a an the red blue owl cat on hill of glass with wings small".split()


def random(module, seed=0, scale=0.4):
    """The module with every parameter drawn anew, so that nothing starts at zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = (
                scale if parameter.ndim == 1 else scale / parameter[0].numel() ** 0.5
            )
            noise = spread * torch.randn_like(parameter)
            parameter.copy_(1 + noise if parameter.ndim == 1 else noise)
    return module.eval()


def t5_tokenizer():
    """A unigram model of a few words, with T5's end of sequence."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip


def clip_tokenizer(folder, pad="<|endoftext|>"):
    """Byte pairs of letters, in CLIP's two files."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab = letters + [letter + "</w>" for letter in letters] + ["a n", "o w"]
    merges = [("a", "n</w>"), ("o", "w"), ("ow", "l</w>")]
    vocab = vocab[:52] + ["".join(pair) for pair in merges] + ["!"]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: i for i, token in enumerate(vocab)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(
        str(folder), pad_token=pad, model_max_length=77
    )


def bert_tokenizer():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    return transformers.BertTokenizer(vocab={name: i for i, name in enumerate(names)})


def qwen_tokenizer():
    """Every byte, two merges, and the tokens of a chat."""
    merges = [("o", "w"), ("ow", "l")]
    names = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(m) for m in merges]
    return transformers.Qwen2Tokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=merges,
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip


def t5(dim=32):
    config = transformers.T5Config(
        vocab_size=64, d_model=dim, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return random(transformers.T5EncoderModel(config), 1)


def clip(tokenizer, dim=16, projected=True, act="quick_gelu"):
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=dim, intermediate_size=32,
        num_hidden_layers=3, num_attention_heads=2, projection_dim=dim,
        hidden_act=act, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else (
        transformers.CLIPTextModel
    )  # fmt: skip
    return random(kind(config), 2)


def vae(channels=4, **more):
    config = dict(
        in_channels=3, out_channels=3, latent_channels=channels,
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
    )  # fmt: skip
    return random(diffusers.AutoencoderKL(**config | more), 3)


def deep_vae():
    """Four levels: a latent is 8 pixels wide, as some pipelines take for granted."""
    kinds = {f"{x}_block_types": (f"{x.title()}{y}Block2D",) * 4
             for x, y in (("down", "Encoder"), ("up", "Decoder"))}  # fmt: skip
    return vae(block_out_channels=(4,) * 4, norm_num_groups=2, **kinds)


def dit(folder):
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
        num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=5,
    )  # fmt: skip
    random(model)
    first, *others = model.transformer_blocks  # which share one embedding
    for block in others:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    pipe = diffusers.DiTPipeline(
        model, vae(), diffusers.DDIMScheduler(clip_sample=False)
    )  # fmt: skip
    pipe.save_pretrained(folder)
    index = folder / "model_index.json"  # the published folder names its classes there
    names = {str(i): f"class {i}, kind {i}" for i in range(5)}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    return pipe


def pixart(folder, kind=diffusers.PixArtAlphaPipeline):
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
        num_layers=2, sample_size=8, patch_size=2, cross_attention_dim=32,
        caption_channels=32, use_additional_conditions=False,
    )  # fmt: skip
    pipe = kind(
        t5_tokenizer(), t5(), vae(), random(model),
        diffusers.DPMSolverMultistepScheduler(),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def pixart_sigma(folder):
    return pixart(folder, diffusers.PixArtSigmaPipeline)


def sd3(folder):
    one = clip_tokenizer(folder / "tokenizer")
    two = clip_tokenizer(folder / "tokenizer_2", pad="!")
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=3,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=40,
        caption_projection_dim=32, pooled_projection_dim=32, out_channels=16,
        pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        random(model), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(16, use_quant_conv=False, use_post_quant_conv=False,
            scaling_factor=1.5305, shift_factor=0.0609),
        clip(one), one, clip(two, act="gelu"), two, t5(40), t5_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def flux(folder):
    one = clip_tokenizer(folder / "tokenizer")
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
        vae(16, use_quant_conv=False, use_post_quant_conv=False,
            scaling_factor=0.3611, shift_factor=0.1159),
        clip(one, projected=False), one, t5(32), t5_tokenizer(), random(model),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def hunyuan_dit(folder):
    bert = transformers.BertConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=80,
    )  # fmt: skip
    model = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, patch_size=2,
        sample_size=8, hidden_size=32, num_layers=4, mlp_ratio=2.0,
        cross_attention_dim=24, cross_attention_dim_t5=32, pooled_projection_dim=16,
    )  # fmt: skip
    pipe = diffusers.HunyuanDiTPipeline(
        deep_vae(), random(transformers.BertModel(bert), 2), bert_tokenizer(),
        random(model),
        diffusers.DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.03,
            clip_sample=False, prediction_type="v_prediction", steps_offset=1,
        ),
        None, None, False, t5(), t5_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def lumina(folder):
    gemma = transformers.GemmaConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, intermediate_size=32,
    )  # fmt: skip
    model = diffusers.LuminaNextDiT2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=2,
        num_attention_heads=4, num_kv_heads=2, multiple_of=8, cross_attention_dim=24,
    )  # fmt: skip
    random(model)
    for layer in model.layers:
        layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
        layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    pipe = diffusers.LuminaPipeline(
        model, diffusers.FlowMatchEulerDiscreteScheduler(), deep_vae(),
        random(transformers.GemmaModel(gemma), 2), t5_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe


def qwen_image(folder):
    tokenizer = qwen_tokenizer()
    text = dict(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        rope_parameters=dict(mrope_section=[2, 2, 2], rope_type="default",
                             rope_theta=1e6),
    )  # fmt: skip
    seen = dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=seen | dict(out_hidden_size=24)
    )
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    codec = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -1, 0, 1], latents_std=[1, 2, 0.5, 1],
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
        random(codec, 3),
        random(transformers.Qwen2_5_VLForConditionalGeneration(config), 2),
        tokenizer, random(model),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return pipe
