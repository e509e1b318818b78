# SPDX-License-Identifier: Apache-2.0
"""Text and images to condition tokens."""

from jdit.encoders.base import Encoder, Encoding
from jdit.encoders.bert import Bert, minilm
from jdit.encoders.clip import CLIPText, clip_text_g, clip_text_h, clip_text_l
from jdit.encoders.decoder import Decoder, Llama3Scaling, Rotary
from jdit.encoders.folders import load_encoder, save_encoder
from jdit.encoders.language_models import (
    gemma_2_2b,
    gemma_2_9b,
    gemma_2b,
    llama_3_1_8b,
    llama_3_8b,
    qwen2_5_0_5b,
    qwen2_5_1_5b,
    qwen2_5_3b,
    qwen2_5_7b,
)
from jdit.encoders.t5 import T5Encoder, byt5, mt5, t5, t5_original, umt5
from jdit.encoders.tokenizer import Bytes, Tokenizer, load_tokenizer
from jdit.encoders.vision import VisionTransformer
from jdit.encoders.vision_models import (
    clip_vision_h,
    clip_vision_l,
    dinov2,
    siglip_base,
    siglip_so400m,
)

__all__ = [
    "Bert",
    "Bytes",
    "CLIPText",
    "Decoder",
    "Encoder",
    "Encoding",
    "Llama3Scaling",
    "Rotary",
    "T5Encoder",
    "Tokenizer",
    "VisionTransformer",
    "byt5",
    "clip_text_g",
    "clip_text_h",
    "clip_text_l",
    "clip_vision_h",
    "clip_vision_l",
    "dinov2",
    "gemma_2_2b",
    "gemma_2_9b",
    "gemma_2b",
    "llama_3_1_8b",
    "llama_3_8b",
    "load_encoder",
    "load_tokenizer",
    "minilm",
    "mt5",
    "qwen2_5_0_5b",
    "qwen2_5_1_5b",
    "qwen2_5_3b",
    "qwen2_5_7b",
    "save_encoder",
    "siglip_base",
    "siglip_so400m",
    "t5",
    "t5_original",
    "umt5",
]
