# SPDX-License-Identifier: Apache-2.0
"""Flag-DiT and Next-DiT of ImageNet: told a class, without text."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdit.blocks.lumina import FlagBlock, PlainNextBlock
from jdit.conditioning import Labels
from jdit.models.lumina import FlagDiT, Merge, NextDiT, swiglu_multiple
from jdit.typing import Array, Conditions, Float, Key, Params

SIZES = {
    "600M": dict(dim=1536, depth=16),
    "2B": dict(dim=2304, depth=24),
    "3B": dict(dim=3072, depth=32),
    "7B": dict(dim=4096, depth=32),
}
"""Of the published scripts, all with 32 heads; 2B is Next-DiT's alone."""


class Labelled:
    """What replaces text: a table of class vectors, added to that of the time."""

    conditioning: Labels
    condition_width: int
    text_width = None
    marks = ()

    def row(self: Any) -> np.ndarray:
        return np.arange(self.tokens.count)

    def init_told(self, key: Key) -> Params:
        return {"label": self.conditioning.init(key, self.condition_width)}

    def tell(
        self, params: Params, conditions: Conditions
    ) -> tuple[Float[Array, "b d"], None, None]:
        label = self.conditioning.apply(params["label"], conditions)
        return jnp.asarray(label, jnp.float32), None, None


@dataclass(frozen=True)
class FlagDiTLabels(Labelled, FlagDiT):  # type: ignore[misc]
    """The class-conditional `FlagDiT`: tokens row by row, without [nextline].

    Conditions: "label" `b`. Fields, sign and clock as in `FlagDiT`; the published
    models generate latents of 32 x 32 and 64 x 64, whose read-out has an unused half.
    Source: Alpha-VLLM/Lumina-T2X 1c60696, Flag-DiT-ImageNet/models/model.py.
    """

    grid: tuple[int, ...] = (32, 32)
    conditioning: Labels = field(  # type: ignore[assignment]
        default_factory=lambda: Labels(1000)
    )


@dataclass(frozen=True)
class NextDiTLabels(Labelled, NextDiT):  # type: ignore[misc]
    """The class-conditional `NextDiT`, as `FlagDiTLabels`.

    Against `NextDiT`, the norms before the branches have no scale of their own, and the
    read-out has a shift.
    Source: Alpha-VLLM/Lumina-T2X 1c60696, Next-DiT-ImageNet/models/models.py.
    """

    grid: tuple[int, ...] = (32, 32)
    groups: int = 32
    conditioning: Labels = field(  # type: ignore[assignment]
        default_factory=lambda: Labels(1000)
    )

    modulations = FlagDiT.modulations
    final = FlagDiT.final

    @property
    def block(self) -> FlagBlock:
        pool = None
        if self.context_drop > 1:
            pool = Merge(self.tokens.shape, self.context_drop)
        return self._block(PlainNextBlock, pool=pool)


def flag_dit_labels(size: str = "600M", **changes: Any) -> FlagDiTLabels:
    """Flag-DiT of ImageNet: 600M, 3B or 7B (610 M, 4.24 B and 7.29 B parameters)."""
    return FlagDiTLabels(**_published(size, ("600M", "3B", "7B")) | changes)


def next_dit_labels(size: str = "600M", **changes: Any) -> NextDiTLabels:
    """Next-DiT of ImageNet: 600M, 2B, 3B or 7B (559 M to 7.03 B parameters)."""
    return NextDiTLabels(**_published(size, tuple(SIZES)) | changes)


def _published(size: str, known: tuple[str, ...]) -> dict[str, Any]:
    if size not in known:
        raise ValueError(f"size is {size!r}, but it must be one of {', '.join(known)}")
    sizes = SIZES[size]
    return sizes | dict(hidden=swiglu_multiple(sizes["dim"]), out_channels=8)
