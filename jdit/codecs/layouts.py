# SPDX-License-Identifier: Apache-2.0
"""The tensors of published codecs, as the rules of `jdit.interop.layout`."""

from dataclasses import dataclass, replace

from jdit.codecs.kl import AutoencoderKL
from jdit.codecs.tiny import AutoencoderTiny
from jdit.interop.layout import Layout, Rule, linear, norm

POINT = "e d 1 1 -> d e"
CONV = "e d h w -> h w d e"


@dataclass(frozen=True)
class Names:
    """How one way to store an AutoencoderKL calls its parts."""

    layout: str
    down: str = "down_blocks"
    up: str = "up_blocks"
    up_from_coarse: bool = True
    block: str = "resnets"
    attention: str = "attentions"
    shrink: str = "downsamplers.0.conv"
    grow: str = "upsamplers.0.conv"
    middle: tuple[str, str] = ("mid_block.resnets.0", "mid_block.resnets.1")
    middle_attention: str = "mid_block.attentions.0"
    last_norm: str = "conv_norm_out"
    skip: str = "conv_shortcut"
    norm: str = "group_norm"
    qkv: tuple[str, str, str] = ("to_q", "to_k", "to_v")
    out: str = "to_out.0"
    pattern: str = "e d -> d e"


DIFFUSERS = Names("diffusers' AutoencoderKL")
OLD_DIFFUSERS = replace(DIFFUSERS, qkv=("query", "key", "value"), out="proj_attn")
"""The names of attention in folders that were saved before diffusers 0.15."""

LDM = Names(
    "latent-diffusion's AutoencoderKL",
    down="down",
    up="up",
    up_from_coarse=False,
    block="block",
    attention="attn",
    shrink="downsample.conv",
    grow="upsample.conv",
    middle=("mid.block_1", "mid.block_2"),
    middle_attention="mid.attn_1",
    last_norm="norm_out",
    skip="nin_shortcut",
    norm="norm",
    qkv=("q", "k", "v"),
    out="proj_out",
    pattern=POINT,
)


def kl_layout(codec: AutoencoderKL, names: Names = DIFFUSERS) -> Layout:
    """The tensors of this codec under these names."""

    def residual(theirs: str, ours: str, skip: bool) -> list[Rule]:
        return [
            *norm(f"{theirs}.norm1", f"{ours}/norm_1"),
            *linear(f"{theirs}.conv1", f"{ours}/conv_1", CONV),
            *norm(f"{theirs}.norm2", f"{ours}/norm_2"),
            *linear(f"{theirs}.conv2", f"{ours}/conv_2", CONV),
            *(linear(f"{theirs}.{names.skip}", f"{ours}/skip", POINT) if skip else ()),
        ]

    def attention(theirs: str, ours: str) -> list[Rule]:
        qkv = tuple(f"{theirs}.{part}" for part in names.qkv)
        return [
            *norm(f"{theirs}.{names.norm}", f"{ours}/norm"),
            *linear(qkv, f"{ours}/qkv", names.pattern),
            *linear(f"{theirs}.{names.out}", f"{ours}/out", names.pattern),
        ]

    def ends(side: str) -> list[Rule]:
        rules = [
            *linear(f"{side}.conv_in", f"{side}/in", CONV),
            *norm(f"{side}.{names.last_norm}", f"{side}/norm"),
            *linear(f"{side}.conv_out", f"{side}/out", CONV),
        ]
        for i, block in enumerate(names.middle):
            rules += residual(f"{side}.{block}", f"{side}/middle/block_{i}", False)
        if codec.mid_attention:
            theirs = f"{side}.{names.middle_attention}"
            rules += attention(theirs, f"{side}/middle/attention_0")
        return rules

    def level(theirs: str, ours: str, i: int, blocks: int, enters: int) -> list[Rule]:
        rules: list[Rule] = []
        for j in range(blocks):
            skip = j == 0 and enters != codec.widths[i]
            rules += residual(f"{theirs}.{names.block}.{j}", f"{ours}/block_{j}", skip)
            if i in codec.attention:
                key = f"{theirs}.{names.attention}.{j}"
                rules += attention(key, f"{ours}/attention_{j}")
        return rules

    widths, last = codec.widths, len(codec.widths) - 1
    rules = ends("encoder") + ends("decoder")
    for i in range(last + 1):
        theirs = f"encoder.{names.down}.{i}"
        ours, enters = f"encoder/level_{i}", widths[max(i - 1, 0)]
        rules += level(theirs, ours, i, codec.blocks, enters)
        if i < last:
            rules += linear(f"{theirs}.{names.shrink}", f"encoder/shrink_{i}", CONV)
        theirs = f"decoder.{names.up}.{last - i if names.up_from_coarse else i}"
        ours, enters = f"decoder/level_{i}", widths[min(i + 1, last)]
        rules += level(theirs, ours, i, codec.blocks + 1, enters)
        if i > 0:
            rules += linear(f"{theirs}.{names.grow}", f"decoder/grow_{i}", CONV)
    if codec.quant:
        rules += linear("quant_conv", "quant", POINT)
    if codec.post_quant:
        rules += linear("post_quant_conv", "post_quant", POINT)
    return Layout(names.layout, tuple(rules))


def tiny_layout(codec: AutoencoderTiny) -> Layout:
    """The tensors of diffusers' AutoencoderTiny, which counts layers through."""
    rules: list[Rule] = []
    for side, levels in (
        ("encoder", codec.encoder_blocks),
        ("decoder", codec.decoder_blocks),
    ):
        count = 0

        def conv(ours: str, bias: bool = True, side: str = side) -> None:
            nonlocal count
            key = f"{side}.layers.{count}"
            rules.extend(linear(key, f"{side}/{ours}", CONV, bias=bias))
            count += 1

        conv("in")
        count += side == "decoder"  # the activation
        for i, blocks in enumerate(levels):
            if i and side == "encoder":
                conv(f"shrink_{i}", bias=False)
            for j in range(blocks):
                for k in range(3):
                    key = f"{side}.layers.{count}.conv.{2 * k}"
                    ours = f"{side}/level_{i}_block_{j}/conv_{k}"
                    rules.extend(linear(key, ours, CONV))
                count += 1
            if i < len(levels) - 1 and side == "decoder":
                count += 1  # the upsampling
                conv(f"grow_{i}", bias=False)
        conv("out")
    return Layout("diffusers' AutoencoderTiny", tuple(rules))
