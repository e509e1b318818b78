# SPDX-License-Identifier: Apache-2.0
"""adaLN-Zero blocks of the Llama kind: RMSNorm with a scale, and SwiGLU."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.linear import Linear, SwiGLU, call, zeros
from jdit.norms import RMSNorm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params

torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's start of a linear layer: uniform within 1 / sqrt(inputs)."""


@dataclass(frozen=True)
class AdaRMS:
    """`x + gate * f(modulate(scale * rms_norm(x)))` for f = attention, SwiGLU.

    Shift, scale and gate of each branch are linear in SiLU of the conditioning vector,
    which may be one for all tokens (`b d`) or one for each (`b n d`, as in DDT's
    velocity decoder). LightningDiT's block (Yao et al., 2025), DDT's (Wang et al.,
    2025) and that of RAE's wide head.

    dim: width; heads: attention heads; hidden: inner width of the SwiGLU.
    qk_norm: RMS-normalise queries and keys per head.
    shift: False leaves out the shifts, LightningDiT's option `wo_shift`.
    bias: whether the projection to queries, keys and values, and the SwiGLU have one.
    zero: start as the identity; DDT's published code starts from PyTorch's default.
    """

    dim: int
    heads: int
    hidden: int
    qk_norm: bool = False
    shift: bool = True
    bias: bool = True
    zero: bool = True

    branches = ("attention", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return SelfAttention(self.heads, self.qk_norm, self.bias)
        return SwiGLU(self.hidden, self.bias)

    @property
    def _modulation(self) -> Linear:
        return Linear((1 + self.shift) * self.dim, kernel_init=self._start)

    @property
    def _gate(self) -> Linear:
        return Linear(self.dim, kernel_init=self._start)

    @property
    def _start(self) -> nn.initializers.Initializer:
        return zeros if self.zero else torch_default

    def init(self, key: Key) -> Params:
        x, vector = jnp.zeros((1, 1, self.dim)), jnp.zeros((1, self.dim))
        params = {}
        for name, k in zip(self.branches, jax.random.split(key, 2), strict=True):
            keys = jax.random.split(k, 3)
            params[name] = {
                "modulation": self._modulation.init(keys[0], vector)["params"],
                "gate": self._gate.init(keys[1], vector)["params"],
                "norm": RMSNorm().init(k, x)["params"],
                **self._module(name).init(keys[2], x)["params"],
            }
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        scale = call(self._modulation, params["modulation"], nn.silu(context.vector))
        x = call(RMSNorm(), params["norm"], x)
        if self.shift:
            x = modulate(x, *jnp.split(scale, 2, -1))
        else:
            x = x * (1 + per_token(scale))
        args = (context.rotary,) if name == "attention" else ()
        return call(self._module(name), params, x, *args)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        gate = call(self._gate, params["gate"], nn.silu(context.vector))
        return x + per_token(gate) * output.astype(x.dtype)


def init_final_rms(key: Key, dim: int, features: int) -> Params:
    """Parameters of `final_rms`, whose output starts at zero."""
    vector = jnp.zeros((1, dim))
    return {
        "norm": RMSNorm().init(key, vector)["params"],
        "modulation": Linear(2 * dim, kernel_init=zeros).init(key, vector)["params"],
        "linear": Linear(features, kernel_init=zeros).init(key, vector)["params"],
    }


def final_rms(
    params: Params,
    x: Float[Array, "b n d"],
    vector: Float[Array, "b *n d"],
    features: int,
) -> Float[Array, "b n e"]:
    """`jdit.blocks.final_layer` with a scaled RMSNorm for its layer norm."""
    modulation = call(Linear(2 * x.shape[-1]), params["modulation"], nn.silu(vector))
    x = call(RMSNorm(), params["norm"], x)
    x = modulate(x, *jnp.split(modulation, 2, -1))
    return call(Linear(features), params["linear"], x)
