# SPDX-License-Identifier: Apache-2.0
"""The layers of convolutional codecs, channels last."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat
from jax import lax

from jdit import ops
from jdit.conv import Conv, uniform
from jdit.linear import Linear, leaf
from jdit.typing import Array, Float


class GroupNorm(nn.Module):
    """Normalise groups of channels over the whole image (Wu and He, 2018, equation 7).

    Parameters `scale` and `bias` (`d`). Statistics are float32, in two passes.
    """

    groups: int = 32
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        dim = x.shape[-1]
        scale = leaf(self, "scale", nn.initializers.ones, (dim,))
        bias = leaf(self, "bias", nn.initializers.zeros, (dim,))
        y = rearrange(x.astype(jnp.float32), "b h w (g k) -> b h w g k", g=self.groups)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean((1, 2, 4), keepdims=True) + self.eps)
        y = rearrange(y, "b h w g k -> b h w (g k)")
        return (y * scale + bias).astype(x.dtype)


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input (or its projection)."""

    features: int
    groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w e"]:
        y = nn.silu(GroupNorm(self.groups, name="norm_1")(x))
        y = Conv(self.features, name="conv_1")(y)
        y = nn.silu(GroupNorm(self.groups, name="norm_2")(y))
        y = Conv(self.features, name="conv_2")(y)
        if x.shape[-1] != self.features:
            x = Linear(self.features, kernel_init=uniform, name="skip")(x)
        return x + y


class PixelAttention(nn.Module):
    """Every pixel attends to every pixel, one head, added to the input."""

    groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        _, h, _, dim = x.shape
        y = rearrange(GroupNorm(self.groups, name="norm")(x), "b h w d -> b 1 (h w) d")
        qkv = Linear(3 * dim, kernel_init=uniform, name="qkv")(y)
        y = ops.attention(*jnp.split(qkv, 3, -1))
        y = Linear(dim, kernel_init=uniform, name="out")(y)
        return x + rearrange(y, "b 1 (h w) d -> b h w d", h=h)


def double(x: Float[Array, "b h w d"]) -> Float[Array, "b y x d"]:
    """Each pixel becomes four of its kind (nearest-neighbour upsampling)."""
    return repeat(x, "b h w d -> b (h p) (w q) d", p=2, q=2)
