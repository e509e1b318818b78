# SPDX-License-Identifier: Apache-2.0
"""What a compiled program needs and at best reaches: the compiler's figures, a model.

The compiler says what lies in memory and which operations run. Time is a model: the
roofline (Williams et al., 2009) of the chip's published rates.
"""

import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

import jax

from jdit.compile.hlo import parse
from jdit.compile.kernels import Collective, Kernel, kernels
from jdit.compile.programs import What, Work, work
from jdit.compile.topology import Topology, topology
from jdit.ops.platform import compiling_for
from jdit.recipe import Recipe
from jdit.train.memory import held

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip, as the compiler allocates them.

    aliased: of the outputs, those that take the place of arguments. host: temporaries
    in the host's memory. peak: the compiler's, or without one the sum.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    host: int
    peak: int

    @property
    def total(self) -> int:
        """All that is allocated."""
        return (
            self.arguments + self.outputs - self.aliased + self.temporaries + self.code
        )


@dataclass(frozen=True)
class Refusal:
    """What the compiler said where a program does not fit. Bytes, 0 where unsaid.

    message: "" where parameters and what goes with them are too large by themselves, so
    that nothing was compiled.
    """

    needed: float
    limit: float
    message: str


@dataclass(frozen=True)
class Exchange:
    """All collectives of one kind among groups of one size.

    slices: among so many slices of TPUs, over the network of the data centre. bytes,
    sent: of one chip (see `kernels.Collective`); seconds: by the links' rates.
    """

    kind: str
    size: int
    slices: bool
    count: float
    bytes: float
    sent: float
    seconds: float


@dataclass(frozen=True)
class Report:
    """A program on a topology. Times are in seconds, and 0 where rates are unknown."""

    recipe: Recipe
    what: What
    where: Topology
    work: Work
    compiled_in: float
    memory: Memory | None = None
    refusal: Refusal | None = None
    kernels: list[Kernel] = field(default_factory=list)
    program_flops: float = 0.0

    @property
    def chips(self) -> int:
        return len(self.where.devices)

    @property
    def state(self) -> int:
        """Bytes on one chip of what lives on: parameters, moments, averages."""
        return held(self.work.state)

    @cached_property
    def flops(self) -> float:
        """Of one chip's matrix products, as compiled."""
        return sum(k.flops * k.times for k in self.kernels)

    @cached_property
    def traffic(self) -> float:
        """Bytes that one chip's kernels read and write in its main memory."""
        return sum(k.bytes * k.times for k in self.kernels)

    @cached_property
    def exchanges(self) -> list[Exchange]:
        sums: dict[tuple[str, int, bool], dict[str, float]] = defaultdict(
            lambda: {"count": 0.0, "bytes": 0.0, "sent": 0.0, "seconds": 0.0}
        )
        for kernel in self.kernels:
            for one in kernel.collectives:
                total = sums[one.kind, one.group.size, one.slices]
                rate = self._rate(one)
                total["count"] += kernel.times
                total["bytes"] += one.bytes * kernel.times
                total["sent"] += one.sent * kernel.times
                total["seconds"] += one.sent * kernel.times / rate if rate else 0.0
        rows = [Exchange(*key, *total.values()) for key, total in sums.items()]
        return sorted(rows, key=lambda row: -row.sent)

    def _rate(self, one: Collective) -> float:
        if one.slices:
            return self.where.chip.dcn_rate if self.where.chip else 0.0
        return self.where.rate(one.group, self.work.devices)

    @property
    def compute_time(self) -> float:
        return self.flops / self.where.chip.flops if self.where.chip else 0.0

    @property
    def memory_time(self) -> float:
        return self.traffic / self.where.chip.hbm_rate if self.where.chip else 0.0

    @property
    def network_time(self) -> float:
        return sum(row.seconds for row in self.exchanges)

    @property
    def bound(self) -> float:
        """No step is faster: everything overlaps, and the slowest of the three runs."""
        return max(self.compute_time, self.memory_time, self.network_time)

    @cached_property
    def serial(self) -> float:
        """Each kernel at its own roofline, one after another, exchanges after them.

        Copies run beside kernels. What the vector units do is in no roofline.
        """
        chip = self.where.chip
        if chip is None:
            return 0.0
        alone = sum(
            k.times * max(k.flops / chip.flops, k.bytes / chip.hbm_rate)
            for k in self.kernels
            if not k.copy and (k.flops or not k.collectives)
        )
        return max(self.bound, alone + self.network_time)

    @cached_property
    def cycles_time(self) -> float:
        """The compiler's estimated cycles of its kernels, at the chip's clock."""
        clock = self.where.chip.clock if self.where.chip else 0.0
        cycles = sum(k.cycles * k.times for k in self.kernels)
        return cycles / clock if clock else 0.0

    @cached_property
    def kernels_time(self) -> float:
        """By the compiler's cycles, or a kernel's own roofline where it gives none."""
        chip, total = self.where.chip, 0.0
        if chip is None or not chip.clock:
            return max(self.serial - self.network_time, 0.0)
        for k in self.kernels:
            if k.cycles:
                total += k.times * k.cycles / chip.clock
            elif not k.copy and (k.flops or not k.collectives):
                total += k.times * max(k.flops / chip.flops, k.bytes / chip.hbm_rate)
        return total

    @property
    def estimate(self) -> float:
        """The most sober time of a step: its kernels, then the network."""
        return max(self.bound, self.kernels_time + self.network_time)

    @property
    def needed(self) -> float:
        """Bytes on one chip: allocated, or what was needed where that was refused."""
        if self.refusal is not None:
            return self.refusal.needed
        return float(self.memory.total) if self.memory else 0.0

    @property
    def dominant(self) -> str:
        times = {
            "compute": self.compute_time,
            "memory": self.memory_time,
            "network": self.network_time,
        }
        return max(times, key=lambda name: times[name])

    def images(self, seconds: float) -> float:
        """Images a second, of all chips together."""
        return self.work.images / seconds if seconds else 0.0

    def utilisation(self, seconds: float) -> float:
        """The model's FLOPs as a share of the chips' peak (MFU, PaLM, appendix B).

        At most 1: XLA's count of the model has what the matrix units do not do, too.
        """
        if not self.where.chip or not seconds:
            return 0.0
        peak = seconds * self.chips * self.where.chip.flops
        return min(1.0, self.work.model_flops / peak)


def compile_recipe(
    recipe: Recipe,
    where: str | Topology = "cpu",
    what: What = "train",
    count: bool = True,
) -> Report:
    """Compile a recipe's real program for a topology, and read the result.

    count: XLA's count of the traced program's FLOPs too, which takes some seconds.

    Raises ValueError for a mesh, a batch or a topology that does not fit, before it
    compiles. Too little memory is no error: see `Report.refusal`.
    """
    place = topology(where) if isinstance(where, str) else where
    job = work(recipe, what, place.devices)
    total, state = job.flops() if count else 0.0, held(job.state)
    if place.chip and place.platform == "tpu" and state > place.chip.hbm:
        alone = Refusal(state, place.chip.hbm, "")
        return Report(recipe, what, place, job, 0.0, refusal=alone, program_flops=total)
    begun = time.monotonic()
    with compiling_for(place.platform, len(place.devices)):
        lowered = job.function.trace(*job.arguments).lower(
            lowering_platforms=(place.platform,)
        )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = refused(str(error))
        if refusal is None:
            raise
        taken = time.monotonic() - begun
        return Report(
            recipe, what, place, job, taken, refusal=refusal, program_flops=total
        )
    taken = time.monotonic() - begun
    return Report(
        recipe,
        what,
        place,
        job,
        taken,
        memory=_memory(compiled),
        kernels=kernels(parse(compiled.as_text()), len(place.devices) // place.slices),
        program_flops=total,
    )


def _memory(compiled: jax.stages.Compiled) -> Memory | None:
    found = compiled.memory_analysis()
    if found is None:
        return None
    arguments, outputs = found.argument_size_in_bytes, found.output_size_in_bytes
    aliased, temporaries = found.alias_size_in_bytes, found.temp_size_in_bytes
    peak = getattr(found, "peak_memory_in_bytes", 0)
    return Memory(
        arguments=arguments,
        outputs=outputs,
        aliased=aliased,
        temporaries=temporaries,
        code=found.generated_code_size_in_bytes,
        host=found.host_temp_size_in_bytes + found.host_argument_size_in_bytes,
        peak=peak or arguments + outputs - aliased + temporaries,
    )


def refused(message: str) -> Refusal | None:
    """What a compiler's error says of memory, or None if it is of something else."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    number = r"(\d+(?:\.\d+)?)([KMGT]?)"
    for pattern in (
        rf"Used {number} of {number} hbm",
        rf"\({number}\) exceeds available HBM \({number}\)",
    ):
        if found := re.search(pattern, message):
            needed, unit, limit, other = found.groups()
            return Refusal(
                float(needed) * _UNITS[unit], float(limit) * _UNITS[other], message
            )
    return Refusal(0.0, 0.0, message)


def remedies(report: Report) -> list[str]:
    """What would make a refused program fit: estimates, to be compiled in turn.

    Parameters and what goes with them are known; the rest of the need is taken to grow
    with the examples on a chip.
    """
    refusal, recipe, state = report.refusal, report.recipe, report.state
    if refusal is None or not refusal.needed:
        return []
    room, found = 0.95 * refusal.limit, []
    whole = sum(
        leaf.size * getattr(leaf.dtype, "itemsize", 4)
        for leaf in jax.tree.leaves(report.work.state)
    )
    if state > 0.3 * room and state > 2 * whole / report.chips:
        found.append(
            f"--mesh.data 1 --mesh.fsdp {report.chips}: parameters, moments and "
            f"averages are {gib(state)} a chip, and split {gib(whole / report.chips)}"
        )
    if state >= room:
        return found or [
            f"more chips: {gib(state)} of parameters, moments and averages alone are "
            "more than a chip has"
        ]
    training, remat = recipe.training, getattr(recipe.model, "remat", None)
    if report.what == "train" and remat in ("none", "dots"):
        found.append(
            "--model.remat block: keeps only what passes between layers, and computes "
            "the rest again"
        )
    shrink = (refusal.needed - state) / (room - state)
    rows = training.batch if report.what == "train" else recipe.sampling.batch
    parts = report.chips
    mine = rows // parts
    if report.what == "train":
        now = training.accumulate
        ways = [n for n in range(now + 1, rows + 1) if not rows % (n * parts)]
        enough = next((n for n in ways if n >= now * shrink), None)
        if enough:
            found.append(
                f"--training.accumulate {enough}: {rows // (enough * parts)} examples "
                "on a chip at a time"
            )
    fewer = int(mine / shrink)
    if fewer >= 1 and fewer < mine:
        name = "training" if report.what == "train" else "sampling"
        found.append(f"--{name}.batch {fewer * parts}: {fewer} examples a chip")
    return found or ["more chips, or more of them for `fsdp` and `tensor` (--mesh)"]


def gib(size: float) -> str:
    """Bytes in GiB, for a person."""
    return f"{size / 2**30:.2f} GiB"
