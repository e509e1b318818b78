# SPDX-License-Identifier: Apache-2.0
"""Blocks whose normalisation is driven by the conditioning vector."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdit.attention import SelfAttention
from jdit.linear import Linear, Mlp, call, zeros
from jdit.norms import layer_norm, modulate, per_token
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


class Modulated:
    """`x + gate * f(modulate(layer_norm(x)))` for the module f of each branch.

    Shift and scale (`modulation`, `d 2d`) and `gate` (`d d`) of each branch are linear
    in SiLU of the conditioning vector and start at zero, so that the block starts as
    the identity (DiT, section 3.2, "adaLN-Zero"). The published weights fuse the six
    into one matrix; `jdit.interop` splits it.

    A kind of block is a frozen dataclass that has `dim` and `eps` and says its modules,
    and the smallest number of `tokens` on which these can be initialised.
    """

    dim: int
    eps: tuple[float, ...]
    branches: tuple[str, ...] = ("attention", "mlp")
    tokens = 1

    def _module(self, name: str) -> nn.Module:
        raise NotImplementedError

    def _inputs(self, name: str, context: Context) -> tuple:
        """What a branch's module reads beside the stream."""
        return ()

    @property
    def _modulation(self) -> Linear:
        return Linear(2 * self.dim, kernel_init=zeros)

    @property
    def _gate(self) -> Linear:
        return Linear(self.dim, kernel_init=zeros)

    def init(self, key: Key) -> Params:
        x = jnp.zeros((1, self.tokens, self.dim))
        vector = jnp.zeros((1, self.dim))
        params = {}
        keys = jax.random.split(key, len(self.branches))
        for name, k in zip(self.branches, keys, strict=True):
            params[name] = {
                "modulation": self._modulation.init(k, vector)["params"],
                "gate": self._gate.init(k, vector)["params"],
                **self._module(name).init(k, x)["params"],
            }
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        vector = nn.silu(context.vector)
        modulation = call(self._modulation, params["modulation"], vector)
        shift, scale = jnp.split(modulation, 2, -1)
        eps = self.eps[self.branches.index(name)]
        x = modulate(layer_norm(x, eps), shift, scale)
        return call(self._module(name), params, x, *self._inputs(name, context))

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        vector = nn.silu(context.vector)
        gate = call(self._gate, params["gate"], vector)
        return x + per_token(gate) * output.astype(x.dtype)


@dataclass(frozen=True)
class AdaLNZero(Modulated):
    """DiT's block: `Modulated` self-attention and MLP.

    dim: width; heads: attention heads; mlp_ratio: hidden width of the MLP over dim.
    eps: what is added to the variance in the norm of attention and of the MLP.
    """

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    eps: tuple[float, float] = (1e-6, 1e-6)

    branches = ("attention", "mlp")

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return SelfAttention(self.heads, self.qk_norm)
        return Mlp(int(self.dim * self.mlp_ratio))

    def _inputs(self, name: str, context: Context) -> tuple:
        return (context.rotary,) if name == "attention" else ()


def final_layer(
    params: Params,
    x: Float[Array, "b n d"],
    vector: Float[Array, "b *n d"],
    features: int,
) -> Float[Array, "b n e"]:
    """DiT's read-out: modulated layer norm, then a linear layer that starts at zero."""
    dim = x.shape[-1]
    modulation = call(Linear(2 * dim), params["modulation"], nn.silu(vector))
    shift, scale = jnp.split(modulation, 2, -1)
    x = modulate(layer_norm(x), shift, scale)
    return call(Linear(features), params["linear"], x)
