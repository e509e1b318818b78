# SPDX-License-Identifier: Apache-2.0
"""Convolutions over two axes, channels last."""

import flax.linen as nn
from jax import lax

from jdit.linear import Init, leaf, zeros
from jdit.typing import Array, Float

_AXES = ("NHWC", "HWIO", "NHWC")

uniform: Init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within `1 / sqrt(fan in)`: how torch starts a convolution."""


class Conv(nn.Module):
    """A convolution; parameters `kernel` (`h w d e`) and `bias` (`e`).

    size: of the kernel, along both axes. padding: zeros before and after, on both
    axes; None keeps the size of the grid (with stride 1). The kernel may be an
    array-like leaf (`jdit.linear.contract`) whose leading axes are `h w`: it is made
    dense here, because a convolution is no contraction of the stream as it lies in
    memory.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    use_bias: bool = True
    kernel_init: Init = uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b y x e"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = leaf(self, "kernel", self.kernel_init, shape)
        if hasattr(kernel, "contract"):
            kernel = kernel.dense()
        padding = self.padding or ((self.size - 1) // 2, self.size // 2)
        y = lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            (padding, padding),
            dimension_numbers=_AXES,
        )
        if self.use_bias:
            y = y + leaf(self, "bias", zeros, (self.features,)).astype(y.dtype)
        return y


class Depthwise(nn.Module):
    """Each channel convolved by itself; parameters `filter` (`h w d`), `bias` (`d`).

    The filter is not named `kernel`: it multiplies no vector of channels, so that
    adapters and quantisers, which look for kernels, leave it as it is.
    """

    size: int = 3
    filter_init: Init = uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b y x d"]) -> Float[Array, "b y x d"]:
        d = x.shape[-1]
        taps = leaf(self, "filter", _single(self.filter_init), (self.size,) * 2 + (d,))
        taps = taps[:, :, None].astype(x.dtype)
        y = lax.conv_general_dilated(
            x, taps, (1, 1), "SAME", dimension_numbers=_AXES, feature_group_count=d
        )
        return y + leaf(self, "bias", zeros, (d,)).astype(y.dtype)


def _single(init: Init) -> Init:
    """An initialiser that counts one input for each output."""

    def make(key, shape, dtype):  # type: ignore[no-untyped-def]
        h, w, d = shape
        return init(key, (h, w, 1, d), dtype)[:, :, 0]

    return make
