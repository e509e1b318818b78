# SPDX-License-Identifier: Apache-2.0
"""Weight-only quantisation to eight bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jdit.linear import contract
from jdit.surgery.base import Targets, dense, is_leaf, kernels, nbytes, rewrite
from jdit.typing import Array, Float, Int, Key, Params


@flax.struct.dataclass
class Int8:
    """The kernel `q * scale`, stored in eight bits; activations are not quantised.

    q: `*l d e`, int8 in -127 ... 127. scale: `*l e`, one step size per output channel,
    applied after the product, so that the weight is never formed in float.
    """

    q: Int[Array, "*l d e"]
    scale: Float[Array, "*l e"]

    @classmethod
    def of(cls, w: Float[Array, "*l d e"]) -> "Int8":
        """Round to nearest: `|w - q scale| <= scale / 2`, scale = max|w| / 127."""
        peak = jnp.abs(w).max(-2).astype(jnp.float32)
        scale = jnp.where(peak > 0, peak, 1) / 127
        q = jnp.clip(jnp.round(w / scale[..., None, :]), -127, 127)
        return cls(q.astype(jnp.int8), scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    @property
    def dtype(self) -> Any:
        """Of what `dense` returns."""
        return self.scale.dtype

    def contract(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        return contract(x, self.q) * self.scale.astype(x.dtype)

    def columns(self, change: Callable[[Array], Array]) -> "Int8":
        return Int8(change(self.q), change(self.scale))

    def dense(self) -> Float[Array, "*l d e"]:
        return self.q.astype(self.scale.dtype) * self.scale[..., None, :]


@dataclass(frozen=True)
class Quantise:
    """Store kernels in eight bits with a step size per output channel.

    targets: by default every kernel of the blocks, where nearly all parameters are
        (of stages whose names end in "blocks").
        There is no neutral setting but leaving kernels out; each weight moves by at
        most half a step, which is max|w| / 254 of its output channel.

    Raises ValueError for targets that name no kernel, or one that is not an array.
    """

    targets: Targets = r"^[^/]*blocks/.*kernel$"

    def __call__(self, model: Any, params: Params, key: Key) -> tuple[Any, Params]:
        def change(path: str, kernel: Any) -> Int8:
            if is_leaf(kernel):
                raise ValueError(
                    f"kernel {path} is a {type(kernel).__name__}, but only an array "
                    "can be quantised; merge adapters first"
                )
            return Int8.of(kernel)

        return model, rewrite(params, self.targets, change)


class Report(NamedTuple):
    """What a surgery did to the weights.

    bytes_before, bytes_after: of all parameters.
    error: by path, the relative error of each changed kernel in the Frobenius norm.
    """

    bytes_before: int
    bytes_after: int
    error: dict[str, float]


def report(before: Params, after: Params) -> Report:
    """Compare two trees that hold the same kernels in different forms."""
    old, new = kernels(before), kernels(after)

    def relative(a: jax.Array, b: jax.Array) -> float:
        return float(jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(a), 1e-30))

    changed = [n for n in old if old[n] is not new[n]]
    error = {n: relative(dense(old[n]).ravel(), dense(new[n]).ravel()) for n in changed}
    return Report(nbytes(before), nbytes(after), error)
