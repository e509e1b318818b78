# SPDX-License-Identifier: Apache-2.0
"""The published state dict of LightningDiT, in both directions."""

import re
from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from pathlib import Path

import numpy as np

from jdit.conditioning import Labels, LinearClock, Sinusoids
from jdit.interop.dit import SIT_CLOCK, SIX, negate, positions
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, linear, norm, pack, same, unpack
from jdit.models.lightning_dit import LightningDiT, even_rotary
from jdit.typing import Params

FOUR = {name: 1 for name in SIX}
"""The fused matrix without shifts: scale, gate of attention, then of the MLP."""


def rotary_tables(width: Callable[[LightningDiT], int]) -> list[Callable]:
    """Their buffers of cosines and sines, each angle twice: `n width`."""

    def table(which: int) -> Callable:
        return lambda model: np.repeat(
            np.asarray(even_rotary(model.tokens, width(model))[which]), 2, -1
        )

    return [table(0), table(1)]


def block_rules(
    theirs: str, ours: str, *, qk_norm: bool, shift: bool, bias: bool = True
) -> tuple:
    """The rules of LightningDiT's blocks, also used by RAE's head."""
    names = ("q_norm", "k_norm") if qk_norm else ()
    parts = SIX if shift else FOUR
    fused = {key.replace("blocks", ours, 1): share for key, share in parts.items()}
    return (
        *norm(f"{theirs}.norm1", f"{ours}/attention/norm", bias=False),
        *linear(f"{theirs}.attn.qkv", f"{ours}/attention/qkv", bias=bias),
        *(
            rule
            for name in names
            for rule in norm(
                f"{theirs}.attn.{name}", f"{ours}/attention/{name}", bias=False
            )
        ),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.norm2", f"{ours}/mlp/norm", bias=False),
        *linear(f"{theirs}.mlp.w12", f"{ours}/mlp/in", bias=bias),
        *linear(f"{theirs}.mlp.w3", f"{ours}/mlp/out", bias=bias),
        *linear(f"{theirs}.adaLN_modulation.1", fused),
    )


def _layout(model: LightningDiT) -> Layout:
    cos, sin = rotary_tables(lambda model: model.dim // model.heads)
    tables = {
        "pos_embed": positions,
        "feat_rope.freqs_cos": cos,
        "feat_rope.freqs_sin": sin,
    }
    shape = dict(qk_norm=model.qk_norm, shift=model.shift)
    return Layout(
        "the published LightningDiT layout",
        (
            *linear("x_embedder.proj", "patch", "d c p q -> (p q c) d"),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            same("y_embedder.embedding_table.weight", "label/table"),
            *block_rules("blocks.{}", "blocks", **shape),
            *norm("final_layer.norm_final", "final/norm", bias=False),
            *linear("final_layer.adaLN_modulation.1", "final/modulation"),
            *linear("final_layer.linear", "final/linear", twist=negate),
        ),
        tables=tables,
        written=tuple(tables),
    )


def load_lightning_dit(path: str | Path) -> tuple[LightningDiT, Params]:
    """A model and its parameters from weights in LightningDiT's published layout.

    path: a `lightningdit-xl-*.pt` or training checkpoint (its "ema" weights), or the
        same keys in a .safetensors file, for which torch is not needed.

    Everything but the compute dtype is read off the tensors. Their time runs from noise
    (0) to data (1) and their velocity with it, so the read-out is negated here and back
    in `save_lightning_dit`, exactly: the process is `Gaussian(Linear(), "velocity")`.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown or of the wrong shape; so also for the published
    code's options that are plain DiT (no SwiGLU, no RMSNorm, no rotary positions).
    Source: hustvl/LightningDiT 2725fed, models/lightningdit.py.
    """
    source = open_tensors(path)
    model = _infer(source)
    return model, unpack(_layout(model), model, source)


def save_lightning_dit(
    path: str | Path, model: LightningDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in the published layout: the inverse of `load_lightning_dit`.

    Raises ValueError naming the field for a model that the published code cannot
    express: another clock or basis, no labels, a grid that is not square.
    """
    if not isinstance(model, LightningDiT):
        raise ValueError(
            f"model is a {type(model).__name__}, but this layout holds a LightningDiT"
        )
    layout = _layout(model)
    require_square(model.grid, model.tokens.size, layout.name)
    if model.clock != SIT_CLOCK or model.basis != Sinusoids(model.basis.count):
        raise ValueError(
            f"model has clock {model.clock} and basis {model.basis}, but {layout.name} "
            f"means {SIT_CLOCK} and {Sinusoids(model.basis.count)}"
        )
    if model.conditioning is None:
        raise ValueError(f"model.conditioning is None, but {layout.name} has labels")
    write_tensors(path, pack(layout, model, params), dtype)


def require_square(grid: tuple[int, ...], patch: tuple[int, ...], layout: str) -> None:
    """Raise ValueError unless grid and patch are square and two-dimensional."""
    if len(grid) != 2 or grid[0] != grid[1] or patch[0] != patch[1]:
        raise ValueError(
            f"model has grid {grid} and patch {patch}, but {layout} holds square "
            "two-dimensional grids with square patches"
        )


def depth_of(source: Source, pattern: str = r"blocks\.(\d+)\.") -> int:
    """The number of layers whose keys match, the first group being the index."""
    found = {int(m[1]) for k in source.shapes if (m := re.match(pattern, k))}
    return max(found, default=-1) + 1


def side_of(source: Source) -> int:
    """The side of the square of tokens that `pos_embed` is for."""
    _, tokens, _ = source.shape("pos_embed", 3)
    if isqrt(tokens) ** 2 != tokens:
        raise ValueError(
            f"'pos_embed' of {source.name} has {tokens} tokens, but the published "
            "layout holds square grids"
        )
    return isqrt(tokens)


def check_parts(source: Source, layout: str) -> None:
    """Raise ValueError naming the first of the parts that makes this no plain DiT."""
    parts = {
        "blocks.0.mlp.w12.weight": "SwiGLU",
        "blocks.0.norm1.weight": "RMSNorm",
    }
    for key, part in parts.items():
        if key not in source.shapes:
            raise ValueError(
                f"{source.name} lacks {key!r}: {layout} is supported with {part} only"
            )


def _infer(source: Source) -> LightningDiT:
    check_parts(source, "the published LightningDiT layout")
    dim, channels, patch, _ = source.shape("x_embedder.proj.weight", 4)
    side = side_of(source)
    _, basis = source.shape("t_embedder.mlp.0.weight", 2)
    rows, _ = source.shape("y_embedder.embedding_table.weight", 2)
    _, hidden = source.shape("blocks.0.mlp.w3.weight", 2)
    features, _ = source.shape("final_layer.linear.weight", 2)
    modulation, _ = source.shape("blocks.0.adaLN_modulation.1.weight", 2)
    _, width = source.shape("feat_rope.freqs_cos", 2)
    model = LightningDiT(
        grid=(side * patch,) * 2,
        channels=channels,
        patch=patch,
        dim=dim,
        depth=depth_of(source),
        heads=dim // width,
        hidden=hidden,
        qk_norm="blocks.0.attn.q_norm.weight" in source.shapes,
        shift=modulation == 6 * dim,
        conditioning=Labels(rows - 1),
        clock=LinearClock(-1.0, 1.0),
        basis=Sinusoids(basis),
    )
    out = features // patch**2
    return model if out == channels else replace(model, out_channels=out)
