# SPDX-License-Identifier: Apache-2.0
"""The layers of codecs of videos, channels last."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from jdit.conv import uniform
from jdit.linear import Init, leaf, zeros
from jdit.typing import Array, Float

_AXES = ("NDHWC", "DHWIO", "NDHWC")

Pads = tuple[tuple[int, int], ...]


class Conv3d(nn.Module):
    """A convolution over three axes; parameters `kernel` (`t h w d e`), `bias` (`e`).

    size, stride: along each axis. padding: zeros before and after, on each axis; None
    is causal: all before the first frame, so that no frame is told of a later one, and
    as many on either side of rows and columns. As in `jdit.conv.Conv`, the kernel may
    be an array-like leaf, which is made dense here.
    """

    features: int
    size: tuple[int, int, int] = (3, 3, 3)
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: Pads | None = None
    use_bias: bool = True
    kernel_init: Init = uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b s y x e"]:
        shape = (*self.size, x.shape[-1], self.features)
        kernel = leaf(self, "kernel", self.kernel_init, shape)
        if hasattr(kernel, "contract"):
            kernel = kernel.dense()
        padding = self.padding
        if padding is None:
            sides = [((n - 1) // 2, n // 2) for n in self.size[1:]]
            padding = ((self.size[0] - 1, 0), *sides)
        y = lax.conv_general_dilated(
            x, kernel.astype(x.dtype), self.stride, padding, dimension_numbers=_AXES
        )
        if self.use_bias:
            y = y + leaf(self, "bias", zeros, (self.features,)).astype(y.dtype)
        return y


def each_frame(
    part: Callable[[Array], Array], x: Float[Array, "b t h w d"]
) -> Float[Array, "b t y x e"]:
    """Every frame through a part that reads images."""
    b = x.shape[0]
    y = part(rearrange(x, "b t h w d -> (b t) h w d"))
    return rearrange(y, "(b t) h w d -> b t h w d", b=b)


def first_and_rest(
    first: Float[Array, "b f h w d"], rest: Float[Array, "b t h w d"]
) -> Float[Array, "b s h w d"]:
    """The first frame (or none), which is treated by itself, before the others."""
    return jnp.concatenate([first, rest], 1)


class HeldConv(nn.Module):
    """A 3 by 3 by 3 convolution for which time stands still before the clip.

    The first frame is repeated before the clip; where not `causal`, once only, and the
    last frame once after it. Rows and columns end in zeros, or, with `hold_sides`, are
    repeated too. Parameters are those of `conv`.
    """

    features: int
    causal: bool = True
    stride: tuple[int, int, int] = (1, 1, 1)
    hold_sides: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w d"]) -> Float[Array, "b s y x e"]:
        time, side = (2, 0) if self.causal else (1, 1), (1, 1)
        held = (side, side) if self.hold_sides else ((0, 0), (0, 0))
        x = jnp.pad(x, ((0, 0), time, *held, (0, 0)), mode="edge")
        rest = ((0, 0), (0, 0)) if self.hold_sides else (side, side)
        padding = ((0, 0), *rest)
        conv = Conv3d(self.features, (3, 3, 3), self.stride, padding, name="conv")
        return conv(x)


def over_frames(
    norm: Callable[[Array], Array], x: Float[Array, "b t h w d"]
) -> Float[Array, "b t h w d"]:
    """A norm of images over all frames at once."""
    y = norm(rearrange(x, "b t h w d -> b (t h) w d"))
    return rearrange(y, "b (t h) w d -> b t h w d", t=x.shape[1])
