# SPDX-License-Identifier: Apache-2.0
"""A tiny model of every family, with every published feature of it switched on."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdit.conditioning import Labels
from jdit.models import Backbone, DiT

BATCH = 2


def draw(*shape: int, seed: int = 0) -> jax.Array:
    """Reproducible numbers, made without compiling anything."""
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def text(tokens: int, features: int, **more: Any) -> dict[str, Any]:
    """Encoded text of which the first image has all tokens, the second fewer."""
    mask = jnp.arange(tokens)[None] < jnp.array([[tokens], [max(1, tokens - 2)]])
    return {"text": draw(BATCH, tokens, features), "mask": mask, **more}


@dataclass(frozen=True)
class Member:
    """model: tiny. conditions: of `BATCH` images.

    starts_at_zero: whether the published initialisation gives zero output.
    """

    model: Backbone
    conditions: dict[str, Any] = field(default_factory=dict)
    starts_at_zero: bool = True


ALBUM = {
    "dit": Member(
        DiT(grid=(8, 8), channels=2, dim=32, depth=3, heads=2, conditioning=Labels(5)),
        {"label": jnp.array([0, 4])},
    ),
}
