# SPDX-License-Identifier: Apache-2.0
"""Examples of a task, as frames that a model is shown."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.typing import Array, Conditions, Float, Key


@dataclass(frozen=True)
class Shown:
    """ "shown": clean latents `b t h w c`, with zeros as their null for guidance.

    dropout: how often training replaces an example's frames by zeros.
    query: how many frames, the last ones, are left as they are even so.

    LaVin-DiT's published sampler keeps the query, and has one frame of zeros in the
    place of all pairs. Guidance runs both in one batch here, so that each frame of the
    pairs is zero instead.

    Raises ValueError for less than no frames.
    """

    dropout: float = 0.0
    query: int = 0

    def __post_init__(self) -> None:
        if self.query < 0:
            raise ValueError(f"query is {self.query}, but it must be at least 0")

    def of(
        self, conditions: Conditions, x_t: Float[Array, "b t h w c"]
    ) -> Float[Array, "b s h w c"]:
        """The frames; ValueError unless they fit the frames that are asked for."""
        shape = jnp.shape(conditions["shown"]) if "shown" in conditions else None
        want = (x_t.shape[0], *x_t.shape[2:])
        if shape is None or len(shape) != 5 or (shape[0], *shape[2:]) != want:
            raise ValueError(
                f"conditions['shown'] has shape {shape}, but it must be (batch, "
                f"frames, {', '.join(map(str, x_t.shape[2:]))}): clean latents"
            )
        return conditions["shown"]

    def null(self, conditions: Conditions) -> Conditions:
        """The same number of frames, all zero but the query's."""
        shown = conditions["shown"]
        asked = jnp.arange(shown.shape[1]) >= shown.shape[1] - self.query
        return {**conditions, "shown": jnp.where(asked[:, None, None, None], shown, 0)}

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Replace each example's frames by the null with probability `dropout`."""
        if not self.dropout:
            return conditions
        shown = conditions["shown"]
        dropped = jax.random.bernoulli(key, self.dropout, (shown.shape[0],))
        null = self.null(conditions)["shown"]
        kept = jnp.where(dropped[:, None, None, None, None], null, shown)
        return {**conditions, "shown": kept}


def lay_out(
    inputs: Float[Array, "b s h w c"],
    answers: Float[Array, "b s h w c"],
    query: Float[Array, "b q h w c"],
) -> Float[Array, "b t h w c"]:
    """Pairs, input before answer, then the query: the order of "shown"."""
    pairs = rearrange([inputs, answers], "k b s h w c -> b (s k) h w c")
    return jnp.concatenate([pairs, query], 1)
