# SPDX-License-Identifier: Apache-2.0
"""What `jdit compile` is asked."""

from dataclasses import dataclass
from typing import Literal

from jdit.recipe import Recipe
from jdit.stack import Remat


@dataclass(frozen=True)
class Search:
    """What `jdit compile --search` tries."""

    tries: int = 6
    """Steps compiled at most; all else is estimated."""
    remat: tuple[Remat, ...] = ("none", "dots", "block")
    """Remat policies. "offload", whose copies to the host are in no estimate of time,
    is tried where none of these fits."""
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Examples on a chip at a time."""
    tensor: int = 8
    """The widest `tensor` axis."""
    sequence: int = 1
    """The widest `sequence` axis: above 1 for long sequences of tokens."""
    hold: bool = False
    """Hold training.batch, and vary the micro-batches it is split into."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"search.tries is {self.tries}, but it must be at least 1")
        for name in ("tensor", "sequence"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"search.{name} is {getattr(self, name)}, but it must be at least 1"
                )
        if not self.rows or min(self.rows) < 1:
            raise ValueError(
                f"search.rows is {self.rows}, but it must be one or more numbers of "
                "examples, each at least 1"
            )
        if not self.remat:
            raise ValueError("search.remat is empty, but it must name a remat policy")


@dataclass(frozen=True)
class Compile(Recipe):
    """Compile a recipe's real program ahead and report what it needs; runs nothing."""

    topology: str = "cpu"
    """A slice of TPUs, such as v5e:16x16 (v4, v5e, v5p, v6e; needs the extra "tpu"), or
    2xv5e:16x16 for two of them; cpu or gpu for the devices here."""
    what: Literal["train", "sample"] = "train"
    """The training step, or the drawing of one batch of samples."""
    search: Search = Search()
    """With --search: compile some meshes, remat policies and batches, and rank them."""
