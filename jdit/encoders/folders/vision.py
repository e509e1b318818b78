# SPDX-License-Identifier: Apache-2.0
"""Folders of CLIP's and SigLIP's image towers and of DINOv2."""

from collections.abc import Collection
from typing import Any

from jdit.encoders.folders.clip import towers
from jdit.encoders.folders.family import Family, prefixed, stripped
from jdit.encoders.folders.fields import Fields, name_of
from jdit.encoders.layers import silu
from jdit.encoders.vision import IMAGENET_MEAN, IMAGENET_STD, VisionTransformer
from jdit.encoders.vision_models import CLIP_MEAN, CLIP_STD
from jdit.interop.layout import Layout, Rule, linear, norm, same

SKIPPED = (
    "text_model.",
    "text_projection.",
    "logit_scale",
    "logit_bias",
    "vision_model.embeddings.position_ids",
    "embeddings.position_ids",
)
"""Prefixes of a whole CLIP's or SigLIP's other tensors, and of a table that counts."""

HEADS = ("classifier.",)
"""Prefixes of what DINOv2 has on top for other tasks."""

_TOP = "vision_model."
_PATCH = "d c p q -> (p q c) d"


def read(fields: Fields) -> VisionTransformer:
    kind = str(fields.any("model_type"))
    if kind.startswith("dinov2"):
        return _read_dino(fields, kind)
    clip = kind.startswith("clip")
    kinds = fields.any("architectures") or []
    width = fields.take("projection_dim", 512) if clip else None
    attended = not clip and fields.take("vision_use_head", True)
    encoder = VisionTransformer(
        **_sizes(fields, 32 if clip else 16),
        hidden=fields.take("intermediate_size", 3072),
        activation=fields.activation(
            "hidden_act", "quick_gelu" if clip else "gelu_pytorch_tanh"
        ),
        mean=CLIP_MEAN if clip else (0.5, 0.5, 0.5),
        std=CLIP_STD if clip else (0.5, 0.5, 0.5),
        class_token=clip,
        patch_bias=not clip,
        entry_norm=clip,
        readout="class" if clip else "attention" if attended else "none",
        projection=width if "CLIPVisionModelWithProjection" in kinds else None,
        eps=fields.take("layer_norm_eps", 1e-5 if clip else 1e-6),
    )
    fields.done()
    return encoder


def _sizes(fields: Fields, patch: int) -> dict[str, Any]:
    return dict(
        size=fields.take("image_size", 224),
        patch=fields.take("patch_size", patch),
        channels=fields.take("num_channels", 3),
        dim=fields.take("hidden_size", 768),
        depth=fields.take("num_hidden_layers", 12),
        heads=fields.take("num_attention_heads", 12),
    )


def _read_dino(fields: Fields, kind: str) -> VisionTransformer:
    registers = kind == "dinov2_with_registers"
    sizes = _sizes(fields, 16 if registers else 14)
    hidden = int(sizes["dim"] * fields.take("mlp_ratio", 4.0))
    gated = fields.take("use_swiglu_ffn", False)
    fields.fixed("head_dim", sizes["dim"] // sizes["heads"])
    encoder = VisionTransformer(
        **sizes,
        hidden=_two_thirds(hidden) if gated else hidden,
        activation=_gate(fields) if gated else fields.activation("hidden_act", "gelu"),
        gated=gated,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        registers=fields.take("num_register_tokens", 4) if registers else 0,
        mask_token=registers or fields.take("use_mask_token", True),
        qkv_bias=fields.take("qkv_bias", True),
        layer_scale=True,
        antialias=registers,
        eps=fields.take("layer_norm_eps", 1e-6),
    )
    # Of training, and of the class that returns maps of features.
    fields.ignore(
        "layerscale_value", "drop_path_rate", "apply_layernorm",
        "reshape_hidden_states", "out_features", "out_indices", "stage_names",
        "_out_features", "_out_indices", "num_labels",
    )  # fmt: skip
    fields.done()
    return encoder


def _gate(fields: Fields) -> Any:
    fields.ignore("hidden_act")  # the gate is always SiLU
    return silu


def _two_thirds(hidden: int) -> int:
    """The width of a gated MLP with as many parameters, in multiples of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def write(encoder: VisionTransformer) -> dict[str, Any]:
    config: dict[str, Any] = dict(
        image_size=encoder.size,
        patch_size=encoder.patch,
        num_channels=encoder.channels,
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        layer_norm_eps=encoder.eps,
    )
    if encoder.readout == "class of all":
        kind = "Dinov2WithRegistersModel" if encoder.registers else "Dinov2Model"
        own = (
            dict(num_register_tokens=encoder.registers)
            if encoder.registers
            else dict(use_mask_token=encoder.mask_token)
        )
        return config | dict(
            model_type="dinov2_with_registers" if encoder.registers else "dinov2",
            architectures=[kind],
            hidden_act="gelu" if encoder.gated else name_of(encoder.activation),
            mlp_ratio=_ratio(encoder),
            use_swiglu_ffn=encoder.gated,
            qkv_bias=encoder.qkv_bias,
            **own,
        )
    config |= dict(
        intermediate_size=encoder.hidden,
        hidden_act=name_of(encoder.activation, "gelu_pytorch_tanh"),
    )
    if encoder.readout != "class":
        return config | dict(
            model_type="siglip_vision_model",
            architectures=["SiglipVisionModel"],
            vision_use_head=encoder.readout == "attention",
        )
    end = "" if encoder.projection is None else "WithProjection"
    return config | dict(
        model_type="clip_vision_model",
        architectures=[f"CLIPVisionModel{end}"],
        projection_dim=encoder.projection or encoder.dim,
    )


def _ratio(encoder: VisionTransformer) -> int:
    """The MLP's width as a multiple of the stream's."""
    for ratio in (4, *range(1, 33)):
        hidden = int(encoder.dim * ratio)
        if encoder.hidden == (_two_thirds(hidden) if encoder.gated else hidden):
            return ratio
    raise ValueError(
        f"hidden is {encoder.hidden}, but DINOv2's layout holds multiples of "
        f"dim {encoder.dim}, two thirds of them where gated"
    )


def layout(encoder: VisionTransformer) -> Layout:
    return _dino(encoder) if encoder.readout == "class of all" else _towers(encoder)


def _towers(encoder: VisionTransformer) -> Layout:
    patch = f"{_TOP}embeddings.patch_embedding"
    rules = [
        *linear(patch, "patch", _PATCH, bias=encoder.patch_bias),
        same(f"{_TOP}embeddings.position_embedding.weight", "position/table"),
        *towers(_TOP),
        *norm(f"{_TOP}post_layernorm", "norm"),
    ]
    if encoder.class_token:
        rules.append(same(f"{_TOP}embeddings.class_embedding", "class"))
    if encoder.entry_norm:
        rules += norm(f"{_TOP}pre_layrnorm", "entry_norm")
    if encoder.projection:
        rules += linear("visual_projection", "projection", bias=False)
    if encoder.readout == "attention":
        head, qkv = f"{_TOP}head", [f"head/attention/{x}" for x in "qkv"]
        rules += [
            Rule(
                (f"{head}.attention.in_proj_weight",),
                tuple((f"{x}/kernel", 1) for x in qkv),
                "e d -> d e",
            ),
            Rule(
                (f"{head}.attention.in_proj_bias",),
                tuple((f"{x}/bias", 1) for x in qkv),
                "e -> e",
            ),
            same(f"{head}.probe", "head/probe", "1 1 d -> d"),
            *linear(f"{head}.attention.out_proj", "head/attention/out"),
            *norm(f"{head}.layernorm", "head/norm"),
            *linear(f"{head}.mlp.fc1", "head/mlp/in"),
            *linear(f"{head}.mlp.fc2", "head/mlp/out"),
        ]
    name = "CLIPVisionModel" if encoder.class_token else "SiglipVisionModel"
    return Layout(f"transformers' {name}", tuple(rules))


def _dino(encoder: VisionTransformer) -> Layout:
    layer, bias = "encoder.layer.{}", encoder.qkv_bias
    rules = [
        same("embeddings.cls_token", "class", "1 1 d -> d"),
        same("embeddings.position_embeddings", "position/table", "1 n d -> n d"),
        *linear("embeddings.patch_embeddings.projection", "patch", _PATCH),
        *norm(f"{layer}.norm1", "layers/attention_norm"),
        *norm(f"{layer}.norm2", "layers/mlp_norm"),
        *linear(f"{layer}.attention.output.dense", "layers/attention/out"),
        same(f"{layer}.layer_scale1.lambda1", "layers/attention_scale"),
        same(f"{layer}.layer_scale2.lambda1", "layers/mlp_scale"),
        *norm("layernorm", "norm"),
    ]
    for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v")):
        name = f"{layer}.attention.attention.{theirs}"
        rules += linear(name, f"layers/attention/{ours}", bias=bias)
    if encoder.gated:
        both = {"layers/mlp/gate": 1, "layers/mlp/up": 1}
        rules += linear(f"{layer}.mlp.weights_in", both)
        rules += linear(f"{layer}.mlp.weights_out", "layers/mlp/out")
    else:
        rules += linear(f"{layer}.mlp.fc1", "layers/mlp/in")
        rules += linear(f"{layer}.mlp.fc2", "layers/mlp/out")
    if encoder.mask_token:
        rules.append(same("embeddings.mask_token", "mask", "1 d -> d"))
    if encoder.registers:
        tokens = same("embeddings.register_tokens", "registers", "1 n d -> n d")
        rules.append(tokens)
    return Layout("transformers' Dinov2Model", tuple(rules))


def rename(key: str, keys: Collection[str]) -> str | None:
    bare = ("embeddings.", "encoder.", "post_layernorm.", "pre_layrnorm.", "head.")
    return prefixed(key, _TOP, SKIPPED, bare)


def rename_dino(key: str, keys: Collection[str]) -> str | None:
    name = key.removeprefix("dinov2_with_registers.")
    return stripped(name, "dinov2.", HEADS)


VISION = Family(VisionTransformer, read, write, layout, rename)
DINO = Family(VisionTransformer, read, write, layout, rename_dino)
