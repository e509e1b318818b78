# SPDX-License-Identifier: Apache-2.0
"""Lumina's weights: the published files, and diffusers' folders of Next-DiT."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jdit.conditioning import Labels, LinearClock, Sinusoids, Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.dit import negate
from jdit.interop.files import DType, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, norm, pack, same, unpack
from jdit.interop.lightning_dit import depth_of
from jdit.models.lumina import FlagDiT, NextDiT, swiglu_multiple
from jdit.models.lumina_labels import FlagDiTLabels, Labelled, NextDiTLabels
from jdit.typing import Params

CLOCK = LinearClock(-1.0, 1.0)
PAD = "pad_token"
LABELS = "y_embedder.embedding_table.weight"

CONFIG = Config(
    names=("LuminaNextDiT2DModel",),
    fields={
        "sample_size": (128, NATURAL),
        "patch_size": (2, NATURAL),
        "in_channels": (4, NATURAL),
        "hidden_size": (2304, NATURAL),
        "num_layers": (32, NATURAL),
        "num_attention_heads": (32, NATURAL),
        "num_kv_heads": (None, f"{NATURAL} or null"),
        "multiple_of": (256, NATURAL),
        "ffn_dim_multiplier": (None, "a number or null"),
        "norm_eps": (1e-5, "a number"),
        "learn_sigma": (True, "true or false"),
        "qk_norm": (True, "true or false"),
        "cross_attention_dim": (2048, NATURAL),
    },
    ignored=("scaling_factor",),
)


def _patch(key: str, model: FlagDiT) -> tuple[Rule, ...]:
    p, q = model.tokens.size
    kernel = Rule(
        (f"{key}.weight",),
        (("patch/kernel", 1),),
        "d (c p q) -> (p q c) d",
        sizes=(("p", p), ("q", q)),
    )
    return (kernel, same(f"{key}.bias", "patch/bias"))


def _norms(names: Mapping[str, str], ours: str, bias: bool) -> Iterable[Rule]:
    for theirs, name in names.items():
        yield from norm(theirs, f"{ours}/{name}", bias=bias)


def _fused(stage: str, parts: int) -> dict[str, int]:
    return {
        f"{stage}/{branch}/{name}": share
        for branch in ("attention", "mlp")
        for name, share in (("modulation", parts), ("gate_of_branch", 1))
    }


def _published(model: FlagDiT) -> Layout:
    """The layout of the published files."""
    key, ours = "layers.{}", "blocks"
    attention, mlp = f"{key}.attention", f"{key}.feed_forward"
    if isinstance(model, NextDiTLabels):
        norms = {
            f"{key}.attention_norm": "attention/norm_after",
            f"{key}.ffn_norm": "mlp/norm_after",
        }
    elif isinstance(model, NextDiT):
        norms = {
            f"{key}.attention_norm1": "attention/norm",
            f"{key}.attention_norm2": "attention/norm_after",
            f"{key}.ffn_norm1": "mlp/norm",
            f"{key}.ffn_norm2": "mlp/norm_after",
        }
    else:
        norms = {
            f"{key}.attention_norm": "attention/norm",
            f"{key}.ffn_norm": "mlp/norm",
        }
    heads = {"q_norm": "q_norm", "k_norm": "k_norm"}
    told: tuple[Rule, ...] = (same(LABELS, "label/table"),)
    if not isinstance(model, Labelled):
        norms[f"{key}.attention_y_norm"] = "attention/norm_of_text"
        heads["ky_norm"] = "text_norm"
        told = (
            *norm("cap_embedder.0", "text/norm"),
            *linear("cap_embedder.1", "text/linear"),
            *_pair(
                (f"{attention}.wk_y", f"{attention}.wv_y"), f"{ours}/attention/text_kv"
            ),
            same(f"{attention}.gate", f"{ours}/attention/gate"),
        )
    heads = {f"{attention}.{k}": f"attention/{v}" for k, v in heads.items()}
    fused = _fused(ours, model.block.parts)
    return Layout(
        f"the published layout of {type(model).__name__}",
        (
            *_patch("x_embedder", model),
            *linear("t_embedder.mlp.0", "time/in"),
            *linear("t_embedder.mlp.2", "time/out"),
            *told,
            *linear(f"{attention}.wq", f"{ours}/attention/q", bias=False),
            *_pair((f"{attention}.wk", f"{attention}.wv"), f"{ours}/attention/kv"),
            *linear(f"{attention}.wo", f"{ours}/attention/out", bias=False),
            *(_norms(heads, ours, True) if model.qk_norm else ()),
            *_norms(norms, ours, False),
            *_pair((f"{mlp}.w1", f"{mlp}.w3"), f"{ours}/mlp/in"),
            *linear(f"{mlp}.w2", f"{ours}/mlp/out", bias=False),
            *linear(f"{key}.adaLN_modulation.1", fused),
            *linear("final_layer.adaLN_modulation.1", "final/modulation"),
            *linear("final_layer.linear", "final/linear", twist=negate),
            *((same("eol_token", "marks/nextline"),) if model.marks else ()),
        ),
    )


def _pair(theirs: tuple[str, str], ours: str) -> tuple[Rule, ...]:
    return linear(theirs, ours, bias=False)


def _diffusers(model: NextDiT) -> Layout:
    key, ours = "layers.{}", "blocks"
    one, two, mlp = f"{key}.attn1", f"{key}.attn2", f"{key}.feed_forward"
    norms = {
        f"{key}.norm1.norm": "attention/norm",
        f"{key}.norm2": "attention/norm_after",
        f"{key}.norm1_context": "attention/norm_of_text",
        f"{key}.ffn_norm1": "mlp/norm",
        f"{key}.ffn_norm2": "mlp/norm_after",
    }
    heads = {
        f"{one}.norm_q": "attention/q_norm",
        f"{one}.norm_k": "attention/k_norm",
        f"{two}.norm_k": "attention/text_norm",
    }
    embed = "time_caption_embed"
    return Layout(
        "diffusers' LuminaNextDiT2DModel",
        (
            *_patch("patch_embedder.proj", model),
            *linear(f"{embed}.timestep_embedder.linear_1", "time/in"),
            *linear(f"{embed}.timestep_embedder.linear_2", "time/out"),
            *norm(f"{embed}.caption_embedder.0", "text/norm"),
            *linear(f"{embed}.caption_embedder.1", "text/linear"),
            *linear(f"{one}.to_q", f"{ours}/attention/q", bias=False),
            *_pair((f"{one}.to_k", f"{one}.to_v"), f"{ours}/attention/kv"),
            *_pair((f"{two}.to_k", f"{two}.to_v"), f"{ours}/attention/text_kv"),
            *linear(f"{two}.to_out.0", f"{ours}/attention/out", bias=False),
            same(f"{key}.gate", f"{ours}/attention/gate"),
            *(_norms(heads, ours, True) if model.qk_norm else ()),
            *_norms(norms, ours, False),
            *_pair((f"{mlp}.linear_1", f"{mlp}.linear_3"), f"{ours}/mlp/in"),
            *linear(f"{mlp}.linear_2", f"{ours}/mlp/out", bias=False),
            *linear(f"{key}.norm1.linear", _fused(ours, 1)),
            *linear("norm_out.linear_1", "final/modulation"),
            *linear("norm_out.linear_2", "final/linear", twist=negate),
        ),
    )


def load_lumina(
    path: str | Path,
    *,
    heads: int = 32,
    patch: int = 2,
    grid: tuple[int, int] = (128, 128),
) -> tuple[FlagDiT, Params]:
    """A Flag-DiT or Next-DiT from weights in Lumina-T2X's published layout.

    path: a `consolidated.00-of-01.safetensors` or .pth file of the text-to-image models
        or of those of ImageNet (one part; the tensors of more parts are slices). Which
        model it is, is seen by its tensors.
    heads, patch, grid: cannot be seen in the weights; those of ImageNet have the grid
        (32, 32) or (64, 64).

    Velocity and clock of the published weights run from noise to data: the read-out is
    negated here and back in `save_lumina`, exactly. The [pad] token is dropped, and
    written as zeros: it is masked wherever it stands, and no prediction depends on it.

    Raises FileNotFoundError, ImportError for a torch file without torch, and ValueError
    naming what is missing, unknown or of the wrong shape.
    Source: Alpha-VLLM/Lumina-T2X 1c60696, models/model.py of lumina_t2i and of
    lumina_next_t2i; Flag-DiT-ImageNet and Next-DiT-ImageNet.
    """
    source = open_tensors(path)
    dim, values = source.shape("x_embedder.weight", 2)
    width, _ = source.shape("layers.0.attention.wk.weight", 2)
    _, hidden = source.shape("layers.0.feed_forward.w2.weight", 2)
    features, _ = source.shape("final_layer.linear.weight", 2)
    _, basis = source.shape("t_embedder.mlp.0.weight", 2)
    if dim % heads or values % patch**2:
        raise ValueError(
            f"heads is {heads} and patch is {patch}, but {source.name} has width {dim} "
            f"and reads {values} values a token"
        )
    kind: type[FlagDiT]
    conditioning: Text | Labels
    if LABELS in source.shapes:
        rows, _ = source.shape("layers.0.adaLN_modulation.1.weight", 2)
        kind = FlagDiTLabels if rows == 6 * dim else NextDiTLabels
        conditioning = Labels(source.shape(LABELS, 2)[0] - 1)
    else:
        kind = FlagDiT if "eol_token" in source.shapes else NextDiT
        conditioning = Text(source.shape("layers.0.attention.wk_y.weight", 2)[1])
    model = kind(
        grid=grid,
        channels=values // patch**2,
        out_channels=features // patch**2,
        patch=patch,
        dim=dim,
        depth=depth_of(source, r"layers\.(\d+)\."),
        heads=heads,
        groups=width * heads // dim,
        hidden=hidden,
        qk_norm="layers.0.attention.q_norm.weight" in source.shapes,
        conditioning=conditioning,  # type: ignore[arg-type]
        basis=Sinusoids(basis),
    )
    return model, unpack(_published(model), model, source.without([PAD]))


def save_lumina(
    path: str | Path, model: FlagDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write parameters in the published layout: the inverse of `load_lumina`."""
    _require(model, "the published layout")
    layout = _published(model)
    tensors = pack(layout, model, params)
    if not isinstance(model, Labelled):
        tensors[PAD] = np.zeros(model.dim, np.float32)
    write_tensors(path, tensors, dtype)


def next_dit_from_diffusers(folder: str | Path) -> tuple[NextDiT, Params]:
    """A Next-DiT from diffusers' folder of a LuminaNextDiT2DModel or its pipeline.

    diffusers stores the queries and their norm twice, for the image's and the text's
    attention; in all published weights they are one, and they must be equal here. See
    `load_lumina` for the sign and the [pad] token.

    Raises FileNotFoundError, and ValueError naming the config's field or the tensor
    that is unknown, missing or cannot be honoured.
    Source: diffusers 0.42, models/transformers/lumina_nextdit2d.py.
    """
    folder = CONFIG.find(folder)
    config = CONFIG.read(folder)
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    factor = config["ffn_dim_multiplier"]
    model = NextDiT(
        grid=(config["sample_size"],) * 2,
        channels=config["in_channels"],
        patch=config["patch_size"],
        dim=dim,
        depth=config["num_layers"],
        heads=heads,
        groups=config["num_kv_heads"] or heads,
        hidden=swiglu_multiple(dim, config["multiple_of"], factor),
        qk_norm=config["qk_norm"],
        eps=config["norm_eps"],
        conditioning=Text(config["cross_attention_dim"]),
    )
    if config["learn_sigma"]:
        model = replace(model, out_channels=2 * model.channels)
    source = open_weights(folder)
    twins = _twins(model)
    for second, first in twins.items():
        if {first, second} <= source.shapes.keys():
            if not np.array_equal(source.read(first), source.read(second)):
                raise ValueError(
                    f"{second!r} of {source.name} differs from {first!r}, but in "
                    "Lumina-Next the queries of image and text are the same"
                )
    rest = source.without([PAD, *twins])
    return model, unpack(_diffusers(model), model, rest)


def next_dit_to_diffusers(
    folder: str | Path, model: NextDiT, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder: the inverse of `next_dit_from_diffusers`.

    Raises ValueError naming the field for a model that diffusers cannot express.
    """
    if not isinstance(model, NextDiT) or isinstance(model, Labelled):
        raise ValueError(
            f"model is a {type(model).__name__}, but diffusers' class holds a NextDiT"
        )
    _require(model, "diffusers' LuminaNextDiT2DModel")
    layout = _diffusers(model)
    multiple = 256 if swiglu_multiple(model.dim) == model.hidden else model.hidden
    if swiglu_multiple(model.dim, multiple) != model.hidden:
        raise ValueError(
            f"model.hidden is {model.hidden}, but {layout.name} has at least "
            f"{int(8 * model.dim / 3)} at this width"
        )
    config = dict(
        _class_name=CONFIG.names[0],
        sample_size=model.grid[0],
        patch_size=model.tokens.size[0],
        in_channels=model.channels,
        hidden_size=model.dim,
        num_layers=model.depth,
        num_attention_heads=model.heads,
        num_kv_heads=model.groups,
        multiple_of=multiple,
        ffn_dim_multiplier=None,
        norm_eps=model.eps,
        learn_sigma=model.out_channels == 2 * model.channels,
        qk_norm=model.qk_norm,
        cross_attention_dim=model.conditioning.features,
        scaling_factor=1.0,
    )
    tensors = pack(layout, model, params)
    tensors |= {second: tensors[first] for second, first in _twins(model).items()}
    tensors[PAD] = np.zeros(model.dim, np.float32)
    write_folder(folder, config, tensors, dtype)


def _twins(model: NextDiT) -> dict[str, str]:
    """Keys that diffusers stores beside the same tensor, by layer."""
    names = ["to_q.weight"]
    names += ["norm_q.weight", "norm_q.bias"] if model.qk_norm else []
    return {
        f"layers.{i}.attn2.{name}": f"layers.{i}.attn1.{name}"
        for i in range(model.depth)
        for name in names
    }


def _require(model: FlagDiT, layout: str) -> None:
    size = model.tokens.size
    fits: dict[str, Any] = dict(
        clock=model.clock == CLOCK,
        basis=model.basis == Sinusoids(model.basis.count),
        grid=len(model.grid) == 2,
        patch=len(size) == 2 and size[0] == size[1],
        out_channels=model.out_channels in (None, model.channels, 2 * model.channels),
    )
    for name, fitting in fits.items():
        if not fitting:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, which {layout} cannot say"
            )
