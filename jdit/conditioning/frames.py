# SPDX-License-Identifier: Apache-2.0
"""Known parts of a video, and how training chooses them."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jdit.conditioning.label import Labels
from jdit.typing import Array, Bool, Conditions, Float, Key

TASKS = (
    "predict",
    "backward",
    "interpolate",
    "generate",
    "animate",
    "random frames",
    "region",
)
"""What is noised, in the order of `KnownFrames.noised`."""


@dataclass(frozen=True)
class KnownFrames:
    """A video's clean parts, and classes (VDT's unified mask modelling).

    Conditions may hold "frames", a video `b t h w c` that is clean, and "noised", `b t
    h w`, 1 where the network sees x_t instead and 0 where it sees "frames"; without
    them all is noised. "label" is class 0 where there is none, as in the published
    code, whose models know one class.

    In training, `drop` draws "noised" for each video whose conditions hold "frames"
    (the data itself): one fifth of the time a region, else one of six tasks, equally
    likely. They are to predict from the first `given` frames, to go back from the last
    `given`, to fill in between every `stride`-th, to generate from none, to animate
    one frame, and to fill in frames that are noised with probability `ratio` each. A
    region is one rectangle of about half the image, between some first and last
    frames; the published code draws several overlapping ones.

    labels: classes and their dropout.
    """

    labels: Labels = field(default_factory=lambda: Labels(1000))
    given: int = 8
    stride: int = 4
    ratio: float = 0.8

    def label(self, conditions: Conditions, batch: int) -> Conditions:
        """The conditions with a label."""
        if "label" in conditions:
            return conditions
        return {**conditions, "label": jnp.zeros(batch, jnp.int32)}

    def mix(
        self, x_t: Float[Array, "b t h w c"], conditions: Conditions
    ) -> Float[Array, "b t h w c"]:
        """What the network sees: x_t where it is noised, the clean video elsewhere.

        Raises ValueError for "frames" or "noised" of another shape, or one alone.
        """
        if "frames" not in conditions and "noised" not in conditions:
            return x_t
        for name, want in (("frames", x_t.shape), ("noised", x_t.shape[:-1])):
            shape = jnp.shape(conditions[name]) if name in conditions else None
            if shape != want:
                raise ValueError(
                    f"conditions[{name!r}] has shape {shape}, but it must be {want}: "
                    "'frames' like the video, 'noised' without its channels"
                )
        noised = jnp.asarray(conditions["noised"], x_t.dtype)[..., None]
        return noised * x_t + (1 - noised) * conditions["frames"].astype(x_t.dtype)

    def null(self, conditions: Conditions) -> Conditions:
        """The same known frames without the label."""
        batch = len(jax.tree.leaves(conditions)[0]) if conditions else 1
        return self.labels.null(self.label(conditions, batch))

    def drop(self, key: Key, conditions: Conditions) -> Conditions:
        """Conditions for training: a mask for each video, some labels dropped."""
        keys = jax.random.split(key)
        if "label" in conditions:
            conditions = self.labels.drop(keys[0], conditions)
        if "frames" not in conditions:
            return conditions
        batch, *grid, _ = jnp.shape(conditions["frames"])
        draw = jax.vmap(lambda key: self._draw(key, tuple(grid)))
        noised = draw(jax.random.split(keys[1], batch))
        return {**conditions, "noised": noised}

    def noised(self, key: Key, grid: tuple[int, int, int]) -> Bool[Array, "task t h w"]:
        """One mask for each of `TASKS`, true where a video is noised."""
        t, h, w = grid
        keys, frame = jax.random.split(key, 4), jnp.arange(t)
        given = min(self.given, t - 1)
        rows = [
            frame >= given,
            frame < t - given,
            frame % self.stride != 0,
            jnp.ones(t, bool),
            frame != jax.random.randint(keys[0], (), 0, t),
            jax.random.bernoulli(keys[1], self.ratio, (t,)),
        ]
        masks = [jnp.broadcast_to(row[:, None, None], grid) for row in rows]
        region = _rectangle(keys[2], h, w)
        ends = jax.random.randint(keys[3], (2,), 0, min(4, t // 2 + 1))
        between = (frame >= ends[0]) & (frame < t - ends[1])
        return jnp.stack([*masks, between[:, None, None] & region])

    def _draw(self, key: Key, grid: Any) -> Bool[Array, "t h w"]:
        keys = jax.random.split(key, 3)
        task = jax.random.randint(keys[0], (), 0, len(TASKS) - 1)
        region = jax.random.bernoulli(keys[1], 0.2)
        masks = self.noised(keys[2], grid)
        return masks[jnp.where(region, len(TASKS) - 1, task)]


def _rectangle(key: Key, h: int, w: int) -> Bool[Array, "h w"]:
    """A rectangle of half the area, or what fits of it; sides of ratio 0.3 to 3.3."""
    keys = jax.random.split(key, 3)
    limit = -jnp.log(0.3)
    ratio = jnp.exp(jax.random.uniform(keys[0], (), minval=-limit, maxval=limit))
    high = jnp.clip(jnp.round(jnp.sqrt(h * w / 2 * ratio)), 1, h)
    wide = jnp.clip(jnp.round(jnp.sqrt(h * w / 2 / ratio)), 1, w)
    top = jnp.floor(jax.random.uniform(keys[1]) * (h - high + 1))
    left = jnp.floor(jax.random.uniform(keys[2]) * (w - wide + 1))
    y, x = jnp.arange(h)[:, None], jnp.arange(w)[None]
    return (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
