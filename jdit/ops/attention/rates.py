# SPDX-License-Identifier: Apache-2.0
"""How fast attention is on a GPU: the table that `implementation=None` reads."""

from math import log2
from typing import NamedTuple


class Rate(NamedTuple):
    """TFLOP/s of a forward pass over so many queries and keys, in bfloat16."""

    tokens: int
    width: int
    rates: dict[str, float]


HOPPER = (
    Rate(1024, 64, {"cudnn": 463, "pallas_gpu": 289}),
    Rate(1024, 128, {"cudnn": 600, "pallas_gpu": 335}),
    Rate(4096, 64, {"cudnn": 536, "pallas_gpu": 313}),
    Rate(4096, 128, {"cudnn": 679, "pallas_gpu": 392}),
)
"""An H100, bidirectional, without masks; not measured here.

From the tuning data that tokamax publishes (github.com/openxla/tokamax, folder
`tokamax/data/autotuning/nvidia_h100_80gb_hbm3`). "pallas_gpu" is its kernel in the same
dialect as ours, Pallas's Triton one; ours has run on no GPU. No row has a head of 72 or
96, fewer than 1,024 tokens or a backward pass.
"""

VERIFIED: tuple[str, ...] = ("cudnn",)
"""What may be chosen. "pallas_gpu" joins it when its tests have passed on a GPU:
`pytest -m accelerator tests/ops`."""


def ranked(tokens: float, width: int) -> list[str]:
    """Those verified, the fastest first, by the row that is nearest in proportion."""

    def distance(row: Rate) -> float:
        return abs(log2(row.tokens / tokens)) + abs(log2(row.width / width))

    rates = min(HOPPER, key=distance).rates
    return sorted(set(VERIFIED) & set(rates), key=lambda name: -rates[name])
