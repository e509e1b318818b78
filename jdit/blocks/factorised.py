# SPDX-License-Identifier: Apache-2.0
"""Blocks of videos, which attend along time and inside frames by turns."""

from dataclasses import dataclass

import flax.linen as nn
from einops import rearrange

from jdit.attention import SelfAttention
from jdit.blocks.adaln import Modulated
from jdit.linear import Linear, Mlp, call
from jdit.norms import LayerNorm
from jdit.stack import Context
from jdit.typing import Array, Float, Key, Params


class FrameAttention(SelfAttention):
    """Self-attention inside each of `frames` frames; tokens are frame by frame."""

    frames: int = 1

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:  # type: ignore[override]
        x = rearrange(x, "b (t n) d -> (b t) n d", t=self.frames)
        return rearrange(super().__call__(x), "(b t) n d -> b (t n) d", t=self.frames)


class TimeAttention(nn.Module):
    """Norm, self-attention along time at each place of `frames` frames, linear.

    Parameters `norm`, `along` (of `SelfAttention`) and `last`.
    """

    heads: int
    frames: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = LayerNorm(1e-5, name="norm")(x)
        places = x.shape[1] // self.frames
        x = rearrange(x, "b (t n) d -> (b n) t d", t=self.frames)
        x = SelfAttention(self.heads, name="along")(x)
        x = Linear(x.shape[-1], name="last")(x)
        return rearrange(x, "(b n) t d -> b (t n) d", n=places)


@dataclass(frozen=True)
class Factorised(Modulated):
    """VDT's block: attention along time, then DiT's attention inside frames and MLP.

    The branch along time is `x + f(norm(x))`: it has a norm of its own and is neither
    modulated nor gated, so that this block does not start as the identity (Lu et al.,
    2024; the published code).

    dim, heads, mlp_ratio: as in DiT. frames: how many the tokens are of.
    """

    dim: int
    heads: int
    frames: int
    mlp_ratio: float = 4.0
    eps: tuple[float, ...] = (0.0, 1e-6, 1e-6)

    branches = ("temporal", "attention", "mlp")

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return self.frames

    def _module(self, name: str) -> nn.Module:
        if name == "temporal":
            return TimeAttention(self.heads, self.frames)
        if name == "attention":
            return FrameAttention(self.heads, frames=self.frames)
        return Mlp(int(self.dim * self.mlp_ratio))

    def init(self, key: Key) -> Params:
        params = super().init(key)
        for name in ("modulation", "gate"):
            del params["temporal"][name]
        return params

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        if name == "temporal":
            return call(self._module(name), params, x)
        return super().output(name, params, x, context)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        if name == "temporal":
            return x + output.astype(x.dtype)
        return super().merge(name, params, x, output, context)
