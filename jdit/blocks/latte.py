# SPDX-License-Identifier: Apache-2.0
"""Latte's layer: a block within each frame, then one along time."""

from dataclasses import dataclass
from typing import Any

import jax
from einops import rearrange, repeat

from jdit.stack import Block, Context
from jdit.typing import Array, Float, Key, Params

_SPATIAL = ("b (f n) d -> (b f) n d", "(b f) n d -> b (f n) d", "b d -> (b f) d")
_TEMPORAL = ("b (f n) d -> (b n) f d", "(b n) f d -> b (f n) d", "b d -> (b n) d")


@dataclass(frozen=True)
class Factorised:
    """A pair of blocks over `b (f n) d`: n tokens of each of f frames (Latte, fig. 2a).

    The attention of `spatial` sees the tokens of one frame, that of `temporal` those of
    one place in all frames. All else is done token by token. Branches of `temporal` are
    named "temporal_attention" and so on.

    In the first layer, the frames' positions join the stream between the two blocks:
    `context.extra["frames"]`, `f d`, times `context.layer` (1 in the first layer, 0 in
    all others). They enter with the merge of "temporal_attention", so a policy that
    leaves that merge out in the first layer leaves them out too.

    It needs all tokens of the video, so it cannot run on a subset of them.
    """

    spatial: Block
    temporal: Block
    frames: int

    @property
    def branches(self) -> tuple[str, ...]:
        later = tuple(f"temporal_{name}" for name in self.temporal.branches)
        return (*self.spatial.branches, *later)

    def init(self, key: Key) -> Params:
        one, two = jax.random.split(key)
        later = self.temporal.init(two)
        return self.spatial.init(one) | {f"temporal_{k}": v for k, v in later.items()}

    def output(
        self, name: str, params: Params, x: Float[Array, "b n d"], context: Context
    ) -> Float[Array, "b n d"]:
        block, own, later = self._own(name)
        if own != "attention":
            return block.output(own, params, x, context)
        to, back, again = _TEMPORAL if later else _SPATIAL
        if later:
            x = x + self._places(x, context)
        sizes = dict(f=self.frames, n=x.shape[1] // self.frames)

        def regroup(value: Array) -> Array:
            if value.ndim == 3:  # one vector for each token
                return rearrange(value, to, f=self.frames)
            axis = "n" if later else "f"
            return repeat(value, again, **{axis: sizes[axis]})

        extra = {} if context.extra is None else dict(context.extra)
        extra.pop("frames", None)
        inner = Context(
            regroup(context.vector), extra=jax.tree.map(regroup, extra), layer=None
        )
        out = block.output(own, params, rearrange(x, to, f=self.frames), inner)
        return rearrange(out, back, **sizes)

    def merge(
        self,
        name: str,
        params: Params,
        x: Float[Array, "b n d"],
        output: Float[Array, "b n d"],
        context: Context,
    ) -> Float[Array, "b n d"]:
        block, own, later = self._own(name)
        if later and own == "attention":
            x = x + self._places(x, context)
        return block.merge(own, params, x, output, context)

    def _own(self, name: str) -> tuple[Block, str, bool]:
        """Whose branch it is, its name there, and whether it runs along time."""
        if name.startswith("temporal_"):
            return self.temporal, name.removeprefix("temporal_"), True
        return self.spatial, name, False

    def _places(self, x: Float[Array, "b n d"], context: Context) -> Any:
        if context.layer is None:  # a single frame has no place
            return 0
        table = repeat(
            context.extra["frames"], "f d -> (f n) d", n=x.shape[1] // self.frames
        )
        return (context.layer * table).astype(x.dtype)
