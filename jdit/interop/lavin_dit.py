# SPDX-License-Identifier: Apache-2.0
"""The state dicts of LaVin-DiT's published code, in both directions."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jdit.interop.files import DType, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, norm, pack, same, unpack
from jdit.models.lavin_dit import LaVinDiT
from jdit.typing import Params

_STREAMS = {"shown": "cond", "asked": "x"}


def _negative(values: np.ndarray, model: Any) -> np.ndarray:
    return -values


def _stream(ours: str, theirs: str) -> tuple[Rule, ...]:
    block, attention = "blocks.{}", f"blocks.{{}}.joint_attn.{theirs}"
    here, mlp = f"blocks/attention/{ours}", f"blocks/mlp/{ours}"
    gated = f"{block}.{theirs}_mlp"
    four = {f"{place}/{part}": 1 for place in (here, mlp) for part in _PARTS}
    return (
        *linear(f"{theirs}_embedder.0", f"{ours}/linear"),
        *norm(f"{theirs}_embedder.1", f"{ours}/norm"),
        *linear(f"{attention}_q", f"{here}/q", bias=False),
        *linear((f"{attention}_k", f"{attention}_v"), f"{here}/kv", bias=False),
        *norm(f"{attention}_qnorm", f"{here}/q_norm", bias=False),
        *norm(f"{attention}_knorm", f"{here}/k_norm", bias=False),
        *linear(f"{attention}_proj", f"{here}/out", bias=False),
        *linear((f"{gated}.gate_proj", f"{gated}.up_proj"), f"{mlp}/in", bias=False),
        *linear(f"{gated}.down_proj", f"{mlp}/out", bias=False),
        *linear(f"{block}.{theirs}_modulation.1", four),
    )


_PARTS = ("modulation", "gate")

LAYOUT = Layout(
    "LaVin-DiT's layout",
    (
        *(rule for pair in _STREAMS.items() for rule in _stream(*pair)),
        same("prompt_embed", "shown/vector", "1 d -> d"),
        same("answer_embed", "asked/vector", "1 d -> d"),
        *linear("t_embedder.mlp.0", "time/in"),
        *linear("t_embedder.mlp.2", "time/out"),
        *linear("final_layer.adaLN_modulation.1", "final/modulation"),
        *linear("final_layer.linear", "final/linear", twist=_negative),
    ),
)


def load_lavin_dit(
    path: str | Path,
    *,
    heads: int = 32,
    patch: int = 2,
    grid: tuple[int, int, int] = (1, 64, 64),
) -> tuple[LaVinDiT, Params]:
    """A model and its parameters from weights in the layout of LaVin-DiT's code.

    path: a torch file (needs torch), or the same keys in a .safetensors file.
    heads, patch, grid: cannot be seen in the weights; the published model's.

    The code's velocity is the negative of that of `Gaussian(Linear(), "velocity")`: the
    read-out is negated here and back in `save_lavin_dit`, exactly.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown, or of the wrong shape.
    Source: DerrickWang005/LaVin-DiT, lib/model/dit.py.
    """
    source = open_tensors(path)
    dim, features = source.shape("x_embedder.0.weight", 2)
    few, _ = source.shape("blocks.0.joint_attn.x_k.weight", 2)
    hidden, _ = source.shape("blocks.0.x_mlp.gate_proj.weight", 2)
    layers = {
        int(m[1]) for k in source.shapes if (m := re.match(r"blocks\.(\d+)\.", k))
    }
    model = LaVinDiT(
        grid=tuple(grid),
        channels=features // patch**2,
        patch=patch,
        dim=dim,
        depth=max(layers) + 1,
        heads=heads,
        groups=dim // few,
        hidden=hidden,
    )
    return model, unpack(LAYOUT, model, source)


def save_lavin_dit(
    path: str | Path, model: LaVinDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in LaVin-DiT's layout: the inverse of `load_lavin_dit`."""
    if not isinstance(model, LaVinDiT):
        raise ValueError(
            f"model is a {type(model).__name__}, but {LAYOUT.name} holds a LaVinDiT"
        )
    write_tensors(path, pack(LAYOUT, model, params), dtype)
