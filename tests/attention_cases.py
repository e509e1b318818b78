# SPDX-License-Identifier: Apache-2.0
"""Inputs of attention, what float64 says of them, and how to run an implementation."""

import jax
import jax.numpy as jnp
import numpy as np

from jdit import ops
from jdit.ops.attention.arg_specs import Spec


def draw(spec: Spec) -> tuple[list[jax.Array], dict]:
    """q, k, v, the cotangents of output and log-sum-exp, and the masks.

    A mask leaves the first image no key; of three segments the last has queries only.
    """
    b, h, n, m, width = spec[:5]
    g = spec.groups or h
    shapes = [(b, h, n, width), (b, g, m, width), (b, g, m, width), (b, h, n, width)]
    keys = jax.random.split(jax.random.key(0), 5)
    arrays = [
        jax.random.normal(key, s)
        for key, s in zip(keys, [*shapes, (b, h, n)], strict=True)
    ]
    masks: dict = {}
    if spec.masked:
        masks["mask"] = jnp.arange(m)[None] < jnp.arange(b)[:, None] * (m // 2)
    if spec.segmented:
        queries, of_keys = (
            (jnp.arange(x) * parts) // x for x, parts in ((n, 3), (m, 2))
        )
        masks["segments"] = tuple(jnp.tile(x, (b, 1)) for x in (queries, of_keys))
    return arrays, masks


def visible(arrays, masks) -> np.ndarray:
    """Which keys each query sees, `b 1 n m`."""
    b, n, m = len(arrays[0]), arrays[0].shape[2], arrays[1].shape[2]
    seen = np.ones((b, 1, n, m), bool)
    if "mask" in masks:
        seen &= np.asarray(masks["mask"])[:, None, None, :]
    if "segments" in masks:
        queries, keys = (np.asarray(x) for x in masks["segments"])
        seen &= queries[:, None, :, None] == keys[:, None, None, :]
    return seen


def float64(arrays, masks) -> tuple[np.ndarray, ...]:
    """Output, log-sum-exp and gradients of q, k and v, from the chain rule by hand.

    Without a fifth array the log-sum-exp has no cotangent.
    """
    q, k, v, bar, *rest = (np.asarray(x, np.float64) for x in arrays)
    shared, groups = q.shape[1] // k.shape[1], k.shape[1]
    k, v = (x.repeat(shared, 1) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    weight = np.exp(scale * q @ k.swapaxes(-1, -2)) * visible(arrays, masks)
    total = weight.sum(-1)
    with np.errstate(divide="ignore"):
        lse = np.log(total)
    weight = weight / np.where(total == 0, 1, total)[..., None]
    d_weight = bar @ v.swapaxes(-1, -2)
    d_logits = weight * (d_weight - (weight * d_weight).sum(-1, keepdims=True))
    if rest:
        d_logits = d_logits + weight * rest[0][..., None]
    d_q, d_k = scale * d_logits @ k, scale * d_logits.swapaxes(-1, -2) @ q
    d_v = weight.swapaxes(-1, -2) @ bar
    of_groups = [
        x.reshape(len(x), groups, shared, *x.shape[2:]).sum(2) for x in (d_k, d_v)
    ]
    return weight @ v, lse, d_q, *of_groups


def run(implementation, arrays, masks):
    """The output and its gradients, compiled."""

    @jax.jit
    def both(q, k, v, bar, *rest):
        def attend(q, k, v):
            return ops.attention(q, k, v, **masks, implementation=implementation)

        out, vjp = jax.vjp(attend, q, k, v)
        return out, *vjp(bar)

    return both(*arrays)


def run_with_lse(implementation, arrays, masks):
    """Output, log-sum-exp, and the gradients of both."""

    @jax.jit
    def both(q, k, v, *bars):
        def attend(q, k, v):
            return ops.attention_with_lse(
                q, k, v, **masks, implementation=implementation
            )

        out, vjp = jax.vjp(attend, q, k, v)
        return *out, *vjp(bars)

    return both(*arrays)


def without_lse(arrays, masks) -> list[np.ndarray]:
    """What `run` should give."""
    out, _, *gradients = float64(arrays[:4], masks)
    return [out, *gradients]
