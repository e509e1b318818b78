# SPDX-License-Identifier: Apache-2.0
"""Normalisation and modulation. Statistics are float32 whatever the compute dtype."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jdit.linear import leaf
from jdit.typing import Array, Float


def layer_norm(x: Float[Array, "*b d"], eps: float = 1e-6) -> Float[Array, "*b d"]:
    """Layer normalisation over the last axis, without an affine part."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return y.astype(x.dtype)


def rms_norm(x: Float[Array, "*b d"], eps: float = 1e-6) -> Float[Array, "*b d"]:
    """Root-mean-square normalisation over the last axis, without an affine part."""
    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned scale per channel (parameter `scale`, `d`)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = leaf(self, "scale", nn.initializers.ones, (x.shape[-1],))
        return rms_norm(x, self.eps) * scale.astype(x.dtype)


class LayerNorm(nn.Module):
    """`layer_norm` with a learned scale and bias per channel (`scale`, `bias`, `d`)."""

    eps: float = 1e-6
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = leaf(self, "scale", nn.initializers.ones, (x.shape[-1],))
        y = layer_norm(x, self.eps) * scale.astype(x.dtype)
        if self.use_bias:
            bias = leaf(self, "bias", nn.initializers.zeros, (x.shape[-1],))
            y = y + bias.astype(x.dtype)
        return y


def per_token(vector: Float[Array, "b *n d"]) -> Float[Array, "b n d"]:
    """A vector for all tokens of an image as `b 1 d`; one for each token as it is."""
    return vector[:, None] if vector.ndim == 2 else vector


def modulate(
    x: Float[Array, "b n d"],
    shift: Float[Array, "b *n d"],
    scale: Float[Array, "b *n d"],
) -> Float[Array, "b n d"]:
    """`x (1 + scale) + shift` (DiT, section 3.2).

    One shift and scale per image, `b d`, or per token, `b n d`.
    """
    return x * (1 + per_token(scale)) + per_token(shift)
