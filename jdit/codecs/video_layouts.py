# SPDX-License-Identifier: Apache-2.0
"""The tensors of published codecs of videos, as the rules of `interop.layout`."""

from jdit.codecs.cogvideox import AutoencoderKLCogVideoX
from jdit.codecs.layouts import CONV, POINT
from jdit.codecs.wan import AutoencoderKLWan
from jdit.interop.layout import Layout, Rule, linear, norm, same

CONV3 = "e d t h w -> t h w d e"
POINT3 = "e d 1 1 1 -> d e"


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


def cogvideox_layout(codec: AutoencoderKLCogVideoX) -> Layout:
    """The tensors of diffusers' AutoencoderKLCogVideoX."""

    def causal(theirs: str, ours: str) -> tuple[Rule, ...]:
        return linear(f"{theirs}.conv", f"{ours}/conv", CONV3)

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
                rules += causal(f"{key}.conv{k}", f"{name}/conv_{k}")
            if j == 0 and enters != width:
                rules += linear(f"{key}.conv_shortcut", f"{name}/skip", POINT3)
        return rules

    widths, last, rules = codec.widths, len(codec.widths) - 1, []
    for side in ("encoder", "decoder"):
        middle = (f"{side}.mid_block", f"{side}/middle")
        rules += level(side, *middle, 2, widths[-1], widths[-1])
        rules += causal(f"{side}.conv_in", f"{side}/in")
        rules += normal(side, f"{side}.norm_out", f"{side}/norm")
        rules += causal(f"{side}.conv_out", f"{side}/out")
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
