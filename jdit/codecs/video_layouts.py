# SPDX-License-Identifier: Apache-2.0
"""The tensors of published codecs of videos, as the rules of `interop.layout`."""

import numpy as np

from jdit.codecs.cogvideox import LevelledCodec
from jdit.codecs.hunyuan_video import AutoencoderKLHunyuanVideo
from jdit.codecs.layouts import CONV, POINT
from jdit.codecs.ltx import AutoencoderKLLTXVideo
from jdit.codecs.wan import AutoencoderKLWan
from jdit.interop.layout import Layout, Rule, linear, norm, same

CONV3 = "e d t h w -> t h w d e"
POINT3 = "e d 1 1 1 -> d e"


def held(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a convolution within a module that pads."""
    return linear(f"{theirs}.conv", f"{ours}/conv", CONV3)


def wan_layout(codec: AutoencoderKLWan) -> Layout:
    """The tensors of diffusers' AutoencoderKLWan and AutoencoderKLQwenImage."""

    def scale(theirs: str, ours: str, axes: int = 3) -> Rule:
        return same(f"{theirs}.gamma", f"{ours}/scale", "d" + " 1" * axes + " -> d")

    def residual(theirs: str, ours: str, skip: bool = False) -> list[Rule]:
        name = f"{theirs}.conv_shortcut"
        return [
            scale(f"{theirs}.norm1", f"{ours}/norm_1"),
            *linear(f"{theirs}.conv1", f"{ours}/conv_1", CONV3),
            scale(f"{theirs}.norm2", f"{ours}/norm_2"),
            *linear(f"{theirs}.conv2", f"{ours}/conv_2", CONV3),
            *(linear(name, f"{ours}/skip", POINT3) if skip else ()),
        ]

    def resample(theirs: str, ours: str, time: bool) -> list[Rule]:
        return [
            *linear(f"{theirs}.resample.1", f"{ours}/conv", CONV),
            *(linear(f"{theirs}.time_conv", f"{ours}/time", CONV3) if time else ()),
        ]

    def ends(side: str) -> list[Rule]:
        middle, ours = f"{side}.mid_block", f"{side}/middle"
        attention = f"{middle}.attentions.0"
        return [
            *linear(f"{side}.conv_in", f"{side}/in", CONV3),
            *residual(f"{middle}.resnets.0", f"{ours}/block_0"),
            scale(f"{attention}.norm", f"{ours}/attention_0/norm", 2),
            *linear(f"{attention}.to_qkv", f"{ours}/attention_0/qkv", POINT),
            *linear(f"{attention}.proj", f"{ours}/attention_0/out", POINT),
            *residual(f"{middle}.resnets.1", f"{ours}/block_1"),
            scale(f"{side}.norm_out", f"{side}/norm"),
            *linear(f"{side}.conv_out", f"{side}/out", CONV3),
        ]

    rules = ends("encoder") + ends("decoder")
    rules += linear("quant_conv", "quant", POINT3)
    rules += linear("post_quant_conv", "post_quant", POINT3)
    last, count, enters = len(codec.multipliers) - 1, 0, codec.width
    for i, multiplier in enumerate(codec.multipliers):
        width, level = multiplier * codec.width, f"encoder/level_{i}"
        for j in range(codec.blocks):
            theirs = f"encoder.down_blocks.{count}"
            if codec.shortcuts:
                theirs = f"encoder.down_blocks.{i}.resnets.{j}"
            skip = j == 0 and enters != width
            rules += residual(theirs, f"{level}/block_{j}", skip)
            count += 1
        if i < last:
            theirs = f"encoder.down_blocks.{count}"
            if codec.shortcuts:
                theirs = f"encoder.down_blocks.{i}.downsampler"
            rules += resample(theirs, f"encoder/shrink_{i}", codec.halves_time[i])
            count += 1
        enters = width
    widths = [m * (codec.decoder_width or codec.width) for m in codec.multipliers]
    enters = widths[-1]
    for i, width in reversed(tuple(enumerate(widths))):
        block, level = f"decoder.up_blocks.{last - i}", f"decoder/level_{i}"
        for j in range(codec.blocks + 1):
            skip = j == 0 and enters != width
            rules += residual(f"{block}.resnets.{j}", f"{level}/block_{j}", skip)
        if i > 0:
            name = "upsampler" if codec.shortcuts else "upsamplers.0"
            time = codec.halves_time[i - 1]
            rules += resample(f"{block}.{name}", f"decoder/grow_{i}", time)
        enters = width if codec.shortcuts else width // 2
    return Layout(f"diffusers' {type(codec).__name__}", tuple(rules))


def cogvideox_layout(codec: LevelledCodec) -> Layout:
    """The tensors of diffusers' AutoencoderKLCogVideoX."""

    def normal(side: str, theirs: str, ours: str) -> list[Rule]:
        if side == "encoder":
            return [*norm(theirs, f"{ours}/norm")]
        return [
            *norm(f"{theirs}.norm_layer", f"{ours}/norm/norm"),
            *linear(f"{theirs}.conv_y.conv", f"{ours}/scale", POINT3),
            *linear(f"{theirs}.conv_b.conv", f"{ours}/bias", POINT3),
        ]

    def level(
        side: str, theirs: str, ours: str, blocks: int, enters: int, width: int
    ) -> list[Rule]:
        rules: list[Rule] = []
        for j in range(blocks):
            key, name = f"{theirs}.resnets.{j}", f"{ours}/block_{j}"
            for k in (1, 2):
                rules += normal(side, f"{key}.norm{k}", f"{name}/norm_{k}")
                rules += held(f"{key}.conv{k}", f"{name}/conv_{k}")
            if j == 0 and enters != width:
                rules += linear(f"{key}.conv_shortcut", f"{name}/skip", POINT3)
        return rules

    widths, last, rules = codec.widths, len(codec.widths) - 1, []
    for side in ("encoder", "decoder"):
        middle = (f"{side}.mid_block", f"{side}/middle")
        rules += level(side, *middle, 2, widths[-1], widths[-1])
        rules += held(f"{side}.conv_in", f"{side}/in")
        rules += normal(side, f"{side}.norm_out", f"{side}/norm")
        rules += held(f"{side}.conv_out", f"{side}/out")
    for i, width in enumerate(widths):
        theirs, ours = f"encoder.down_blocks.{i}", f"encoder/level_{i}"
        enters = widths[max(i - 1, 0)]
        rules += level("encoder", theirs, ours, codec.blocks, enters, width)
        if i < last:
            theirs = f"{theirs}.downsamplers.0.conv"
            rules += linear(theirs, f"encoder/shrink_{i}", CONV)
        theirs, ours = f"decoder.up_blocks.{last - i}", f"decoder/level_{i}"
        enters = widths[min(i + 1, last)]
        rules += level("decoder", theirs, ours, codec.blocks + 1, enters, width)
        if i > 0:
            theirs = f"{theirs}.upsamplers.0.conv"
            rules += linear(theirs, f"decoder/grow_{i}", CONV)
    return Layout("diffusers' AutoencoderKLCogVideoX", tuple(rules))


def ltx_layout(codec: AutoencoderKLLTXVideo) -> Layout:
    """The tensors of diffusers' AutoencoderKLLTXVideo, without a time or noise."""

    def residual(theirs: str, ours: str, changes: bool = False) -> list[Rule]:
        rules = [
            *held(f"{theirs}.conv1", f"{ours}/conv_1"),
            *held(f"{theirs}.conv2", f"{ours}/conv_2"),
        ]
        if changes:
            rules += norm(f"{theirs}.norm3", f"{ours}/skip_norm")
            rules += linear(f"{theirs}.conv_shortcut.conv", f"{ours}/skip", POINT3)
        return rules

    def level(theirs: str, ours: str, blocks: int) -> list[Rule]:
        rules: list[Rule] = []
        for j in range(blocks):
            rules += residual(f"{theirs}.resnets.{j}", f"{ours}/block_{j}")
        return rules

    rules: list[Rule] = []
    for side, blocks in (("encoder", codec.blocks), ("decoder", codec.decoder_blocks)):
        rules += held(f"{side}.conv_in", f"{side}/in")
        rules += level(f"{side}.mid_block", f"{side}/middle", blocks[-1])
        rules += held(f"{side}.conv_out", f"{side}/out")
    for i, width in enumerate(codec.widths):
        theirs = f"encoder.down_blocks.{i}"
        rules += level(theirs, f"encoder/level_{i}", codec.blocks[i])
        if codec.halves[i]:
            rules += held(f"{theirs}.downsamplers.0", f"encoder/shrink_{i}")
        if codec.next_width(i) != width:
            rules += residual(f"{theirs}.conv_out", f"encoder/change_{i}", True)
    enters, last = codec.decoder_widths[-1], len(codec.decoder_widths) - 1
    for i, width in reversed(tuple(enumerate(codec.decoder_widths))):
        theirs = f"decoder.up_blocks.{last - i}"
        if enters != width:
            rules += residual(f"{theirs}.conv_in", f"decoder/change_{i}", True)
        if codec.decoder_halves[i]:
            rules += held(f"{theirs}.upsamplers.0.conv", f"decoder/grow_{i}")
        rules += level(theirs, f"decoder/level_{i}", codec.decoder_blocks[i])
        enters = width
    tables = {
        "latents_mean": lambda codec: _statistic(codec, codec.latents_mean, 0),
        "latents_std": lambda codec: _statistic(codec, codec.latents_std, 1),
    }
    return Layout("diffusers' AutoencoderKLLTXVideo", tuple(rules), tables, (*tables,))


def _statistic(
    codec: AutoencoderKLLTXVideo, values: tuple[float, ...] | None, default: float
) -> np.ndarray:
    given = (default,) * codec.latent_channels if values is None else values
    return np.asarray(given, np.float32)


def hunyuan_video_layout(codec: AutoencoderKLHunyuanVideo) -> Layout:
    """The tensors of diffusers' AutoencoderKLHunyuanVideo."""

    def residual(theirs: str, ours: str, skip: bool = False) -> list[Rule]:
        name = f"{theirs}.conv_shortcut.conv"
        return [
            *norm(f"{theirs}.norm1", f"{ours}/norm_1"),
            *held(f"{theirs}.conv1", f"{ours}/conv_1"),
            *norm(f"{theirs}.norm2", f"{ours}/norm_2"),
            *held(f"{theirs}.conv2", f"{ours}/conv_2"),
            *(linear(name, f"{ours}/skip", POINT3) if skip else ()),
        ]

    def level(
        theirs: str, ours: str, blocks: int, enters: int, width: int
    ) -> list[Rule]:
        rules: list[Rule] = []
        for j in range(blocks):
            skip = j == 0 and enters != width
            rules += residual(f"{theirs}.resnets.{j}", f"{ours}/block_{j}", skip)
        return rules

    def ends(side: str) -> list[Rule]:
        middle, ours = f"{side}.mid_block", f"{side}/middle"
        rules = [
            *held(f"{side}.conv_in", f"{side}/in"),
            *residual(f"{middle}.resnets.0", f"{ours}/block_0"),
            *residual(f"{middle}.resnets.1", f"{ours}/block_1"),
            *norm(f"{side}.conv_norm_out", f"{side}/norm"),
            *held(f"{side}.conv_out", f"{side}/out"),
        ]
        if codec.attention:
            theirs, ours = f"{middle}.attentions.0", f"{ours}/attention_0"
            qkv = tuple(f"{theirs}.to_{part}" for part in "qkv")
            rules += norm(f"{theirs}.group_norm", f"{ours}/norm")
            rules += linear(qkv, f"{ours}/qkv")
            rules += linear(f"{theirs}.to_out.0", f"{ours}/out")
        return rules

    widths, last = codec.widths, len(codec.widths) - 1
    rules = ends("encoder") + ends("decoder")
    rules += linear("quant_conv", "quant", POINT3)
    rules += linear("post_quant_conv", "post_quant", POINT3)
    for i, width in enumerate(widths):
        theirs, enters = f"encoder.down_blocks.{i}", widths[max(i - 1, 0)]
        rules += level(theirs, f"encoder/level_{i}", codec.blocks, enters, width)
        if i < last:
            rules += held(f"{theirs}.downsamplers.0.conv", f"encoder/shrink_{i}")
        theirs, enters = f"decoder.up_blocks.{last - i}", widths[min(i + 1, last)]
        rules += level(theirs, f"decoder/level_{i}", codec.blocks + 1, enters, width)
        if i > 0:
            rules += held(f"{theirs}.upsamplers.0.conv", f"decoder/grow_{i}")
    return Layout("diffusers' AutoencoderKLHunyuanVideo", tuple(rules))
