# SPDX-License-Identifier: Apache-2.0
"""A block whose attention and MLP read one norm and share one gate (Flux)."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.blocks.joint import gated, init_modulation, modulated
from jdit.linear import Linear, call
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


@dataclass(frozen=True)
class Parallel:
    """Flux's single-stream block: `x + gate (attention(y) + mlp(y))`, y = modulated x.

    Both are computed from the same norm, so they are one branch, "parallel". The
    published code joins their outputs by one matrix, `[attention, hidden] W + bias`;
    here it is the two it consists of, `attention/out` (with the bias) and `mlp/out`.
    So adapters of attention find it, and the values are the published ones.

    dim: width; heads: attention heads, with RMS-normalised queries and keys;
    mlp_ratio: hidden width of the MLP over dim. context.mask: which tokens of the whole
    sequence are real.
    Source: black-forest-labs/flux, modules/layers.py, `SingleStreamBlock`.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0

    branches = ("parallel",)

    @property
    def _attention(self) -> SelfAttention:
        return SelfAttention(self.heads, qk_norm=True)

    @property
    def _mlp(self) -> tuple[Linear, Linear]:
        hidden = int(self.dim * self.mlp_ratio)
        return Linear(hidden), Linear(self.dim, use_bias=False)

    def init(self, key: Key) -> Params:
        keys, x = jax.random.split(key, 3), jnp.zeros((1, 1, self.dim))
        enter, leave = self._mlp
        hidden = jnp.zeros((1, enter.features))
        params = {
            "modulation": init_modulation(key, self.dim),
            "gate": init_modulation(key, self.dim, 1),
            "attention": self._attention.init(keys[0], x)["params"],
            "mlp": {
                "in": enter.init(keys[1], x)["params"],
                "out": leave.init(keys[2], hidden)["params"],
            },
        }
        return {"parallel": params}

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        x = modulated(params, x, context.vector)
        seen = context.rotary, context.mask
        attention = call(self._attention, params["attention"], x, *seen)
        enter, leave = self._mlp
        hidden = jax.checkpoint(nn.gelu)(call(enter, params["mlp"]["in"], x))
        return attention + call(leave, params["mlp"]["out"], hidden)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        return gated(params, x, output, context.vector)
