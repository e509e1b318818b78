# SPDX-License-Identifier: Apache-2.0
"""Folders of Gemma, Llama and Qwen2, with a language head, eyes, or without."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from jdit.encoders.decoder import Decoder, Llama3Scaling, Rotary
from jdit.encoders.folders.family import Family, stripped
from jdit.encoders.folders.fields import Fields, name_of
from jdit.encoders.layers import Activation, OffsetRMSNorm, gelu_tanh
from jdit.interop.layout import Layout, linear, norm, same

_LAYER = "layers.{}"
SKIPPED = ("lm_head.", "visual.")
"""Prefixes of the tensors that a language model has beside its hidden layers."""

_DEFAULTS: dict[str, dict[str, Any]] = dict(
    gemma=dict(
        depth=28, dim=3072, heads=16, groups=16, hidden=24576, vocab=256000, width=256
    ),
    gemma2=dict(
        depth=26, dim=2304, heads=8, groups=4, hidden=9216, vocab=256000, width=256
    ),
    llama=dict(depth=32, dim=4096, heads=32, hidden=11008, vocab=32000),
    qwen2=dict(depth=32, dim=4096, heads=32, groups=32, hidden=22016, vocab=151936),
)
"""What transformers means by a field that is not there."""


def read(fields: Fields) -> Decoder:
    kind = fields.any("model_type")
    default, llama = _DEFAULTS[kind], kind == "llama"
    depth = fields.take("num_hidden_layers", default["depth"])
    dim = fields.take("hidden_size", default["dim"])
    heads = fields.take("num_attention_heads", default["heads"])
    if "num_key_value_heads" in fields.config or llama:
        given = fields.take("num_key_value_heads", None)  # null: as many as heads
    else:
        given = default["groups"]
    width = fields.any("head_dim", default.get("width")) or dim // heads
    sizes: dict[str, Any] = dict(
        vocab=fields.take("vocab_size", default["vocab"]),
        dim=dim,
        depth=depth,
        heads=heads,
        groups=given or heads,
        width=width,
        hidden=fields.take("intermediate_size", default["hidden"]),
        activation=_activation(fields, kind),
        rotary=_rotary(fields),
        eps=fields.take("rms_norm_eps", 1e-6),
        windows=_windows(fields, kind, depth),
    )
    biased = fields.take("attention_bias", False) if kind != "qwen2" else False
    sizes |= dict(qkv_bias=biased or kind == "qwen2", out_bias=biased)
    if llama:
        sizes |= dict(mlp_bias=fields.take("mlp_bias", False))
    if kind.startswith("gemma"):
        sizes |= dict(norm=OffsetRMSNorm, embed_scale=float(dim) ** 0.5)
        fields.fixed("use_bidirectional_attention", False, None)
    if kind == "gemma2":
        cap = fields.any("attn_logit_softcapping", 50.0)
        sizes |= dict(
            order="sandwich",
            scale=float(fields.take("query_pre_attn_scalar", 256.0)) ** -0.5,
            softcap=None if cap is None else float(cap),
        )
        # hidden_act is overruled by hidden_activation; the cap is the head's.
        fields.ignore("final_logit_softcapping", "hidden_act")
    fields.ignore("max_position_embeddings")  # rotations know no end
    fields.done()
    return Decoder(**sizes)


def _activation(fields: Fields, kind: str) -> Activation:
    if kind == "gemma2":
        return fields.activation("hidden_activation", "gelu_pytorch_tanh")
    if kind != "gemma":
        return fields.activation("hidden_act", "silu")
    # Its first folders say "gelu", which stands for the other one.
    fields.fixed("hidden_act", "gelu_pytorch_tanh", "gelu")
    fields.fixed("hidden_activation", "gelu_pytorch_tanh", None)
    return gelu_tanh


def _rotary(fields: Fields) -> Rotary:
    new = fields.any("rope_parameters") or {}
    scaling = dict(new or fields.any("rope_scaling") or {})
    fields.ignore("rope_scaling")
    where = "rope_parameters" if new else "rope_scaling"
    theta = fields.take("rope_theta", 10000.0)
    theta = float(scaling.pop("rope_theta", theta))
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    if scaling.pop("mrope_section", None) or kind == "mrope":
        kind = "default"  # a token of text has one position on all axes
    if kind == "default" and not scaling:
        return Rotary(theta)
    names = dict(
        factor="factor",
        low_freq_factor="low",
        high_freq_factor="high",
        original_max_position_embeddings="original",
    )
    if kind != "llama3" or set(scaling) != set(names):
        raise fields.refuse(where, "of type 'default' or a whole 'llama3'")
    return Rotary(theta, Llama3Scaling(**{names[k]: v for k, v in scaling.items()}))


def _windows(fields: Fields, kind: str, depth: int) -> tuple[int | None, ...]:
    layers = fields.any("layer_types")
    if kind in ("llama", "gemma"):
        fields.fixed("layer_types", None, ["full_attention"] * depth)
        return ()
    window = fields.any("sliding_window", 4096)
    if kind == "qwen2":
        fields.fixed("use_mrope", False)
        used = fields.take("use_sliding_window", False)
        first = fields.any("max_window_layers", 28)
        window = window if used else None
        sliding = [window is not None and i >= first for i in range(depth)]
    else:
        sliding = [i % 2 == 0 for i in range(depth)]
    if layers is not None:
        names = {"sliding_attention", "full_attention"}
        if not isinstance(layers, list) or len(layers) != depth or set(layers) - names:
            raise fields.refuse(
                "layer_types",
                f"{depth} times 'sliding_attention' or 'full_attention'",
            )
        sliding = [name == "sliding_attention" for name in layers]
    if any(sliding) and (not isinstance(window, int) or window < 1):
        raise fields.refuse("sliding_window", "a positive whole number")
    every = tuple(window if slides else None for slides in sliding)
    if not any(sliding):
        return ()
    return next(
        every[:n]
        for n in range(1, depth + 1)
        if all(w == every[i % n] for i, w in enumerate(every))
    )


def write(encoder: Decoder) -> dict[str, Any]:
    gemma, sandwich = encoder.norm is OffsetRMSNorm, encoder.order == "sandwich"
    kind = "gemma" if gemma else "qwen2" if _qwen(encoder) else "llama"
    kind = "gemma2" if gemma and sandwich else kind
    names = dict(
        gemma="GemmaModel", gemma2="Gemma2Model", llama="LlamaModel", qwen2="Qwen2Model"
    )
    act = "hidden_activation" if kind == "gemma2" else "hidden_act"
    scaling = encoder.rotary.scaling
    config: dict[str, Any] = dict(
        model_type=kind,
        architectures=[names[kind]],
        vocab_size=encoder.vocab,
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        num_key_value_heads=encoder.groups,
        head_dim=encoder.width,
        intermediate_size=encoder.hidden,
        rms_norm_eps=encoder.eps,
        rope_theta=encoder.rotary.theta,
        rope_scaling=None,
        max_position_embeddings=32768,
        tie_word_embeddings=gemma,
        **{act: name_of(encoder.activation, "gelu_pytorch_tanh")},
    )
    if scaling is not None:
        values = asdict(scaling)
        config["rope_scaling"] = dict(
            rope_type="llama3",
            factor=values["factor"],
            low_freq_factor=values["low"],
            high_freq_factor=values["high"],
            original_max_position_embeddings=values["original"],
        )
    cycle = encoder.windows or (None,)
    windows = [cycle[i % len(cycle)] for i in range(encoder.depth)]
    if kind in ("gemma2", "qwen2"):
        types = [
            "full_attention" if w is None else "sliding_attention" for w in windows
        ]
        known = {w for w in windows if w is not None}
        config |= dict(layer_types=types, sliding_window=min(known, default=None))
    if kind == "qwen2":
        config |= dict(use_sliding_window=any(windows))
        if encoder.width * encoder.heads == encoder.dim:
            del config["head_dim"]
    else:
        config |= dict(attention_bias=encoder.qkv_bias)
    if kind == "llama":
        config |= dict(mlp_bias=encoder.mlp_bias)
    if kind == "gemma2":
        scalar = (encoder.scale or encoder.width**-0.5) ** -2
        whole = round(scalar)
        config |= dict(
            query_pre_attn_scalar=whole if whole**-0.5 == encoder.scale else scalar,
            attn_logit_softcapping=encoder.softcap,
        )
    return config


def _qwen(encoder: Decoder) -> bool:
    return encoder.qkv_bias and not encoder.out_bias


def layout(encoder: Decoder) -> Layout:
    sandwich = encoder.order == "sandwich"
    norms = {"input_layernorm": "attention_norm"}
    if sandwich:
        norms |= {
            "post_attention_layernorm": "attention_out_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_out_norm",
        }
    else:
        norms |= {"post_attention_layernorm": "mlp_norm"}
    linears = {
        **{f"self_attn.{x}_proj": (f"attention/{x}", encoder.qkv_bias) for x in "qkv"},
        "self_attn.o_proj": ("attention/out", encoder.out_bias),
        "mlp.gate_proj": ("mlp/gate", encoder.mlp_bias),
        "mlp.up_proj": ("mlp/up", encoder.mlp_bias),
        "mlp.down_proj": ("mlp/out", encoder.mlp_bias),
    }
    return Layout(
        "transformers' layout of decoder-only language models",
        (
            same("embed_tokens.weight", "token/table"),
            *(
                rule
                for theirs, (ours, bias) in linears.items()
                for rule in linear(f"{_LAYER}.{theirs}", f"layers/{ours}", bias=bias)
            ),
            *(
                rule
                for theirs, ours in norms.items()
                for rule in norm(f"{_LAYER}.{theirs}", f"layers/{ours}", bias=False)
            ),
            *norm("norm", "norm", bias=False),
        ),
    )


def rename(key: str, keys: Collection[str]) -> str | None:
    if key.endswith(".rotary_emb.inv_freq"):  # made from the config
        return None
    name = key.removeprefix("model.")
    return stripped(name, "language_model.", SKIPPED)


DECODER = Family(Decoder, read, write, layout, rename)
