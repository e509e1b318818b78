# SPDX-License-Identifier: Apache-2.0
"""Wan's text-to-video weights: diffusers' folders and the authors' files."""

from pathlib import Path
from typing import Any

from jdit.conditioning import Sinusoids, Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import (
    DType,
    Source,
    open_tensors,
    read_json,
    write_tensors,
)
from jdit.interop.joint import layers_of, require, without_prefix
from jdit.interop.layout import Layout, Rule, linear, norm, pack, same, unpack
from jdit.models.wan import EXPERTS, Wan, WanExperts
from jdit.typing import Params

CONFIG = Config(
    names=("WanTransformer3DModel",),
    fields=dict(
        patch_size=((1, 2, 2), "a list of positive whole numbers"),
        num_attention_heads=(40, NATURAL),
        attention_head_dim=(128, NATURAL),
        in_channels=(16, NATURAL),
        out_channels=(16, "a positive whole number or null"),
        text_dim=(4096, NATURAL),
        freq_dim=(256, NATURAL),
        ffn_dim=(13824, NATURAL),
        num_layers=(40, NATURAL),
    ),
    fixed=dict(
        added_kv_proj_dim=None,
        cross_attn_norm=True,
        eps=1e-6,
        image_dim=None,
        pos_embed_seq_len=None,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    ),
)

_PARTS = (("modulation", 2), ("gate", 1))

_DIFFUSERS = dict(
    self="attn1",
    cross="attn2",
    q="to_q",
    k="to_k",
    v="to_v",
    out="to_out.0",
    norm="norm2",
    mlp_in="ffn.net.0.proj",
    mlp_out="ffn.net.2",
    table="scale_shift_table",
    time="condition_embedder.time_embedder.linear_1",
    time_out="condition_embedder.time_embedder.linear_2",
    modulation="condition_embedder.time_proj",
    text="condition_embedder.text_embedder.linear_1",
    text_out="condition_embedder.text_embedder.linear_2",
    final_table="scale_shift_table",
    final="proj_out",
)

_ORIGINAL = dict(
    self="self_attn",
    cross="cross_attn",
    q="q",
    k="k",
    v="v",
    out="o",
    norm="norm3",
    mlp_in="ffn.0",
    mlp_out="ffn.2",
    table="modulation",
    time="time_embedding.0",
    time_out="time_embedding.2",
    modulation="time_projection.1",
    text="text_embedding.0",
    text_out="text_embedding.2",
    final_table="head.modulation",
    final="head.head",
)


def _table(theirs: str, count: int, ours: tuple[tuple[str, int], ...]) -> Rule:
    """The rule of a table `1 count d` that is several of ours, flat."""
    return Rule((theirs,), ours, "1 t d -> (t d)", sizes=(("t", count),))


def _layout(name: str, n: dict[str, str]) -> Layout:
    block, ours = "blocks.{}", "blocks"
    one, two = f"{block}.{n['self']}", f"{block}.{n['cross']}"
    six = tuple(
        (f"{ours}/{branch}/{part}/table", share)
        for branch in ("attention", "mlp")
        for part, share in _PARTS
    )
    rules = [
        *linear("patch_embedding", "patch", "d c r p q -> (r p q c) d"),
        *linear(n["time"], "time/in"),
        *linear(n["time_out"], "time/out"),
        *linear(n["modulation"], "modulation"),
        *linear(n["text"], "text/in"),
        *linear(n["text_out"], "text/out"),
        _table(f"{block}.{n['table']}", 6, six),
        *linear(tuple(f"{one}.{n[x]}" for x in "qkv"), f"{ours}/attention/qkv"),
        *linear(f"{two}.{n['q']}", f"{ours}/cross/q"),
        *linear(tuple(f"{two}.{n[x]}" for x in "kv"), f"{ours}/cross/kv"),
        *norm(f"{block}.{n['norm']}", f"{ours}/cross/norm"),
        *linear(f"{block}.{n['mlp_in']}", f"{ours}/mlp/in"),
        *linear(f"{block}.{n['mlp_out']}", f"{ours}/mlp/out"),
        _table(n["final_table"], 2, (("final/modulation/table", 1),)),
        *linear(n["final"], "final/linear"),
    ]
    for theirs, branch in ((one, "attention"), (two, "cross")):
        rules += linear(f"{theirs}.{n['out']}", f"{ours}/{branch}/out")
        for x in "qk":
            scale = f"{ours}/{branch}/{x}_norm/scale"
            rules.append(same(f"{theirs}.norm_{x}.weight", scale))
    return Layout(name, tuple(rules))


DIFFUSERS = _layout("diffusers' WanTransformer3DModel", _DIFFUSERS)
ORIGINAL = _layout("the published layout of Wan", _ORIGINAL)


def load_wan(path: str | Path, **config: Any) -> tuple[Wan, Params]:
    """A text-to-video Wan and its parameters, from a folder of diffusers or a file.

    path: a folder with WanTransformer3DModel's config.json or a pipeline's (of two
        transformers: see `load_wan_experts`); or a file, or the index of several, in
        the layout of the authors' code (`blocks.0.self_attn.q.weight`).
    config: fields of the model that the weights do not tell: grid, text_tokens, and,
        of a file, heads (width / 128 if not given).

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured: those of image-to-video are not read.
    Source: diffusers 0.42, transformer_wan.py; Wan-Video/Wan2.1, wan/modules/model.py.
    """
    path = Path(path)
    if path.is_file():
        source = without_prefix(open_tensors(path))
        model = Wan(**_infer(source) | config)
        return model, unpack(ORIGINAL, model, source)
    if (path / "transformer_2").is_dir():
        return load_wan_experts(path, **config)
    folder = CONFIG.find(path)
    model = Wan(**_fields(folder) | config)
    return model, unpack(DIFFUSERS, model, open_weights(folder))


def save_wan(
    path: str | Path, model: Wan, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder, or the authors' layout where `path` ends in
    .safetensors.

    The inverse of `load_wan`; neither layout stores the grid or the number of text
    tokens. Raises ValueError naming a field that the layout cannot express.
    """
    require(model, Wan, clock=Wan().clock, basis=Sinusoids(model.basis.count))
    path = Path(path)
    if path.suffix == ".safetensors":
        write_tensors(path, pack(ORIGINAL, model, params), dtype)
        return
    config = dict(
        _class_name=CONFIG.names[0],
        patch_size=list(model.patch),
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        in_channels=model.channels,
        out_channels=model.channels,
        text_dim=model.conditioning.features,
        freq_dim=model.basis.count,
        ffn_dim=model.hidden,
        num_layers=model.depth,
        **CONFIG.fixed,
    )
    write_folder(path, config, pack(DIFFUSERS, model, params), dtype)


def load_wan_experts(
    folder: str | Path, boundary: float | None = None, **config: Any
) -> tuple[WanExperts, Params]:
    """Both networks of Wan 2.2 and their parameters, from a pipeline's folder.

    folder: of diffusers' WanPipeline, with `transformer` and `transformer_2`.
    boundary: None reads "boundary_ratio" of its model_index.json.
    config: see `load_wan`.

    Raises FileNotFoundError, and ValueError, also for networks of two sizes.
    """
    folder = Path(folder)
    if boundary is None:
        boundary = read_json(folder / "model_index.json").get("boundary_ratio")
    if not isinstance(boundary, float):
        raise ValueError(
            f"{folder} has boundary_ratio {boundary!r}, but it must be a number "
            "between 0 and 1"
        )
    (high, first), (low, second) = (
        load_wan(folder / name, **config) for name in ("transformer", "transformer_2")
    )
    if high != low:
        raise ValueError(
            f"{folder} has a transformer and a transformer_2 of two sizes, {high} and "
            f"{low}, but they must be alike"
        )
    both = dict(zip(EXPERTS, (first, second), strict=True))
    return WanExperts(**vars(high), boundary=boundary), both


def save_wan_experts(
    folder: str | Path, model: WanExperts, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write `transformer` and `transformer_2`, as `load_wan_experts` reads them.

    The boundary is not written, as it is a pipeline's. Raises ValueError as `save_wan`.
    """
    require(model, WanExperts)
    fields = {k: v for k, v in vars(model).items() if k != "boundary"}
    for name, part in zip(("transformer", "transformer_2"), EXPERTS, strict=True):
        save_wan(Path(folder) / name, Wan(**fields), params[part], dtype=dtype)


def _fields(folder: Path) -> dict[str, Any]:
    fields, where = CONFIG.read(folder), folder / "config.json"
    channels, out = fields["in_channels"], fields["out_channels"]
    if out not in (None, channels):
        raise ValueError(
            f"{where} has in_channels {channels} and out_channels {out}, but only "
            "text-to-video is supported, where they are equal"
        )
    if len(fields["patch_size"]) != 3:
        raise ValueError(
            f"{where} has patch_size {fields['patch_size']}, but it must be of 3 axes"
        )
    heads = fields["num_attention_heads"]
    return dict(
        channels=channels,
        patch=tuple(fields["patch_size"]),
        dim=heads * fields["attention_head_dim"],
        depth=fields["num_layers"],
        heads=heads,
        hidden=fields["ffn_dim"],
        basis=Sinusoids(fields["freq_dim"]),
        conditioning=Text(fields["text_dim"]),
    )


def _infer(source: Source) -> dict[str, Any]:
    """The model whose weights these are, by their shapes."""
    if "blocks.0.self_attn.q.weight" not in source.shapes:
        raise ValueError(
            f"{source.name} lacks 'blocks.0.self_attn.q.weight', so it is not in the "
            "published layout of Wan"
        )
    dim, channels, *patch = source.shape("patch_embedding.weight", 5)
    return dict(
        channels=channels,
        patch=tuple(patch),
        dim=dim,
        depth=max(layers_of(source, r"blocks\.(\d+)\.")) + 1,
        heads=max(1, dim // 128),
        hidden=source.shape("blocks.0.ffn.0.weight", 2)[0],
        basis=Sinusoids(source.shape("time_embedding.0.weight", 2)[1]),
        conditioning=Text(source.shape("text_embedding.0.weight", 2)[1]),
    )
