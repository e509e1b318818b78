# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of U-ViT, in both directions."""

import re
from math import isqrt
from pathlib import Path
from typing import Any

from jdit.conditioning import Labels, LinearClock, Text
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, norm, pack, same, unpack
from jdit.models.uvit import SIZES, UViT
from jdit.typing import Params

NAME = "the published U-ViT layout"


def _block(theirs: str, ours: str, bias: bool, skip: bool) -> tuple[Rule, ...]:
    lead = "" if "{}" in theirs else "1 "  # the middle block is a stage of one layer

    def dense(name: str, to: str, bias: bool = True) -> tuple[Rule, ...]:
        rules = [same(f"{theirs}.{name}.weight", f"{to}/kernel", f"e d -> {lead}d e")]
        if bias:
            rules += [same(f"{theirs}.{name}.bias", f"{to}/bias", f"e -> {lead}e")]
        return tuple(rules)

    def scale(name: str, to: str) -> tuple[Rule, ...]:
        pairs = (("weight", "scale"), ("bias", "bias"))
        return tuple(
            same(f"{theirs}.{name}.{a}", f"{to}/{b}", f"e -> {lead}e") for a, b in pairs
        )

    return (
        *scale("norm1", f"{ours}/attention/norm"),
        *dense("attn.qkv", f"{ours}/attention/qkv", bias),
        *dense("attn.proj", f"{ours}/attention/out"),
        *scale("norm2", f"{ours}/mlp/norm"),
        *dense("mlp.fc1", f"{ours}/mlp/in"),
        *dense("mlp.fc2", f"{ours}/mlp/out"),
        *(dense("skip_linear", f"{ours}/enter") if skip else ()),
    )


def layout(model: UViT) -> Layout:
    """The published layout of this model: what it holds depends on its conditions."""
    rules = [
        *linear("patch_embed.proj", "patch", "d c p q -> (p q c) d"),
        same("pos_embed", "positions", "1 n d -> n d"),
        *_block("in_blocks.{}", "in_blocks", model.qkv_bias, False),
        *_block("mid_block", "mid_blocks", model.qkv_bias, False),
        *_block("out_blocks.{}", "out_blocks", model.qkv_bias, True),
        *norm("norm", "final/norm"),
        *linear("decoder_pred", "final/linear"),
    ]
    if isinstance(model.conditioning, Text):
        rules += linear("context_embed", "text")
    elif model.conditioning is not None:
        rules += [same("label_emb.weight", "label/table")]
    if model.last_conv:
        rules += linear("final_layer", "final/conv", "e d y x -> y x d e")
    return Layout(NAME, tuple(rules))


def load_uvit(
    path: str | Path,
    *,
    heads: int | None = None,
    classes: int | None = None,
    text_tokens: int = 77,
) -> tuple[UViT, Params]:
    """A model and its parameters from weights in U-ViT's published layout.

    path: an `nnet_ema.pth` (needs torch), or the same keys in a .safetensors file.
    heads: cannot be seen in the weights; None takes the published count of this width
        (512: 8, 768: 12, 1024 and 1152: 16).
    classes: None reads the last row of the labels' table as the null class, but for a
        table of 1,000 rows, which the published models at 64 pixels have: no null.
    text_tokens: of a text-to-image model, which the weights do not tell.

    The grid is square. Models of 4 channels get the clock of the published models of
    latents, 1 ... 1000, others that of pixels, 999 times the time (see `UViT`). A file
    with a learned embedding of time (`time_embed`), which no published model has, is
    refused as unknown.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: baofff/U-ViT ce55170, libs/uvit.py and libs/uvit_t2i.py.
    """
    source = open_tensors(path)
    model = _infer(source, heads, classes, text_tokens)
    return model, unpack(layout(model), model, source)


def save_uvit(
    path: str | Path, model: UViT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in U-ViT's published layout: the inverse of `load_uvit`.

    path ends in .safetensors, or in .pth, which needs torch. Raises ValueError for a
    grid that is not square.
    """
    if not isinstance(model, UViT) or model.grid[0] != model.grid[1]:
        raise ValueError(f"model is {model}, but {NAME} holds a UViT of a square grid")
    write_tensors(path, pack(layout(model), model, params), dtype)


def _infer(
    source: Source, heads: int | None, classes: int | None, text_tokens: int
) -> UViT:
    """The model whose weights these are, by their shapes."""
    dim, channels, patch, _ = source.shape("patch_embed.proj.weight", 4)
    _, tokens, _ = source.shape("pos_embed", 3)
    hidden, _ = source.shape("in_blocks.0.mlp.fc1.weight", 2)
    layers = {
        int(m[1]) for k in source.shapes if (m := re.match(r"in_blocks\.(\d+)\.", k))
    }
    if heads is None:
        heads = {size["dim"]: size["heads"] for size in SIZES.values()}.get(dim)
    if heads is None:
        raise ValueError(
            f"{source.name} has width {dim}, which no published size has, and heads "
            "cannot be seen in the weights: pass heads"
        )
    conditioning, extras = _conditioning(source, classes, text_tokens)
    side = isqrt(max(tokens - extras, 0))
    if side**2 != tokens - extras or not side:
        raise ValueError(
            f"'pos_embed' of {source.name} has {tokens} positions, but {extras} for "
            "time and conditions, and those of a square grid, are accepted"
            + (": text_tokens may be wrong" if extras > 2 else "")
        )
    latents = channels == 4
    return UViT(
        grid=(side * patch, side * patch),
        channels=channels,
        patch=patch,
        dim=dim,
        depth=2 * (max(layers) + 1),
        heads=heads,
        mlp_ratio=hidden / dim,
        qkv_bias="in_blocks.0.attn.qkv.bias" in source.shapes,
        conditioning=conditioning,
        text_tokens=text_tokens,
        last_conv="final_layer.weight" in source.shapes,
        clock=LinearClock(1000.0 if latents else 999.0),
    )


def _conditioning(source: Source, classes: int | None, text_tokens: int) -> Any:
    """What the weights are told, and the number of tokens in front of the image's."""
    if "context_embed.weight" in source.shapes:
        _, features = source.shape("context_embed.weight", 2)
        return Text(features), 1 + text_tokens
    if "label_emb.weight" not in source.shapes:
        return None, 1
    rows, _ = source.shape("label_emb.weight", 2)
    if classes not in (None, rows, rows - 1):
        raise ValueError(
            f"classes is {classes}, but {source.name} has {rows} rows of labels: it "
            f"must be {rows - 1} (with a null class) or {rows} (without)"
        )
    whole = classes == rows or (classes is None and rows == 1000)
    return (Labels(rows, 0.0) if whole else Labels(rows - 1)), 2
