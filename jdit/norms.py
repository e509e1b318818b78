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


def modulate(
    x: Float[Array, "b n d"], shift: Float[Array, "b d"], scale: Float[Array, "b d"]
) -> Float[Array, "b n d"]:
    """`x (1 + scale) + shift`, one shift and scale per image (DiT, section 3.2)."""
    return x * (1 + scale[:, None]) + shift[:, None]
