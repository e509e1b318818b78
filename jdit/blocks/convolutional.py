# SPDX-License-Identifier: Apache-2.0
"""Blocks whose tokens meet by convolution."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
from einops import rearrange

from jdit.blocks.adaln import Modulated
from jdit.conv import Depthwise
from jdit.linear import Linear, Mlp, exact_gelu, xavier
from jdit.typing import Array, Float


def depthwise(
    module: Callable[[Array], Array], x: Float[Array, "b n d"], grid: tuple[int, int]
) -> Float[Array, "b n d"]:
    """A depthwise convolution of tokens in row-major order of a grid."""
    x = module(rearrange(x, "b (h w) d -> b h w d", h=grid[0], w=grid[1]))
    return rearrange(x, "b h w d -> b (h w) d")


class ConvMixer(nn.Module):
    """Linear, depthwise 3 x 3, GELU, compact channel attention, linear.

    `y * sigmoid(channels(mean of y over the image))` is the channel attention (DiCo's
    "CCA"). Parameters `in`, `channels`, `out` (`d d`) and `mix` (3 x 3).

    grid: rows and columns of the tokens.
    """

    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        dim = x.shape[-1]
        x = Linear(dim, name="in")(x)
        x = exact_gelu(
            depthwise(Depthwise(filter_init=xavier, name="mix"), x, self.grid)
        )
        mean = x.mean(1, keepdims=True)
        x = x * nn.sigmoid(Linear(dim, name="channels")(mean))
        return Linear(dim, name="out")(x)


@dataclass(frozen=True)
class ConvBlock(Modulated):
    """DiCo's block: `Modulated` convolution and MLP (Ai et al., 2025).

    The branch "attention" is the convolution: it stands in attention's place, and so
    adapters and policies that mean that place find it.

    dim: width; grid: rows and columns of the tokens; mlp_ratio: as in DiT.
    """

    dim: int
    grid: tuple[int, int]
    mlp_ratio: float = 2.0
    eps: tuple[float, float] = (1e-6, 1e-6)

    branches = ("attention", "mlp")

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return self.grid[0] * self.grid[1]

    def _module(self, name: str) -> nn.Module:
        if name == "attention":
            return ConvMixer(self.grid)
        return Mlp(int(self.dim * self.mlp_ratio), exact_gelu)
