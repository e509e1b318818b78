# SPDX-License-Identifier: Apache-2.0
"""Guidance as single published pipelines do it."""

from dataclasses import dataclass

import jax.numpy as jnp
from einops import reduce, repeat

from jdit.guidance import CFG
from jdit.processes import Gaussian, Prediction
from jdit.typing import Array, Float


@dataclass(frozen=True)
class TokenCFG(CFG):
    """Guidance that leaves each token as long as it was (Qwen-Image).

    The guided prediction, in the terms of the process's target, is scaled so that every
    patch of it has the Euclidean norm of the conditional one.

    patch: rows and columns of a token.
    Source: diffusers 0.42, pipeline_qwenimage.py.
    """

    patch: int = 2

    def mix(
        self,
        good: Prediction,
        bad: Prediction,
        x_t: Float[Array, "b h w c"],
        time: Array,
        process: Gaussian,
    ) -> Prediction:
        """The guided prediction, of the conditional and the unconditional one."""
        mixed = super().mix(good, bad, x_t, time, process)
        wanted = process.express(good, time, to=process.target)
        value = process.express(mixed, time, to=process.target)
        ratio = self._norm(wanted) / jnp.maximum(self._norm(value), 1e-12)
        pattern = "b h w -> b (h p) (w q) 1"
        ratio = repeat(ratio, pattern, p=self.patch, q=self.patch)
        solved = process.solve(value * ratio, x_t, time, source=process.target)
        return solved._replace(variance=good.variance)

    def _norm(self, x: Float[Array, "b y x c"]) -> Float[Array, "b h w"]:
        pattern = "b (h p) (w q) c -> b h w"
        squares = reduce(jnp.square(x), pattern, "sum", p=self.patch, q=self.patch)
        return jnp.sqrt(squares)
