# SPDX-License-Identifier: Apache-2.0
"""CogVideoX's block: text and video share all weights but their modulation."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import Rotary, attend, split_heads
from jdit.blocks.joint import STREAMS
from jdit.linear import Linear, Linears, Mlp, call, zeros
from jdit.norms import LayerNorm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Bool, Float, Key, Params, Stream


class LayerNormedAttention(nn.Module):
    """Self-attention whose queries and keys have a layer norm with weights per head.

    Parameters `qkv` (`d 3d`), `q_norm` and `k_norm` (scale and bias, `k`), `out`.

    heads: number of heads; the width must be a multiple.
    """

    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        rotary: Rotary | None = None,
        mask: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        parts = Linears(dim, name="qkv")(x)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        q, k = LayerNorm(name="q_norm")(q), LayerNorm(name="k_norm")(k)
        return Linear(dim, name="out")(attend(q, k, v, mask=mask, rotary=rotary))


@dataclass(frozen=True)
class ExpertBlock:
    """`x + gate * f(modulate(layer_norm(x)))` on text and video as one sequence.

    Streams are {"image": `b n d`, "text": `b m d`}. Norms, attention and MLP are the
    same for both; shift and scale (`modulation`) and `gate` are not, and start at zero:
    `params[branch][stream]` ("expert adaptive layer norm").

    dim, heads, mlp_ratio: as in DiT. condition: width of the conditioning vector.
    Context: vector, rotary (text before video), mask of the text.
    Source: Yang et al. (2024), CogVideoX, section 2.2 and figure 3.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    condition: int = 512

    branches = ("attention", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "mlp":
            return Mlp(int(self.dim * self.mlp_ratio))
        return LayerNormedAttention(self.heads)

    @property
    def _norm(self) -> LayerNorm:
        return LayerNorm(1e-5)

    def init(self, key: Key) -> Params:
        x, vector = jnp.zeros((1, 1, self.dim)), jnp.zeros((1, self.condition))
        modulation = Linear(2 * self.dim, kernel_init=zeros)
        gate = Linear(self.dim, kernel_init=zeros)
        params: Params = {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            own = {
                "modulation": modulation.init(k, vector)["params"],
                "gate": gate.init(k, vector)["params"],
            }
            params[name] = {
                **{stream: own for stream in STREAMS},
                "norm": self._norm.init(k, x)["params"],
                **self._module(name).init(k, x)["params"],
            }
        return params

    def output(
        self, name: str, params: Params, stream: Stream, context: Context
    ) -> Stream:
        vector, parts = nn.silu(context.vector), []
        for key in ("text", "image"):
            both = call(Linear(2 * self.dim), params[key]["modulation"], vector)
            x = call(self._norm, params["norm"], stream[key])
            parts.append(modulate(x, *jnp.split(both, 2, -1)))
        args: tuple = ()
        if name == "attention":
            mask = context.mask
            if mask is not None:
                real = jnp.ones(parts[1].shape[:2], bool)
                mask = jnp.concatenate([mask, real], 1)
            args = context.rotary, mask
        out = call(self._module(name), params, jnp.concatenate(parts, 1), *args)
        text, image = jnp.split(out, [parts[0].shape[1]], 1)
        return {"image": image, "text": text}

    def merge(
        self,
        name: str,
        params: Params,
        stream: Stream,
        output: Stream,
        context: Context,
    ) -> Stream:
        vector = nn.silu(context.vector)
        merged = {}
        for key in STREAMS:
            gate = call(Linear(self.dim), params[key]["gate"], vector)
            added = per_token(gate) * output[key].astype(gate.dtype)
            merged[key] = stream[key] + added
        return merged
