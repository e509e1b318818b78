# SPDX-License-Identifier: Apache-2.0
"""The glossary of axes and the array aliases used in every signature.

    b  batch                    h  attention heads
    n  tokens                   k  width of one head
    m  tokens of a condition    l  layers (depth)
    d  width of the stream      e  features of a projection
    c  channels of the data     s  steps of a solver
    *g the data's grid          p  values in one patch

`time` lies in [0, 1]: 0 is data, 1 is noise.
"""

from typing import Any

import jaxtyping
from jaxtyping import Array, Bool, Float, Int

Key = jaxtyping.Key[Array, "..."]
"""A key made by `jax.random.key`, or an array of such keys."""

Params = dict[str, Any]
"""A tree of parameters. A leaf is an array or an array-like (`jdit.linear`)."""

Conditions = dict[str, Any]
"""What the network is told besides time: {"label": Int[Array, "b"], ...}."""

Memory = Any
"""What a policy or a wrapper carries from one solver step to the next."""

Stream = Any
"""The residual stream: an array `b n d`, or a tree of them."""

__all__ = [
    "Array",
    "Bool",
    "Conditions",
    "Float",
    "Int",
    "Key",
    "Memory",
    "Params",
    "Stream",
]
