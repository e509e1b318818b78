# SPDX-License-Identifier: Apache-2.0
"""What a training step needs and how long it takes, estimated without compiling it.

Crude by itself: it says which of many ways to run a step are worth a compile. Each
compiled one corrects it (`Estimate.learn`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jdit.compile.chips import Chip
from jdit.compile.programs import conditions, forward_flops
from jdit.parallel import Mesh
from jdit.parallel.rules import names_of
from jdit.recipe import Recipe
from jdit.stack import Remat
from jdit.train.partial import model_of, trained
from jdit.train.state import abstract_state, loss_of

RUNS = {"none": 3.5, "dots": 3.7, "block": 4.0, "offload": 4.0}
"""Forward passes' worth of time in a step. What is kept need not be computed again,
which would leave 3, but is written and read."""

DOUBT = 1.1
"""What of a remat policy's speed is in doubt until one step of it is compiled."""

AXES = ("data", "fsdp", "tensor", "sequence")
"""Those of the mesh that are searched."""

BUSY = 0.35
"""The share of a chip's peak that its kernels are taken to reach, until one is seen."""


class Choice(NamedTuple):
    """One way to run a step. rows: examples that a chip works on at a time; its
    neighbours along `tensor` and `sequence` work on the same ones. micro: batches it is
    split into."""

    mesh: Mesh
    remat: Remat | None
    rows: int
    micro: int = 1

    @property
    def parts(self) -> int:
        return self.mesh.data * self.mesh.fsdp

    @property
    def batch(self) -> int:
        return self.rows * self.parts * self.micro

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe, run so."""
        model = recipe.model
        if self.remat is not None:
            model = replace(model, remat=self.remat)
        training = replace(recipe.training, batch=self.batch, accumulate=self.micro)
        return replace(recipe, model=model, training=training, mesh=self.mesh)

    def words(self) -> str:
        """The options that choose it, for a command line."""
        found = [f"--mesh.{axis} {n}" for axis, n in self._axes() if n > 1]
        if self.mesh.data == 1:  # it takes what others leave unless it is told not to
            found.insert(0, "--mesh.data 1")
        found += [f"--model.remat {self.remat}"] if self.remat else []
        found += [f"--training.batch {self.batch}"]
        found += [f"--training.accumulate {self.micro}"] if self.micro > 1 else []
        return " ".join(found)

    def shape(self) -> str:
        """The mesh, for a person."""
        return " ".join(f"{a} {n}" for a, n in self._axes() if n > 1) or "one device"

    def _axes(self) -> list[tuple[str, int]]:
        return [(axis, getattr(self.mesh, axis)) for axis in AXES]


def meshes(
    chips: int, heads: int | None, tensor: int = 8, sequence: int = 1
) -> Iterator[Mesh]:
    """Meshes of so many chips over `data`, `fsdp`, `tensor` and `sequence`.

    heads: which the axis `tensor` divides; None: it is 1. tensor, sequence: the widest
    of each. The others are all divisors.
    """
    for wide, long in product(range(1, tensor + 1), range(1, sequence + 1)):
        if chips % (wide * long) or (wide > 1 and (heads is None or heads % wide)):
            continue
        rest = chips // (wide * long)
        for fsdp in (n for n in range(1, rest + 1) if not rest % n):
            yield Mesh(rest // fsdp, fsdp, wide, long)


class Compiled(Protocol):
    """What is learned from a compiled step (`Report`)."""

    @property
    def needed(self) -> float: ...
    @property
    def kernels_time(self) -> float: ...
    @property
    def network_time(self) -> float: ...


class _Seen(NamedTuple):
    choice: Choice
    beyond: float  # bytes needed beyond what is fixed
    slow: float  # kernels' time over the estimate, 0 if it was refused
    far: float  # network's time over the estimate, likewise


@dataclass
class Estimate:
    """Memory and time of a recipe's step on `chips` of a kind, by choice.

    Memory: parameters, moments, averages and gradients, split as the rules say, and
    what the backward pass reads, from the shapes of its residuals. Time: products at a
    share of the peak, the state once through memory, and the network's exchanges.
    """

    recipe: Recipe
    chip: Chip
    chips: int
    slices: int = 1
    seen: list[_Seen] = field(default_factory=list)
    _kept: dict[Remat | None, tuple[float, float]] = field(default_factory=dict)
    _params: dict[Mesh, float] = field(default_factory=dict)

    def params(self, mesh: Mesh) -> float:
        """Bytes of parameters on one chip."""
        if mesh not in self._params:
            rules, total = self.recipe.sharding, 0.0
            shapes = [(path, leaf.shape) for path, leaf in self._leaves]
            sizes = rules.divide(mesh.sizes(self.chips), shapes)
            for path, leaf in self._leaves:
                names = names_of(rules.spec(path, leaf.shape, sizes))
                total += _bytes(leaf) / prod(sizes[name] for name in names)
            self._params[mesh] = total
        return self._params[mesh]

    def fixed(self, mesh: Mesh) -> float:
        """Bytes on a chip, whatever the batch: all that lives on, gradients, a copy."""
        low = 0.5 if getattr(self.recipe.model, "dtype", "") == "bfloat16" else 0.0
        return (self._copies + 1 + low) * self.params(mesh)

    def needed(self, choice: Choice) -> float:
        """Bytes on a chip: fixed, and by what was seen of the same kind of choice."""
        mine = self._rows(choice)
        alike = [
            (self._rows(one.choice), one.beyond)
            for one in self.seen
            if _alike(one.choice, choice)
        ]
        beyond = mine
        if alike:
            x, y = min(alike, key=lambda at: abs(at[0] - mine))
            others = [at for at in alike if at[0] != x]
            slope = min(max(y / x, 0.5), 2.0)
            if others:
                x_2, y_2 = min(others, key=lambda at: abs(at[0] - mine))
                slope = max((y - y_2) / (x - x_2), 0.0)
            beyond = max(y + slope * (mine - x), 0.0)
        return self.fixed(choice.mesh) + beyond

    def room(self, choice: Choice) -> bool:
        """Whether it is thought to fit; with more to spare where none like it was seen.

        An estimate that nothing corrected was 11% too low where one was compiled.
        """
        alike = any(_alike(one.choice, choice) for one in self.seen)
        return self.needed(choice) <= (0.97 if alike else 0.87) * self.chip.hbm

    def hope(self, choice: Choice) -> float:
        """Images a second that are worth a compile: more while its policy is new."""
        known = any(one.choice.remat == choice.remat for one in self.seen)
        return self.images(choice) * (1.0 if known or not self.seen else DOUBT)

    def seconds(self, choice: Choice) -> float:
        """Of a step."""
        slow = [s for s in self.seen if s.slow]
        same = [s for s in slow if s.choice.remat == choice.remat] or slow
        far = [s for s in self.seen if s.far and _kind(s.choice) == _kind(choice)]
        kernels = self._kernels(choice) * (same[-1].slow if same else 1.0)
        return kernels + self._network(choice) * (far[-1].far if far else 1.0)

    def images(self, choice: Choice) -> float:
        """A second, of all chips together."""
        return choice.batch / self.seconds(choice)

    def learn(self, choice: Choice, report: Compiled) -> None:
        """Correct what follows by a compiled step, or by one that was refused."""
        needed = report.needed or 2 * self.chip.hbm  # refused, and not said by how much
        beyond = max(needed - self.fixed(choice.mesh), 0.0)
        network = self._network(choice)
        slow = report.kernels_time / self._kernels(choice)
        far = report.network_time / network if network else 0.0
        self.seen.append(_Seen(choice, beyond, slow, far))

    @cached_property
    def _copies(self) -> float:
        """What lives on, in units of the parameters: with moments and an average, 4."""
        state = abstract_state(self.recipe)
        parts = (sum(map(_bytes, jax.tree.leaves(t))) for t in (state, state.params))
        whole, params = parts
        return whole / params

    @cached_property
    def _leaves(self) -> list[tuple[str, Any]]:
        shapes = abstract_state(self.recipe).params
        leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
        keystr = jax.tree_util.keystr
        return [(keystr(at, simple=True, separator="/"), leaf) for at, leaf in leaves]

    @cached_property
    def _forward(self) -> float:
        return forward_flops(self.recipe)

    def _rows(self, choice: Choice) -> float:
        """Bytes of what the backward pass reads, and of one layer's work."""
        stream, rest = self.kept(choice.remat)
        mesh = choice.mesh
        return choice.rows * (stream + rest / mesh.tensor) / mesh.sequence

    def kept(self, remat: Remat | None) -> tuple[float, float]:
        """Bytes an example: of streams between layers, and the rest, which `tensor`
        splits."""
        if remat not in self._kept:
            depth = sum(stage.depth for stage in self.recipe.model.stages)
            all_, stream = self._residuals("none"), self._residuals("block")
            layer = (all_ - stream) / depth
            mine = all_ if remat is None else self._residuals(remat)
            if remat == "offload":
                stream = mine
            self._kept[remat] = (stream, max(mine - stream, 0.0) + layer)
        return self._kept[remat]

    def _residuals(self, remat: Remat) -> float:
        """Bytes that the backward pass reads on a device, an example."""
        model = self.recipe.model
        if hasattr(model, "remat"):
            model = replace(model, remat=remat)
        recipe = replace(self.recipe, model=model)
        operated, training = model_of(recipe), recipe.training
        params, key = abstract_state(recipe).params, jax.random.key(0)

        def size(count: int) -> int:
            x_0 = jax.ShapeDtypeStruct((count, *model.sample_shape), jnp.float32)
            batch = {"x_0": x_0, **conditions(recipe, count)}

            def residuals(params: Any, batch: Any) -> Any:
                def objective(part: Any) -> Any:
                    return loss_of(recipe, operated, params)(part, key, batch)[0]

                return jax.vjp(objective, trained(training, params))[1]

            found = jax.make_jaxpr(residuals)(params, batch).out_avals
            host = jax.memory.Space.Host
            return sum(_bytes(x) for x in found if _space(x) != host)

        return float(size(2) - size(1))

    def _kernels(self, choice: Choice) -> float:
        chip = self.chip
        runs = RUNS[choice.remat or "none"]
        products = runs * self._forward * choice.batch / self.chips
        params = self.params(choice.mesh)
        state = 2 * (self._copies + 1) * params + 3 * (choice.micro - 1) * params
        return products / (BUSY * chip.flops) + state / chip.hbm_rate

    def _network(self, choice: Choice) -> float:
        """Gradients over `data`; weights and gradients over `fsdp`, sums over `tensor`
        and queries, keys, values and results over `sequence` in each micro-batch; by
        two links. Among slices, each chip sends its part of the sums within its own."""
        mesh, rate = choice.mesh, 2 * self.chip.link_rate
        own = self.params(mesh)
        whole = self.params(replace(mesh, data=mesh.data * mesh.fsdp, fsdp=1))
        low = 0.5 if getattr(self.recipe.model, "dtype", "") == "bfloat16" else 1.0
        same = mesh.data * mesh.sequence  # chips that hold the same parameters
        sent = 2 * own * (same - 1) / same
        split = (whole - own) * (mesh.fsdp > 1)
        sent += choice.micro * split * (2 * low + 1)
        stream = self.kept("block")[0] * choice.rows / mesh.sequence
        again = 1.0 if choice.remat in (None, "none", "dots") else 1.5
        share = 8 * (mesh.tensor - 1) / mesh.tensor
        share += 8 * (mesh.sequence - 1) / mesh.sequence
        sent += choice.micro * again * share * stream
        seconds = sent / rate
        if self.slices > 1 and self.chip.dcn_rate:
            part = own / (same / self.slices)
            among = 2 * part * (self.slices - 1) / self.slices
            seconds += among / self.chip.dcn_rate
        return seconds


def _kind(choice: Choice) -> tuple[bool, ...]:
    mesh = choice.mesh
    return mesh.fsdp > 1, mesh.tensor > 1, mesh.sequence > 1


def _alike(one: Choice, other: Choice) -> bool:
    """Whether memory of one tells of the other."""
    mine, its = one.mesh, other.mesh
    same = mine.tensor == its.tensor and mine.sequence == its.sequence
    return one.remat == other.remat and same


def _space(aval: Any) -> Any:
    return getattr(aval, "memory_space", None)


def _bytes(leaf: Any) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8 * leaf.size
    return leaf.size * leaf.dtype.itemsize
