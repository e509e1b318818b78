# SPDX-License-Identifier: Apache-2.0
"""The one place where activations meet weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jdit.typing import Array, Float, Params

Init = Callable[..., Any]

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros


def exact_gelu(x: jax.Array) -> jax.Array:
    """`x Phi(x)` by the error function, torch's default; `nn.gelu` is the tanh one."""
    return nn.gelu(x, approximate=False)


def contract(x: Float[Array, "*b d"], kernel: Any) -> Float[Array, "*b e"]:
    """Multiply activations by a weight of shape `d e`, in the dtype of `x`.

    A weight may be an *array-like leaf*: any pytree node with a method
    `contract(x)`, such as `jdit.surgery.LowRank` or `jdit.surgery.Int8`. So no layer
    has a quantised or an adapted branch. It may have a method `columns(change)`, the
    weight whose arrays with an axis `e` are changed along it (`Linears`).

    The leading axes are flattened, because a flat two-dimensional product is what
    XLA:CPU maps to its fast matrix kernel in both directions; elsewhere it is free,
    but where tokens are split over devices (`unflattened`).
    """
    if hasattr(kernel, "contract"):
        return kernel.contract(x)
    if not _FLAT.get():
        return x @ kernel.astype(x.dtype)
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


@contextmanager
def unflattened() -> Iterator[None]:
    """Within it, activations keep their axes where they meet weights.

    Examples and tokens that are both split over devices make no one axis that is:
    flattening them would gather the tokens of all.
    """
    token = _FLAT.set(False)
    try:
        yield
    finally:
        _FLAT.reset(token)


_FLAT: ContextVar[bool] = ContextVar("flat", default=True)


def leaf(module: nn.Module, name: str, init: Init, shape: tuple[int, ...]) -> Any:
    """A float32 parameter of `module`, which may have become an array-like leaf."""
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, init, shape, jnp.float32)


def call(module: nn.Module, params: Params, *args: Any) -> Any:
    """A Flax leaf as a pure function of its parameters."""
    return module.apply({"params": params}, *args)


class Linear(nn.Module):
    """`x @ kernel + bias`; parameters `kernel` (`d e`) and `bias` (`e`).

    Parameters are kept in float32 and applied in the dtype of the input.
    """

    features: int
    use_bias: bool = True
    kernel_init: Init = xavier
    bias_init: Init = zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        kernel = leaf(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        y = contract(x, kernel)
        if self.use_bias:
            y = y + leaf(self, "bias", self.bias_init, (self.features,)).astype(y.dtype)
        return y


class Linears(nn.Module):
    """Several linear layers side by side in one kernel, `d (p e)`; gives all outputs.

    One product, and one parameter each, as of a `Linear` of `p e` features.

    features: e, of each. parts: p.
    """

    features: int
    use_bias: bool = True
    kernel_init: Init = xavier
    bias_init: Init = zeros
    parts: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> tuple[Float[Array, "*b e"], ...]:
        width, by = self.parts * self.features, _COLUMNS.get()
        kernel = leaf(self, "kernel", self.kernel_init, (x.shape[-1], width))
        bias = leaf(self, "bias", self.bias_init, (width,)) if self.use_bias else None
        if by is None or not by.fits(self.features, self.parts):
            by = None
        elif not hasattr(kernel, "contract"):
            kernel = by(kernel.astype(x.dtype), self.parts)
        elif hasattr(kernel, "columns"):
            kernel = kernel.columns(lambda w: by(w, self.parts))
        else:
            by = None
        y = contract(x, kernel)
        if bias is not None:
            bias = bias.astype(y.dtype)
            y = y + (bias if by is None else by(bias, self.parts))
        if by is None:
            return tuple(jnp.split(y, self.parts, -1))
        y = rearrange(y, "... (t p e) -> ... t p e", t=by.count, p=self.parts)
        parts = jnp.split(y, self.parts, -2)
        return tuple(rearrange(z, "... t 1 e -> ... (t e)") for z in parts)


class Columns(Protocol):
    """Brings columns that are split over devices in the order `t p e`, from `p t e`.

    So each of `count` devices has its own columns of every part.
    """

    @property
    def count(self) -> int: ...
    def fits(self, features: int, parts: int) -> bool: ...
    def __call__(self, x: Float[Array, "*d w"], parts: int) -> Float[Array, "*d w"]: ...


@contextmanager
def side_by_side(columns: Columns) -> Iterator[None]:
    """Within it, the parts of `Linears` are each split over devices."""
    token = _COLUMNS.set(columns)
    try:
        yield
    finally:
        _COLUMNS.reset(token)


_COLUMNS: ContextVar[Columns | None] = ContextVar("columns", default=None)


class Mlp(nn.Module):
    """Two linear layers with an activation: `d -> hidden -> d`.

    The backward pass computes the activation again from its input: tanh-GELU would
    otherwise keep five arrays of the hidden width, which costs more than it saves.
    """

    hidden: int
    activation: Callable[[jax.Array], jax.Array] = nn.gelu  # the tanh approximation
    kernel_init: Init = xavier

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        y = Linear(self.hidden, kernel_init=self.kernel_init, name="in")(x)
        y = jax.checkpoint(self.activation)(y)
        return Linear(x.shape[-1], kernel_init=self.kernel_init, name="out")(y)


def _gated(gate: jax.Array, value: jax.Array) -> jax.Array:
    return nn.silu(gate) * value


class SwiGLU(nn.Module):
    """A gated MLP: `(silu(x g) * (x v)) o` (Shazeer, 2020, equation 6).

    The gate and the value are one product: parameter `in` holds `g`, then `v`, `d 2h`.

    hidden: h. A block as large as an MLP of hidden width H has h near 2/3 H.
    use_bias: whether the linear layers have biases.
    """

    hidden: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        both = Linears(self.hidden, self.use_bias, parts=2, name="in")(x)
        hidden = jax.checkpoint(_gated)(*both)
        return Linear(x.shape[-1], self.use_bias, name="out")(hidden)
