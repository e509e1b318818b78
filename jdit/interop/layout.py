# SPDX-License-Identifier: Apache-2.0
"""Foreign names and shapes, as one table of rules that is read in both directions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jdit.interop.files import DType, Source
from jdit.typing import Params

Twist = Callable[[np.ndarray, Any], np.ndarray]
"""A change of values that is its own inverse, given the model."""


@dataclass(frozen=True)
class Rule:
    """Some foreign tensors are some of our parameters.

    theirs: keys of the tensors which, joined along our last axis, are
    ours: the names of our parameters, each with its share of that axis.
    pattern: einops, one foreign tensor to our order of axes; read backwards to save.
    twist: what is done to our values besides, an involution.
    repeated: every layer stores the same tensor, which is one parameter of ours.
    sizes: lengths of axes that the pattern joins, beside the patch's p, q (and r, the
        first of three).
    first, step: our layer i is their layer `first + step i` (see `numbered`).
    axis: of one layer of ours along which they are joined and shared, if not the last.

    "{}" in a key is the layer: ours are stacked over layers, one foreign tensor each,
    unless the rule is `repeated`, and then the model has a `depth`.
    """

    theirs: tuple[str, ...]
    ours: tuple[tuple[str, int], ...]
    pattern: str
    twist: Twist | None = None
    repeated: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    first: int = 0
    step: int = 1
    axis: int = -1

    @property
    def stacked(self) -> bool:
        return "{}" in self.theirs[0] and not self.repeated

    def layers(self, model: Any, shape: tuple[int, ...]) -> range:
        """The layers; shape: of the first of our parameters."""
        if self.stacked:
            return range(shape[0])
        return range(model.depth if self.repeated else 1)

    def keys(self, layer: int) -> list[str]:
        """The keys of their tensors that are our layer's."""
        return [key.format(self.first + self.step * layer) for key in self.theirs]

    def forward(self, theirs: list[np.ndarray], model: Any) -> list[np.ndarray]:
        """Our parameters (of one layer) from their tensors."""
        parts = [rearrange(x, self.pattern, **dict(self.sizes)) for x in theirs]
        joined = np.concatenate(parts, self.axis)
        joined = joined if self.twist is None else self.twist(joined, model)
        shares = np.cumsum([share for _, share in self.ours])
        cuts = shares[:-1] * (joined.shape[self.axis] // shares[-1])
        return np.split(joined, cuts, self.axis)

    def inverse(self, ours: list[np.ndarray], model: Any) -> list[np.ndarray]:
        """Their tensors from our parameters (of one layer)."""
        joined = np.concatenate(ours, self.axis)
        joined = joined if self.twist is None else self.twist(joined, model)
        left, right = self.pattern.split(" -> ")
        sizes = dict(self.sizes)
        if " p q" in left:
            patch = zip("qpr", reversed(model.tokens.size), strict=False)
            sizes |= {axis: size for axis, size in patch if f" {axis}" in left}
        parts = np.split(joined, len(self.theirs), self.axis)
        return [rearrange(part, f"{right} -> {left}", **sizes) for part in parts]


@dataclass(frozen=True)
class Layout:
    """A published way to store a model.

    name: for messages. rules: every learned tensor, once. tables: fixed tensors that
    are checked against ours at load; those named in `written` are made at save, and
    must be there at load.
    """

    name: str
    rules: tuple[Rule, ...]
    tables: Mapping[str, Callable[[Any], np.ndarray]] = field(default_factory=dict)
    written: tuple[str, ...] = ()


def batch_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a torch batch norm: weight and bias, running mean and variance."""
    names = {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "variance",
    }
    return tuple(same(f"{theirs}.{a}", f"{ours}/{b}") for a, b in names.items())


def linear(
    theirs: str | tuple[str, ...],
    ours: str | Mapping[str, int],
    pattern: str = "e d -> d e",
    twist: Twist | None = None,
    *,
    bias: bool = True,
    repeated: bool = False,
) -> tuple[Rule, ...]:
    """The rules of a torch linear layer (or several, or a convolution)."""
    keys = (theirs,) if isinstance(theirs, str) else theirs
    names = {ours: 1} if isinstance(ours, str) else ours

    def rule(weight: str, leaf: str, pattern: str) -> Rule:
        shares = tuple((f"{name}/{leaf}", share) for name, share in names.items())
        full = tuple(f"{key}.{weight}" for key in keys)
        return Rule(full, shares, pattern, twist, repeated)

    kernel = rule("weight", "kernel", pattern)
    return (kernel, rule("bias", "bias", "e -> e")) if bias else (kernel,)


def norm(theirs: str, ours: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """The rules of a torch norm: weight is our scale."""
    scale = same(f"{theirs}.weight", f"{ours}/scale")
    return (scale, same(f"{theirs}.bias", f"{ours}/bias")) if bias else (scale,)


def numbered(rules: Iterable[Rule], first: int, step: int = 1) -> tuple[Rule, ...]:
    """The same rules; our layer i is their layer `first + step i`."""
    return tuple(replace(rule, first=first, step=step) for rule in rules)


def same(theirs: str, ours: str, pattern: str = "... -> ...") -> Rule:
    """The rule of one tensor that is one parameter."""
    return Rule((theirs,), ((ours, 1),), pattern)


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """The arrays of nested dicts by name, keys joined by "/"."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        leaves |= (
            flatten(value, f"{name}/") if isinstance(value, dict) else {name: value}
        )
    return leaves


def nest(leaves: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    tree: Params = {}
    for name, value in leaves.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


@dataclass(frozen=True)
class Placement:
    """Where parameters go as they are read, and in what dtype.

    dtype: of all parameters; those stored in another are rounded to nearest even.
    sharding: of each parameter, as a function of its path ("blocks/mlp/in/kernel") and
        shape; None places it whole on the default device. Each device is given its
        own part alone.
    """

    dtype: DType = "float32"
    sharding: Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None = None

    @property
    def host(self) -> np.dtype:
        """The dtype in numpy."""
        return np.dtype(jnp.dtype(self.dtype))

    def __call__(self, name: str, value: np.ndarray) -> jax.Array:
        """The parameter of that path, on its devices."""
        value = np.asarray(value, self.host)
        if self.sharding is None:
            return jnp.asarray(value)
        place = self.sharding(name, value.shape)
        return jax.make_array_from_callback(value.shape, place, value.__getitem__)


_PLACE: ContextVar[Placement | None] = ContextVar("_PLACE", default=None)


@contextmanager
def placed(place: Placement) -> Iterator[None]:
    """What is loaded within the block goes there, whichever function loads it."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def unpack(
    layout: Layout, model: Any, source: Source, place: Placement | None = None
) -> Params:
    """Our parameters from foreign tensors, one of ours in host memory at a time.

    place: where to; that of the `placed` block around the call, if not given.

    Raises ValueError, which names the key, for a missing or unknown tensor, a wrong
    shape, a position table that is not the model's, or layers that should repeat one
    another and do not.
    """
    place = place or _PLACE.get() or Placement()
    shapes = flatten(_shapes(model))
    _check(layout, model, source, shapes)
    ours: dict[str, Any] = {}
    for rule in layout.rules:
        layers = rule.layers(model, shapes[rule.ours[0][0]].shape)
        held = _gather(rule, model, source, layers, place.host)
        for name, _ in rule.ours:  # no name here keeps what has been placed
            ours[name] = place(name, held.pop(0))
    return nest(ours)


def _gather(
    rule: Rule, model: Any, source: Source, layers: range, dtype: np.dtype
) -> list[np.ndarray]:
    """The parameters of one rule on the host, stacked over layers where they are."""
    held: list[np.ndarray] = []
    for layer in layers:
        keys = rule.keys(layer)
        read = [np.asarray(source.read(key), np.float32) for key in keys]
        parts = rule.forward(read, model)
        if rule.stacked:
            if layer == 0:
                held = [np.empty((len(layers), *part.shape), dtype) for part in parts]
            for stack, part in zip(held, parts, strict=True):
                stack[layer] = part
        elif layer == 0:
            held = parts
        elif not all(map(np.array_equal, held, parts)):
            raise ValueError(
                f"{keys[0]!r} of {source.name} differs from that of layer 0, but "
                "in a DiT all layers read one embedding"
            )
    return held


def pack(layout: Layout, model: Any, params: Params) -> dict[str, np.ndarray]:
    """Foreign tensors, float32, from our parameters.

    Raises ValueError when the parameters are not the model's, hold an array-like leaf
    (an adapter, a quantised weight), or one that the layout has no place for.
    """
    want, have = flatten(_shapes(model)), flatten(params)
    for name, leaf in have.items():
        if hasattr(leaf, "contract"):
            raise ValueError(
                f"params has a {type(leaf).__name__} at {name}, but {layout.name} "
                "holds plain arrays: merge or dequantise it first"
            )
    for name in sorted(want.keys() | have.keys()):
        here, there = (getattr(x.get(name), "shape", None) for x in (have, want))
        if here != there:
            raise ValueError(
                f"params has shape {here} at {name}, but this model's is {there}"
            )
    held = {name for rule in layout.rules for name, _ in rule.ours}
    if lost := sorted(have.keys() - held):
        raise ValueError(
            f"params has {lost[0]}, which {layout.name} of a {type(model).__name__} "
            "has no place for"
        )
    return dict(_pack(layout, model, have)) | {
        key: layout.tables[key](model) for key in layout.written
    }


def _pack(
    layout: Layout, model: Any, ours: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    for rule in layout.rules:
        whole = [np.asarray(ours[name]) for name, _ in rule.ours]
        for layer in rule.layers(model, whole[0].shape):
            parts = [x[layer] for x in whole] if rule.stacked else whole
            yield from zip(rule.keys(layer), rule.inverse(parts, model), strict=True)


def _shapes(model: Any) -> Params:
    return jax.eval_shape(model.init, jax.random.key(0))


def _check(
    layout: Layout, model: Any, source: Source, shapes: Mapping[str, Any]
) -> None:
    """Keys, shapes and fixed tables, before anything large is read."""
    zero = {k: np.broadcast_to(np.float32(0), x.shape) for k, x in shapes.items()}
    want = {key: x.shape for key, x in _pack(layout, model, zero)}
    fixed = {key: make(model) for key, make in layout.tables.items()}
    known = want | {key: table.shape for key, table in fixed.items()}
    needed = [*want, *layout.written]
    for key in needed:
        if key not in source.shapes:
            missing = sum(key not in source.shapes for key in needed)
            raise ValueError(
                f"{source.name} lacks {key!r}, which {layout.name} of this size "
                f"has ({missing} of {len(needed)} tensors are missing)"
            )
    for key, shape in source.shapes.items():
        if key not in known:
            raise ValueError(
                f"{source.name} has {key!r}, which is no part of {layout.name}"
            )
        if shape != known[key]:
            raise ValueError(
                f"{key!r} of {source.name} has shape {shape}, but in {layout.name} of "
                f"this size it must have {known[key]}"
            )
    for key in fixed.keys() & source.shapes.keys():
        stored = source.read(key)
        room = 1e-5 if stored.dtype == np.float32 else 1e-2  # half precision rounds
        off = float(np.abs(np.asarray(stored, np.float32) - fixed[key]).max())
        if not off <= room:
            raise ValueError(
                f"{key!r} of {source.name} differs by {off:.3g} from the sin-cos "
                "positions of a square grid, but only these are accepted"
            )
