# SPDX-License-Identifier: Apache-2.0
"""A recipe small enough to be trained in a test; also run as a program, to be killed.

python tiny.py FOLDER [--steps N] [--die-at STEP]
"""

import argparse
import os
import signal
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jdit.conditioning import Labels
from jdit.data import ArraySource
from jdit.models import DiT
from jdit.recipe import Cosine, Recipe, Sampling, Training


@dataclass(frozen=True)
class Blobs:
    """48 images of random numbers in 3 classes."""

    sample_shape: tuple[int, ...] = (4, 4, 1)
    classes: tuple[str, ...] = ("a", "b", "c")

    def source(self) -> ArraySource:
        x = np.random.default_rng(0).uniform(-1, 1, (48, 4, 4, 1)).astype(np.float32)
        return ArraySource(
            repr(self), {"x_0": x, "label": np.arange(48, dtype="i4") % 3}
        )


def tiny(**training: Any) -> Recipe:
    model = DiT(
        grid=(4, 4), channels=1, dim=32, depth=2, heads=2, conditioning=Labels(3)
    )
    defaults = Training(
        steps=6,
        batch=8,
        learning_rate=1e-2,
        warmup=2,
        schedule=Cosine(),
        ema=(0.9, 0.1),
        flip=True,
        log_every=2,
        checkpoint_every=3,
    )
    return Recipe(
        name="tiny",
        model=model,
        data=Blobs(),
        training=replace(defaults, **training),
        sampling=Sampling(steps=2, per_class=2, batch=6),
    )


@dataclass(frozen=True)
class Means:
    """An evaluation: the mean of each of 7 images, of batches that nothing divides."""

    def __call__(self, draw: Any, folder: Any = None) -> dict[str, float]:
        labels = np.arange(7) % 3
        parts = [draw(3, labels[:5], 0), draw(3, labels[5:], 5)]
        means = np.concatenate(parts).mean((1, 2, 3))
        return {f"image {i}": float(mean) for i, mean in enumerate(means)}


class Hooked:
    """Batches, with something done just before one of them is read."""

    def __init__(self, inner: Any, at: int, act: Any):
        self.inner, self.at, self.act = inner, at, act

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        batch = next(self.inner)
        number = self.inner.get_state()["next_index"] - 1
        return self.act(batch) if number == self.at else batch

    def get_state(self) -> Any:
        return self.inner.get_state()

    def set_state(self, state: Any) -> None:
        self.inner.set_state(state)


def main() -> None:
    from jdit.checkpoint import named
    from jdit.train import batches_of, fit

    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--die-at", type=int, default=-1)
    options = parser.parse_args()
    recipe = tiny(steps=options.steps, checkpoint_every=4, log_every=5)

    def die(batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    batches = Hooked(batches_of(recipe), options.die_at, die)
    result = fit(
        recipe, options.folder, resume=True, batches=batches, tensorboard=False
    )
    print(f"done={result.done}")
    arrays = named(result.state.replace(key=jax.random.key_data(result.state.key)))
    np.savez(
        f"{options.folder}/final.npz", **{k: np.asarray(v) for k, v in arrays.items()}
    )


if __name__ == "__main__":
    main()
