# SPDX-License-Identifier: Apache-2.0
"""Attention: one function, several implementations."""

from typing import Literal

from jdit.ops.attention import reference
from jdit.typing import Array, Bool, Float

Implementation = Literal["reference"]


def attention(
    q: Float[Array, "b h n k"],
    k: Float[Array, "b h m k"],
    v: Float[Array, "b h m k"],
    *,
    mask: Bool[Array, "b m"] | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h n k"]:
    """Bidirectional attention; `mask` says which keys are real.

    implementation: None picks one for the device and shape, and always runs.
    """
    if implementation not in (None, "reference"):
        raise ValueError(
            f"implementation is {implementation!r}, but it must be None or 'reference'"
        )
    return reference.attention(q, k, v, mask)
