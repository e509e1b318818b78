# SPDX-License-Identifier: Apache-2.0
"""The published state dicts of VDT, in both directions."""

import re
from math import isqrt
from pathlib import Path

import numpy as np

from jdit.conditioning import Labels, LinearClock
from jdit.conditioning.frames import KnownFrames
from jdit.interop.dit import SIX
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, linear, norm, pack, same, unpack
from jdit.models.vdt import SIZES, VDT
from jdit.tokens import Patches, sincos
from jdit.typing import Params

_BLOCK = "blocks.{}"


def _places(model: VDT) -> np.ndarray:
    inside = Patches(model.grid[1:], model.patch).coordinates()
    return np.asarray(sincos(inside, model.dim))[None]


def _frames(model: VDT) -> np.ndarray:
    frame = np.arange(model.grid[0], dtype=np.float32)[:, None]
    return np.asarray(sincos(frame, model.dim))[None]


LAYOUT = Layout(
    "the published VDT layout",
    (
        *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
        *linear("t_embedder.mlp.0", "time/in"),
        *linear("t_embedder.mlp.2", "time/out"),
        same("y_embedder.embedding_table.weight", "label/table"),
        *norm(f"{_BLOCK}.temporal_norm1", "blocks/temporal/norm"),
        *linear(f"{_BLOCK}.temporal_attn.qkv", "blocks/temporal/along/qkv"),
        *linear(f"{_BLOCK}.temporal_attn.proj", "blocks/temporal/along/out"),
        *linear(f"{_BLOCK}.temporal_fc", "blocks/temporal/last"),
        *linear(f"{_BLOCK}.attn.qkv", "blocks/attention/qkv"),
        *linear(f"{_BLOCK}.attn.proj", "blocks/attention/out"),
        *linear(f"{_BLOCK}.mlp.fc1", "blocks/mlp/in"),
        *linear(f"{_BLOCK}.mlp.fc2", "blocks/mlp/out"),
        *linear(f"{_BLOCK}.adaLN_modulation.1", SIX),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *linear("final_layer.linear", "final/linear"),
    ),
    tables={"pos_embed": _places, "time_embed": _frames},
    written=("pos_embed", "time_embed"),
)


def load_vdt(path: str | Path, *, heads: int | None = None) -> tuple[VDT, Params]:
    """A model and its parameters from weights in VDT's published layout.

    path: a published .pt file or a training checkpoint (needs torch), or the same keys
        in a .safetensors file.
    heads: cannot be seen in the weights; None takes the published count of this width
        (384: 6, 1152: 16).

    The grid is square; the last of several rows of labels is the null class. The
    network reads the index of 1000 steps (`LinearClock(1000, -1)`) and predicts noise.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: RERV/VDT cdbad2b, models.py.
    """
    source = open_tensors(path)
    model = _infer(source, heads)
    return model, unpack(LAYOUT, model, source)


def save_vdt(
    path: str | Path, model: VDT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in VDT's published layout: the inverse of `load_vdt`.

    path ends in .safetensors, or in .pt, which needs torch. Raises ValueError for
    frames that are not square.
    """
    if not isinstance(model, VDT) or model.grid[1] != model.grid[2]:
        raise ValueError(f"model is {model}, but {LAYOUT.name} holds square videos")
    write_tensors(path, pack(LAYOUT, model, params), dtype)


def _infer(source: Source, heads: int | None) -> VDT:
    """The model whose weights these are, by their shapes."""
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    _, tokens, _ = source.shape("pos_embed", 3)
    _, frames, _ = source.shape("time_embed", 3)
    rows, _ = source.shape("y_embedder.embedding_table.weight", 2)
    hidden, _ = source.shape("blocks.0.mlp.fc1.weight", 2)
    features, _ = source.shape("final_layer.linear.weight", 2)
    layers = {
        int(m[1]) for k in source.shapes if (m := re.match(r"blocks\.(\d+)\.", k))
    }
    if heads is None:
        heads = {size["dim"]: size["heads"] for size in SIZES.values()}.get(dim)
    if heads is None:
        raise ValueError(
            f"{source.name} has width {dim}, which no published size has, and heads "
            "cannot be seen in the weights: pass heads"
        )
    side = isqrt(tokens) * patch
    return VDT(
        grid=(frames, side, side),
        channels=channels,
        out_channels=features // patch**2,
        patch=patch,
        dim=dim,
        depth=max(layers) + 1,
        heads=heads,
        mlp_ratio=hidden / dim,
        conditioning=KnownFrames(Labels(rows - 1) if rows > 1 else Labels(rows, 0.0)),
        clock=LinearClock(1000.0, -1.0),
    )
