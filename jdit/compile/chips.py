# SPDX-License-Identifier: Apache-2.0
"""What a chip can do, as its maker publishes it."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published rates of one chip, per second; none of them was measured here.

    flops: bfloat16 with float32 sums. hbm: bytes that a program may use. hbm_rate:
    bytes. link_rate: bytes in one direction over one link. axes: dimensions of the
    torus, with two links each, or 0 for a switch with one link. wrap: from which
    length on an axis is closed to a ring; where `cube` all of them must reach it, as
    multiples of it. clock: of the matrix units, or 0. dcn_rate: bytes in one direction
    to chips of other slices, over the network of the data centre, or 0.
    """

    name: str
    flops: float
    hbm: float
    hbm_rate: float
    link_rate: float
    axes: int
    wrap: int = 0
    cube: bool = False
    clock: float = 0.0
    dcn_rate: float = 0.0

    def rings(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice of this shape are closed to rings."""
        if self.cube:
            return (all(n % self.wrap == 0 for n in shape),) * len(shape)
        return tuple(n == self.wrap for n in shape)


CHIPS = {
    "v4": Chip(
        "TPU v4", 275e12, 30.75 * GIB, 1228e9, 50e9, 3, wrap=4, cube=True, clock=1.05e9
    ),
    "v5e": Chip(
        "TPU v5e", 197e12, 15.75 * GIB, 819e9, 50e9, 2, 16, False, 1.503e9, 3.125e9
    ),
    "v5p": Chip(
        "TPU v5p", 459e12, 95.74 * GIB, 2765e9, 100e9, 3, 4, True, 1.751e9, 6.25e9
    ),
    "v6e": Chip(
        "TPU v6e", 918e12, 31.25 * GIB, 1640e9, 100e9, 2, 16, False, 1.751e9, 12.5e9
    ),
}
"""TPUs by the name of their topologies.

Compute, HBM rate and interconnect: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, tables
of chip specifications. There v5e has 1,600 Gbit/s of interconnect and v6e 3,200 over 4
links (an older version of that page says 3,584), v4 2,400 and v5p 4,800 over 6. Rings:
the same pages; v5e and v6e close an axis of 16 chips, v4 and v5p slices of whole cubes
of 4 x 4 x 4. Between slices: 6.4 Tbit/s for a pod of 256 chips of v5e and 25.6 of v6e
(the v6e page), 50 Gbit/s a chip of v5p; v4's page is silent. `hbm` is what libtpu's
compiler says is available when it refuses. `clock` follows from the peak: products a
second over those of all matrix units in a cycle.
"""

GPUS = {
    "A100": Chip("NVIDIA A100", 312e12, 80e9, 2039e9, 300e9, 0),
    "H100": Chip("NVIDIA H100", 989e12, 80e9, 3350e9, 450e9, 0),
    "H200": Chip("NVIDIA H200", 989e12, 141e9, 4800e9, 450e9, 0),
}
"""GPUs by a word of their device's name: NVIDIA's data sheets of the SXM cards, dense
bfloat16, half of NVLink's two-way rate."""


def chip_of(kind: str) -> Chip | None:
    """The chip of a device kind that JAX reports, such as "TPU v5 lite", if known."""
    tpus = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
    if kind in tpus:
        return CHIPS[tpus[kind]]
    return next((chip for word, chip in GPUS.items() if word in kind), None)
