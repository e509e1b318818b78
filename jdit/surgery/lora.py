# SPDX-License-Identifier: Apache-2.0
"""Low-rank adaptation: a kernel gets a small trainable addition.

Training only the adapter. Either take gradients with respect to it alone,

    factors = trainable_factors(params)
    jax.grad(lambda factors: loss(attach(params, factors)))(factors)

which never makes a gradient of the base (and is the way on an `Int8` base), or give an
optimiser of the whole tree the mask:

    optax.partition({True: tx, False: optax.set_to_zero()}, trainable(params))
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jdit.linear import contract
from jdit.surgery.base import Targets, dense, is_leaf, kernels, rewrite
from jdit.typing import Array, Float, Key, Params

Adapter = dict[str, dict[str, Array]]
"""Adapters by the path of their kernel."""


@flax.struct.dataclass
class LowRank:
    """The kernel `base + scale a b`, never formed (LoRA, Hu et al., 2021, section 4.1).

    base: `*l d e`, an array or another array-like leaf. a: `*l d r`. b: `*l r e`.
    scale: `*l`, one number a layer, so that it is scanned over depth like the rest.
    """

    base: Any
    a: Float[Array, "*l d r"]
    b: Float[Array, "*l r e"]
    scale: Float[Array, "*l"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> Any:
        return self.base.dtype

    def contract(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        low = contract(contract(x, self.a), self.b)
        return contract(x, self.base) + self.scale.astype(x.dtype) * low

    def columns(self, change: Callable[[Array], Array]) -> "LowRank":
        base = self.base
        base = base.columns(change) if is_leaf(base) else change(base)
        return replace(self, base=base, b=change(self.b))

    def dense(self) -> Float[Array, "*l d e"]:
        return dense(self.base) + self.scale[..., None, None] * (self.a @ self.b)


@dataclass(frozen=True)
class LoRA:
    """Add a trainable `scale a b` to kernels; outputs are unchanged, because b is 0.

    rank: r of the two factors. alpha: scale is alpha / rank; None means alpha = rank.
    targets: which kernels; by default all of attention's, in every block.
    a is drawn uniformly within 1/sqrt(d), as the authors' code does (Kaiming uniform
    with a = sqrt 5).

    Raises ValueError for a rank below 1, a kernel that already is a `LowRank`, and
    targets that name no kernel.
    """

    rank: int = 8
    alpha: float | None = None
    targets: Targets = r"(^|/)attention/.*kernel$"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}, but it must be at least 1")

    def __call__(self, model: Any, params: Params, key: Key) -> tuple[Any, Params]:
        alpha = self.rank if self.alpha is None else self.alpha
        count = iter(range(10**9))

        def change(path: str, kernel: Any) -> LowRank:
            if isinstance(kernel, LowRank):
                raise ValueError(
                    f"kernel {path} already has an adapter; merge that one first"
                )
            *lead, d, e = kernel.shape
            k = jax.random.fold_in(key, next(count))
            bound = 1 / sqrt(d)
            a = jax.random.uniform(k, (*lead, d, self.rank), jnp.float32, -bound, bound)
            b = jnp.zeros((*lead, self.rank, e), jnp.float32)
            return LowRank(kernel, a, b, jnp.full(lead, alpha / self.rank, jnp.float32))

        return model, rewrite(params, self.targets, change)


def is_adapter(value: Any) -> bool:
    return isinstance(value, LowRank)


def merge(params: Params) -> Params:
    """The adapters added into their bases: plain kernels, the same outputs.

    A quantised base becomes a float32 array, since the sum is not on its grid.
    """

    def fold(value: Any) -> Any:
        return value.dense() if is_adapter(value) else value

    return jax.tree.map(fold, params, is_leaf=is_leaf)


def extract(params: Params) -> Adapter:
    """The adapters alone, {path of a kernel: {"a", "b", "scale"}}: what one ships."""
    leaves = kernels(params).items()
    return {
        path: {"a": kernel.a, "b": kernel.b, "scale": kernel.scale}
        for path, kernel in leaves
        if is_adapter(kernel)
    }


def trainable_factors(params: Params) -> Adapter:
    """The adapters' factors, {path of a kernel: {"a", "b"}}: what one trains."""
    return {path: {"a": p["a"], "b": p["b"]} for path, p in extract(params).items()}


def attach(params: Params, adapter: Adapter) -> Params:
    """Put adapters, or their factors, onto their kernels.

    An adapter that is there already is replaced; without "scale" its scale is kept.
    Raises ValueError when an adapter belongs to no kernel of `params`, has another
    shape, or lacks a scale.
    """

    def change(path: str, kernel: Any) -> LowRank:
        base, part = kernel.base if is_adapter(kernel) else kernel, adapter[path]
        if "scale" not in part and not is_adapter(kernel):
            raise ValueError(
                f"adapter {path} has no scale, and the kernel has none to lend; "
                "give one from extract"
            )
        *lead, d, e = base.shape
        rank = part["a"].shape[-1]
        if part["a"].shape != (*lead, d, rank) or part["b"].shape != (*lead, rank, e):
            raise ValueError(
                f"adapter {path} has a {part['a'].shape} and b {part['b'].shape}, but "
                f"its kernel has shape {tuple(base.shape)}"
            )
        scale = part["scale"] if "scale" in part else kernel.scale
        return LowRank(base, part["a"], part["b"], scale)

    if missing := sorted(set(adapter) - set(kernels(params))):
        raise ValueError(
            f"adapter has {missing[0]}, but the parameters have no such kernel"
        )
    return rewrite(params, adapter.__contains__, change) if adapter else params


def trainable(params: Params) -> Params:
    """True for the factors a and b of adapters, False for all other arrays.

    Use it with `optax.partition`, not with `optax.masked`, which hands the gradients
    of what it masks on as they are.
    """

    def mark(value: Any) -> Any:
        no = jax.tree.map(lambda _: False, value)
        return no.replace(a=True, b=True) if is_adapter(value) else no

    return jax.tree.map(mark, params, is_leaf=is_leaf)
