# SPDX-License-Identifier: Apache-2.0
"""Wan's block: a table of each layer on shared vectors, and norms across the heads."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from jdit.attention import Rotary, attend, split_heads
from jdit.blocks.pixart import AdaLNSingle
from jdit.linear import Linear, Linears, Mlp, call
from jdit.norms import LayerNorm, RMSNorm, layer_norm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Bool, Float, Key, Params


class WidelyNormed(nn.Module):
    """Attention whose queries and keys are RMS-normalised over all heads at once.

    Parameters `q` (`d d`) and `kv` (`e 2d`) where tokens attend to text, else `qkv`
    (`d 3d`); `q_norm` and `k_norm` (`d` each), `out` (`d d`).

    heads: number of heads; the width must be a multiple. eps: of both norms.
    mask: which tokens that are attended to are real. rotary: as for `turn`.
    """

    heads: int
    eps: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        text: Float[Array, "b m e"] | None = None,
        rotary: Rotary | None = None,
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        if text is None:
            q, k, v = Linears(dim, name="qkv")(x)
        else:
            q = Linear(dim, name="q")(x)
            k, v = Linears(dim, parts=2, name="kv")(text.astype(x.dtype))
        q = RMSNorm(self.eps, name="q_norm")(q)
        k = RMSNorm(self.eps, name="k_norm")(k)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return Linear(dim, name="out")(attend(q, k, v, mask=mask, rotary=rotary))


@dataclass(frozen=True)
class WanBlock(AdaLNSingle):
    """Attention, attention to text, MLP (Wan, 2025, section 4.2.2 and figure 10).

    As in PixArt, shift, scale and gate are a table of this layer plus vectors that all
    layers share (`jdit.blocks.pixart.six_vectors`); text is attended to without a gate,
    but after a layer norm with weights. Norms, modulation and gated sums are float32
    whatever the compute dtype.

    dim, heads: as in DiT. hidden: width of the MLP.
    """

    hidden: int = 0

    def _module(self, name: str) -> nn.Module:
        return Mlp(self.hidden) if name == "mlp" else WidelyNormed(self.heads)

    def init(self, key: Key) -> Params:
        params = super().init(key)
        x = jnp.zeros((1, 1, self.dim))
        params["cross"]["norm"] = LayerNorm().init(key, x)["params"]
        params["cross"]["out"] = params["cross"]["out"] | {
            "kernel": Linear(self.dim).init(key, x)["params"]["kernel"]
        }
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        full = x.astype(jnp.float32)
        if name == "cross":
            normed = call(LayerNorm(), params["norm"], full).astype(x.dtype)
            return call(self._module(name), params, normed, context.text)
        vectors = context.extra["modulation"][name] + params["modulation"]["table"]
        full = modulate(layer_norm(full), *jnp.split(vectors, 2, -1))
        args = (None, context.rotary) if name == "attention" else ()
        return call(self._module(name), params, full.astype(x.dtype), *args)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        if name == "cross":
            return x + output.astype(x.dtype)
        gate = context.extra["gate"][name] + params["gate"]["table"]
        return (x + per_token(gate) * output.astype(jnp.float32)).astype(x.dtype)
