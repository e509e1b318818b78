# SPDX-License-Identifier: Apache-2.0
"""What the layouts of two-stream models share: SD3, Flux, Qwen-Image."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdit.interop.files import Source
from jdit.interop.layout import Rule, linear, same

PREFIX = "model.diffusion_model."
"""What single files with several models put before the transformer's names."""

LATENT = (("p", 2), ("q", 2))
"""The 2 x 2 latents that Flux and Qwen-Image pack into one token, channels first."""


def swap(values: np.ndarray, model: Any) -> np.ndarray:
    """Shift and scale in the other order."""
    return np.roll(values, values.shape[-1] // 2, -1)


def modulations(branch: str) -> dict[str, int]:
    """A fused matrix: shift, scale and gate of a branch of ours."""
    return {f"{branch}/modulation": 2, f"{branch}/gate": 1}


def norms(theirs: tuple[str, str], ours: str) -> tuple[Rule, ...]:
    """The scales of normalised queries and keys."""
    return same(theirs[0], f"{ours}/q_norm/scale"), same(
        theirs[1], f"{ours}/k_norm/scale"
    )


def stream(
    stage: str,
    name: str,
    *,
    modulation: str,
    qkv: str | tuple[str, ...],
    qk_norm: tuple[str, str] | None,
    out: str,
    mlp: tuple[str, str],
    more: Mapping[str, int] | None = None,
) -> tuple[Rule, ...]:
    """The rules of one stream of a `Joint` block.

    stage, name: of our parameters. The others: their names; `more` are parameters of
    ours that the modulation's matrix holds beside the stream's six.
    """
    attention, ours = f"{stage}/attention/{name}", f"{stage}/mlp/{name}"
    fused = modulations(attention) | modulations(ours) | dict(more or {})
    return (
        *linear(modulation, fused),
        *linear(qkv, f"{attention}/qkv"),
        *(norms(qk_norm, attention) if qk_norm else ()),
        *linear(out, f"{attention}/out"),
        *linear(mlp[0], f"{ours}/in"),
        *linear(mlp[1], f"{ours}/out"),
    )


def diffusers_names(
    block: str, name: str, modulation: str, mlp: str, *, qk_norm: bool = True
) -> dict[str, Any]:
    """What `stream` is told of a diffusers block whose attention has added keys."""
    attn = f"{block}.attn"
    first = [f"{attn}.to_{x}" for x in "qkv"], f"{attn}.norm_", f"{attn}.to_out.0"
    added = [f"{attn}.add_{x}_proj" for x in "qkv"], f"{attn}.norm_added_"
    qkv, norm, out = first if name == "image" else (*added, f"{attn}.to_add_out")
    return dict(
        modulation=f"{block}.{modulation}",
        qkv=tuple(qkv),
        qk_norm=(f"{norm}q.weight", f"{norm}k.weight") if qk_norm else None,
        out=out,
        mlp=(f"{block}.{mlp}.net.0.proj", f"{block}.{mlp}.net.2"),
    )


def packed(weight: str, ours: str, *, read_out: bool = False) -> tuple[Rule, ...]:
    """The rules of a linear layer from or to packed latents (see `LATENT`)."""
    if not read_out:
        kernel = Rule(
            (f"{weight}.weight",),
            ((f"{ours}/kernel", 1),),
            "d (c p q) -> (p q c) d",
            sizes=LATENT,
        )
        return kernel, same(f"{weight}.bias", f"{ours}/bias")
    return (
        Rule(
            (f"{weight}.weight",),
            ((f"{ours}/kernel", 1),),
            "(c p q) d -> d (p q c)",
            sizes=LATENT,
        ),
        Rule(
            (f"{weight}.bias",),
            ((f"{ours}/bias", 1),),
            "(c p q) -> (p q c)",
            sizes=LATENT,
        ),
    )


def require(model: Any, kind: type, **fields: Any) -> None:
    """Raise ValueError unless a model is of a class and has these fields."""
    if not isinstance(model, kind):
        raise ValueError(
            f"model is a {type(model).__name__}, but this layout holds a "
            f"{kind.__name__}"
        )
    for name, value in fields.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}, but this layout means "
                f"{value!r}"
            )


def without_prefix(source: Source) -> Source:
    """A single file's transformer, if it has neighbours; else the file as it is."""
    return source.under(PREFIX)


def layers_of(source: Source, pattern: str) -> list[int]:
    """The numbers that a pattern's first group finds among the keys."""
    found = (re.match(pattern, key) for key in source.shapes)
    return sorted({int(match[1]) for match in found if match})
