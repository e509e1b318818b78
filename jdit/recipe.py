# SPDX-License-Identifier: Apache-2.0
"""A recipe: the parts of one system and how it is trained, in one frozen object."""

import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Protocol

import jax.numpy as jnp
import tyro

from jdit.guidance import CFG
from jdit.objectives import Denoising
from jdit.parallel import Mesh, Rules
from jdit.processes import Gaussian
from jdit.solvers import Euler, Uniform
from jdit.typing import Array, Float

Part = Any
"""A frozen dataclass of some axis. `Any`, because the command line narrows it to the
class of the recipe's own part, so that the part's fields can be set by their path."""


class Schedule(Protocol):
    """The learning rate's factor over the share of training done after warm-up."""

    def __call__(self, progress: Float[Array, ""]) -> Float[Array, ""]: ...


@dataclass(frozen=True)
class Constant:
    """Factor 1 throughout, as DiT and SiT train."""

    def __call__(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(progress)


@dataclass(frozen=True)
class Cosine:
    """From 1 to `final` along half a cosine (Loshchilov and Hutter, 2017, eq. 5)."""

    final: float = 0.0
    """Factor at the last step."""

    def __call__(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return self.final + (1 - self.final) * (1 + jnp.cos(jnp.pi * progress)) / 2


@dataclass(frozen=True)
class Cooldown:
    """1, then linearly to 0 over the last `share` (Hägele et al., 2024, section 3)."""

    share: float = 0.2
    """Share of the training that cools down."""

    def __call__(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.minimum(1.0, (1 - progress) / self.share)


def _at_least(part: Any, name: str, least: int, where: str = "training") -> None:
    value = getattr(part, name)
    if value < least:
        raise ValueError(f"{where}.{name} is {value}, but it must be at least {least}")


@dataclass(frozen=True)
class Training:
    """How the parameters are found: AdamW, its schedule, averages, and the log."""

    steps: int = 10_000
    """Optimizer steps of the whole run."""
    batch: int = 64
    """Examples per optimizer step, over all processes and micro-batches."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW (DiT: 1e-4)."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly to its peak."""
    schedule: Part = Constant()
    """The learning rate's factor after the warm-up: Constant, Cosine or Cooldown."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and the second moment."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay; applied to kernels only (DiT: 0)."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    accumulate: int = 1
    """Micro-batches a batch is split into, to save memory; must divide `batch`."""
    ema: tuple[float, ...] = (0.9999,)
    """Decay rates of the averages of the parameters that are kept."""
    ema_warmup: bool = True
    """Use at most (1 + step) / (10 + step), so that short runs forget their start."""
    ema_sampled: int = 0
    """Index into `ema` of the average that is sampled, exported and evaluated."""
    seed: int = 0
    """Seed of the parameters, the noise and the order of the data."""
    flip: bool = False
    """Mirror each image left to right with probability one half."""
    log_every: int = 100
    """Steps between records of the metrics, which are averages over those steps."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    start: str = ""
    """A trained model to go on from (see `jdit.load`), or "" to start from scratch."""
    keep: int = 2
    """Latest checkpoints to keep, besides the one of the lowest loss."""
    trainable: tuple[str, ...] = ()
    """Regular expressions searched in paths ("blocks/mlp/in/kernel"): parameters that
    none is found in are frozen, with no gradient, moments or averages. () trains all;
    "kernel/[ab]$" trains the factors of LoRA."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "checkpoint_every"):
            _at_least(self, name, 1)
        for name in ("warmup", "keep"):
            _at_least(self, name, 1 if name == "keep" else 0)
        if self.batch % self.accumulate:
            raise ValueError(
                f"training.accumulate is {self.accumulate}, which does not divide "
                f"training.batch {self.batch}"
            )
        if not all(0 <= decay < 1 for decay in self.ema):
            raise ValueError(
                f"training.ema is {self.ema}, but each decay must be in [0, 1)"
            )
        if self.ema and not 0 <= self.ema_sampled < len(self.ema):
            raise ValueError(
                f"training.ema_sampled is {self.ema_sampled}, but training.ema has "
                f"{len(self.ema)} decays, counted from 0"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"training.clip is {self.clip}, but it must be above 0, or None"
            )
        for pattern in self.trainable:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"training.trainable has the pattern {pattern!r}, which is no "
                    f"regular expression: {error}"
                ) from error


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn after training."""

    solver: Part = Euler()
    """How the reverse process is integrated."""
    grid: Part = Uniform()
    """The times at which it is evaluated."""
    steps: int = 50
    """Steps of the solver."""
    guidance: Part = CFG(4.0)
    """A wrapper of the denoiser, such as CFG, or None."""
    policy: Part = None
    """Which branches are computed at which step, such as Reuse; None computes all."""
    per_class: int = 8
    """Images per class in the sample grid."""
    batch: int = 250
    """Images drawn at once."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self) -> None:
        for name in ("steps", "per_class", "batch"):
            _at_least(self, name, 1, "sampling")


@dataclass(frozen=True)
class Recipe:
    """What one system is made of. `dataclasses.replace` makes a variant."""

    name: str
    """Name of the run, and of its folder."""
    model: Part
    """The network."""
    data: Part
    """The data set."""
    process: Part = Gaussian()
    """How data becomes noise, and what is predicted."""
    objective: Part = Denoising()
    """What is minimised."""
    surgery: Part = None
    """What is done to the model before it is trained, such as LoRA, or None."""
    training: Training = Training()
    """How the parameters are found."""
    sampling: Sampling = Sampling()
    """How samples are drawn."""
    evaluation: Part = None
    """Scores what is drawn, as `jdit.evals.Evaluation` does, or None."""
    mesh: Mesh = Mesh()
    """How many devices each axis of parallelism has."""
    sharding: Rules = Rules()
    """What the mesh's axes split, by rules over the parameters' paths."""
    source: Annotated[str, tyro.conf.Suppress] = field(
        default="", repr=False, compare=False
    )
    """The text of the file this recipe was read from, kept in checkpoints."""


def load_recipe(name: str) -> Recipe:
    """The recipe of a Python file or module that has a function `recipe()`.

    name: a path ending in ".py", a module ("package.module"), or the short name of a
        module in `experiments` ("digits"). Its source is kept in `Recipe.source`.

    This runs the file's Python, as importing it would. Raises FileNotFoundError or
    ModuleNotFoundError when there is none, ImportError when it has no `recipe()`, and
    TypeError when that returns something else.
    """
    module = _module_at(Path(name)) if name.endswith(".py") else _module_named(name)
    make = getattr(module, "recipe", None)
    if not callable(make):
        raise ImportError(f"{name} has no function recipe(): define one in it")
    recipe = make()
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe() of {name} returned {type(recipe).__name__}, but it must return "
            "a jdit.recipe.Recipe"
        )
    file = module.__file__
    return replace(recipe, source=Path(file).read_text("utf-8") if file else "")


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: name a recipe's Python file")
    name = path.stem
    installed = Path(importlib.import_module("experiments").__path__[0])
    if path.resolve().parent == installed.resolve():
        return importlib.import_module(f"experiments.{name}")
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _module_named(name: str) -> ModuleType:
    full = name if "." in name else f"experiments.{name}"
    try:
        found = importlib.util.find_spec(full)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ModuleNotFoundError(
            f"there is no recipe {name!r}: no module {full} (a path must end in .py)"
        )
    return importlib.import_module(full)
