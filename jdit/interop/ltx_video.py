# SPDX-License-Identifier: Apache-2.0
"""LTX-Video's weights: diffusers' folders and Lightricks' own files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jdit.conditioning import Text
from jdit.interop.config import NATURAL, Config, open_weights, write_folder
from jdit.interop.files import DType, Source, open_tensors, write_tensors
from jdit.interop.joint import layers_of, norms, require, without_prefix
from jdit.interop.layout import Layout, Rule, linear, pack, unpack
from jdit.models.ltx_video import LTXVideo
from jdit.typing import Params

CONFIG = Config(
    names=("LTXVideoTransformer3DModel",),
    fields=dict(
        in_channels=(128, NATURAL),
        out_channels=(128, "a positive whole number or null"),
        num_attention_heads=(32, NATURAL),
        attention_head_dim=(64, NATURAL),
        cross_attention_dim=(2048, NATURAL),
        num_layers=(28, NATURAL),
        caption_channels=(4096, NATURAL),
    ),
    fixed=dict(
        activation_fn="gelu-approximate",
        attention_bias=True,
        attention_out_bias=True,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        patch_size=1,
        patch_size_t=1,
        qk_norm="rms_norm_across_heads",
    ),
)


def _table(theirs: str, *ours: tuple[str, int]) -> Rule:
    """The rule of a table `t d` that is several of ours, flat."""
    parts = tuple((f"{name}/table", share) for name, share in ours)
    count = sum(share for _, share in ours)
    return Rule((theirs,), parts, "t d -> (t d)", sizes=(("t", count),))


def _layout() -> Layout:
    block, ours, embed = "transformer_blocks.{}", "blocks", "time_embed.emb"
    one, two = f"{block}.attn1", f"{block}.attn2"
    six = tuple(
        (f"{ours}/{branch}/{part}", share)
        for branch in ("attention", "mlp")
        for part, share in (("modulation", 2), ("gate", 1))
    )
    rules = [
        *linear("proj_in", "patch"),
        *linear(f"{embed}.timestep_embedder.linear_1", "time/in"),
        *linear(f"{embed}.timestep_embedder.linear_2", "time/out"),
        *linear("time_embed.linear", "modulation"),
        *linear("caption_projection.linear_1", "text/in"),
        *linear("caption_projection.linear_2", "text/out"),
        _table(f"{block}.scale_shift_table", *six),
        *linear(tuple(f"{one}.to_{x}" for x in "qkv"), f"{ours}/attention/qkv"),
        *linear(f"{two}.to_q", f"{ours}/cross/q"),
        *linear(tuple(f"{two}.to_{x}" for x in "kv"), f"{ours}/cross/kv"),
        *linear(f"{block}.ff.net.0.proj", f"{ours}/mlp/in"),
        *linear(f"{block}.ff.net.2", f"{ours}/mlp/out"),
        _table("scale_shift_table", ("final/modulation", 2)),
        *linear("proj_out", "final/linear"),
    ]
    for theirs, branch in ((one, "attention"), (two, "cross")):
        rules += linear(f"{theirs}.to_out.0", f"{ours}/{branch}/out")
        scales = f"{theirs}.norm_q.weight", f"{theirs}.norm_k.weight"
        rules += norms(scales, f"{ours}/{branch}")
    return Layout("diffusers' LTXVideoTransformer3DModel", tuple(rules))


_RENAMED = (
    ("proj_in", "patchify_proj"),
    ("time_embed", "adaln_single"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
)


def _original(key: str) -> str:
    for theirs, published in _RENAMED:
        key = key.replace(theirs, published)
    return key


DIFFUSERS = _layout()
ORIGINAL = Layout(
    "the published layout of LTX-Video",
    tuple(
        replace(rule, theirs=tuple(map(_original, rule.theirs)))
        for rule in DIFFUSERS.rules
    ),
)


def load_ltx_video(path: str | Path, **config: Any) -> tuple[LTXVideo, Params]:
    """LTX-Video and its parameters, from a folder of diffusers or a single file.

    path: a folder with LTXVideoTransformer3DModel's config.json or a pipeline's; or a
        file in the layout of the authors' code (`patchify_proj.weight`), with or
        without the prefix "model.diffusion_model.", whose neighbours are left alone.
    config: fields of the model that the weights do not tell: grid, positions
        (`Fractional(causal=True)` since 0.9.5), and, of a file, heads (32 if not
        given).

    Raises FileNotFoundError, and ValueError naming the field or tensor that is
    unknown, missing or cannot be honoured.
    Source: diffusers 0.42, transformer_ltx.py; Lightricks/LTX-Video, transformer3d.py.
    """
    path = Path(path)
    if path.is_file():
        source = without_prefix(open_tensors(path))
        model = LTXVideo(**_infer(source) | config)
        return model, unpack(ORIGINAL, model, source)
    folder = CONFIG.find(path)
    model = LTXVideo(**_fields(folder) | config)
    return model, unpack(DIFFUSERS, model, open_weights(folder))


def save_ltx_video(
    path: str | Path, model: LTXVideo, params: Params, *, dtype: DType = "float32"
) -> None:
    """Write diffusers' folder, or the authors' layout where `path` ends in
    .safetensors.

    The inverse of `load_ltx_video`; neither layout stores the grid or the positions.
    Raises ValueError naming a field that the layout cannot express.
    """
    require(model, LTXVideo, mlp_ratio=4.0, clock=LTXVideo().clock)
    path = Path(path)
    if path.suffix == ".safetensors":
        write_tensors(path, pack(ORIGINAL, model, params), dtype)
        return
    config = dict(
        _class_name=CONFIG.names[0],
        in_channels=model.channels,
        out_channels=model.channels,
        num_attention_heads=model.heads,
        attention_head_dim=model.dim // model.heads,
        cross_attention_dim=model.dim,
        num_layers=model.depth,
        caption_channels=model.conditioning.features,
        **CONFIG.fixed,
    )
    write_folder(path, config, pack(DIFFUSERS, model, params), dtype)


def _fields(folder: Path) -> dict[str, Any]:
    fields, where = CONFIG.read(folder), folder / "config.json"
    heads = fields["num_attention_heads"]
    channels, dim = fields["in_channels"], heads * fields["attention_head_dim"]
    equal = dict(out_channels=(None, channels), cross_attention_dim=(dim,))
    for name, accepted in equal.items():
        if fields[name] not in accepted:
            raise ValueError(
                f"{where} has {name} {fields[name]}, but only {accepted[-1]} is "
                "supported"
            )
    return dict(
        channels=channels,
        dim=dim,
        depth=fields["num_layers"],
        heads=heads,
        conditioning=Text(fields["caption_channels"]),
    )


def _infer(source: Source) -> dict[str, Any]:
    """The model whose weights these are, by their shapes."""
    if "patchify_proj.weight" not in source.shapes:
        raise ValueError(
            f"{source.name} lacks 'patchify_proj.weight', so it is not in the "
            "published layout of LTX-Video"
        )
    dim, channels = source.shape("patchify_proj.weight", 2)
    return dict(
        channels=channels,
        dim=dim,
        depth=max(layers_of(source, r"transformer_blocks\.(\d+)\."), default=-1) + 1,
        conditioning=Text(source.shape("caption_projection.linear_1.weight", 2)[1]),
    )
