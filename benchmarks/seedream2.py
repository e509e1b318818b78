# SPDX-License-Identifier: Apache-2.0
"""What two parts of Seedream 2.0 are for, measured on real handwritten digits.

    python benchmarks/seedream2.py sizes      # the scaled rotary geometry
    python benchmarks/seedream2.py buckets    # the same, trained on several shapes
    python benchmarks/seedream2.py words      # glyphs beside words

sizes: a small MM-DiT with normalised queries and keys is trained on digits enlarged to
12 x 12 and draws digits in shapes that it was not trained at, with image tokens at
their rows and columns (`Axes`), and with `Centred`. On the trained shape the two are
one geometry, so that one training serves both. Of other shapes than square, the image
is the digit at the shorter side, in the middle of blank paper. buckets: one model of
each geometry, trained on 12 x 12, 10 x 14 and 14 x 10.

words: numbers of two digits on 8 x 16. A model is told the number as one word, a vector
of its own, as a language model knows words; another is told the two bytes besides, as
`GlyphMMDiT` takes them. Vectors are random: neither encoder's weights are here, and
ByT5's part is to spell. A fifth of the numbers is never seen in training.

Measured on what is drawn: the share that is read as what was asked for, where the
reader is the nearest training image (98% of the held-out digits are read right), and
the Frechet distance of pixels from the held-out digits, both at the digits' own 8 x 8.
"""

import argparse
import time as clock
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from jdit.conditioning import Text
from jdit.data import Digits
from jdit.evals import Statistics, frechet_distance
from jdit.models.glyph_mmdit import GlyphMMDiT, TextAndGlyphs
from jdit.models.mmdit import MMDiT
from jdit.objectives import Denoising, LogitNormal, loss
from jdit.processes import Gaussian
from jdit.sample import sample
from jdit.solvers import Euler
from jdit.tokens.rotary_geometries import Axes, Centred

PROCESS = Gaussian()
SIZE: dict[str, Any] = dict(
    channels=1, patch=2, dim=64, depth=4, heads=2, max_size=16, qk_norm=True
)
BUCKETS = ((12, 12), (10, 14), (14, 10))
SHAPES = ((12, 12), (8, 8), (16, 16), (20, 20), (24, 24), (12, 16), (18, 8), (24, 16))


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    columns = Digits(split).source().columns
    return np.asarray(columns["x_0"]), np.asarray(columns["label"])


def framed(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Digits at the shorter side of a shape, on blank paper of that shape."""
    side = min(shape)
    x = np.asarray(jax.image.resize(x, (len(x), side, side, 1), "cubic"))
    margin = [(n - side) // 2 for n in shape]
    pads = [(m, n - side - m) for m, n in zip(margin, shape, strict=True)]
    return np.pad(np.clip(x, -1, 1), ((0, 0), *pads, (0, 0)), constant_values=-1.0)


def unframed(x: np.ndarray) -> np.ndarray:
    """The inverse of `framed`: the middle square, 8 x 8."""
    side = min(x.shape[1:3])
    top, left = ((n - side) // 2 for n in x.shape[1:3])
    x = x[:, top : top + side, left : left + side]
    return np.asarray(jax.image.resize(x, (len(x), 8, 8, 1), "linear"))


def read(x: np.ndarray) -> np.ndarray:
    """The label of the nearest training image."""
    known, labels = digits("train")
    known, x = known.reshape(len(known), -1), np.clip(x, -1, 1).reshape(len(x), -1)
    far = (known**2).sum(1) - 2 * x @ known.T
    return labels[far.argmin(1)]


def distance(x: np.ndarray) -> float:
    """Frechet distance of pixels from the held-out digits."""
    real = Statistics.of(digits("test")[0].reshape(-1, 64))
    return frechet_distance(Statistics.of(np.clip(x, -1, 1).reshape(-1, 64)), real)


def train(
    models: list[Any], batches: Iterator[tuple[int, Any]], steps: int, name: str
) -> Any:
    """Averaged parameters of one network; a batch is for one of its shapes."""
    start = clock.time()
    params = jax.jit(models[0].init)(jax.random.key(0))
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, steps // 10, steps)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, 0.9, 0.99))
    objective = Denoising(times=LogitNormal())

    @partial(jax.jit, static_argnums=0)
    def step(which: int, params: Any, held: Any, key: Any, batch: Any) -> Any:
        def mean(params: Any) -> Any:
            return loss(
                key,
                models[which],
                params,
                batch,
                process=PROCESS,
                objective=objective,
            )[0]

        value, grads = jax.value_and_grad(mean)(params)
        state, average = held
        change, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, change)
        average = optax.incremental_update(params, average, 0.01)
        return params, (state, average), value

    held, recent = (jax.jit(rule.init)(params), params), []
    for i in range(steps):
        which, batch = next(batches)
        key = jax.random.fold_in(jax.random.key(1), i)
        params, held, value = step(which, params, held, key, batch)
        recent.append(value)
    last = float(np.mean(recent[-100:]))
    print(f"{name}: loss {last:.4f}, {clock.time() - start:.0f} s", flush=True)
    return held[1]


def draw(model: Any, params: Any, conditions: Any) -> np.ndarray:
    run = jax.jit(
        lambda params, conditions: sample(
            jax.random.key(2),
            model,
            params,
            conditions,
            process=PROCESS,
            steps=16,
            solver=Euler(),
        )
    )
    return np.asarray(run(params, conditions))


def told(labels: np.ndarray) -> dict[str, np.ndarray]:
    """A digit's label as one token of text, and pooled."""
    one = np.eye(10, dtype=np.float32)[labels]
    return {"text": one[:, None], "pooled": one}


def sizes(args: argparse.Namespace) -> None:
    x, labels = digits("train")
    plain, centred = Axes((16, 16)), Centred((16, 16), (6, 6))
    conditioning = Text(10, 10)

    def model(shape: tuple[int, int], rotary: Any) -> MMDiT:
        return MMDiT(grid=shape, rotary=rotary, conditioning=conditioning, **SIZE)

    def batches(shapes: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, Any]]:
        rng, all_shapes = np.random.default_rng(0), [framed(x, s) for s in shapes]
        while True:
            which, rows = rng.integers(len(shapes)), rng.integers(len(x), size=32)
            yield int(which), {"x_0": all_shapes[which][rows]} | told(labels[rows])

    def trained(shapes: tuple[tuple[int, int], ...], rotary: Any, name: str) -> Any:
        models = [model(shape, rotary) for shape in shapes]
        return train(models, batches(shapes), args.steps, name)

    if args.part == "sizes":
        one = trained(BUCKETS[:1], plain, "one shape")
        ways = {"plain": (plain, one), "scaled": (centred, one)}
    else:
        ways = {
            "plain": (plain, trained(BUCKETS, plain, "plain")),
            "scaled": (centred, trained(BUCKETS, centred, "scaled")),
        }
    real, true = digits("test")
    print(f"held-out digits: read {(read(real) == true).mean():.3f}; floor", end=" ")
    print(f"{distance(x):.2f} (training digits)\n| shape | " + " | ".join(ways) + " |")
    print("|" + "---|" * (len(ways) + 1))
    asked = np.arange(args.count) % 10
    for shape in SHAPES:
        cells = []
        for rotary, params in ways.values():
            drawn = unframed(draw(model(shape, rotary), params, told(asked)))
            right = (read(drawn) == asked).mean()
            cells.append(f"{right:.3f}, {distance(drawn):.1f}")
        print(f"| {shape[0]} x {shape[1]} | " + " | ".join(cells) + " |", flush=True)


def words(args: argparse.Namespace) -> None:
    x, labels = digits("train")
    rng = np.random.default_rng(0)
    word, byte = (rng.normal(size=(n, 32)).astype(np.float32) for n in (100, 10))
    every = np.arange(100)
    unseen = (every // 10 + 3 * (every % 10)) % 5 == 0
    model = GlyphMMDiT(
        grid=(8, 16),
        rotary=Centred((16, 16), (4, 8)),
        conditioning=TextAndGlyphs(32, 1, second_features=32),
        text_tokens=3,
        **SIZE,
    )
    places = [np.flatnonzero(labels == digit) for digit in range(10)]

    def conditions(numbers: np.ndarray, spelt: bool) -> dict[str, np.ndarray]:
        two = np.stack([numbers // 10, numbers % 10], 1)
        return {
            "text": word[numbers][:, None],
            "pooled": np.zeros((len(numbers), 1), np.float32),
            "second_text": byte[two],
            "second_mask": np.full(two.shape, spelt),
        }

    def batches(spelt: bool) -> Iterator[tuple[int, Any]]:
        rng = np.random.default_rng(1)
        while True:
            numbers = rng.choice(every[~unseen], 32)
            halves = [
                x[[rng.choice(places[digit]) for digit in half]]
                for half in (numbers // 10, numbers % 10)
            ]
            yield 0, {"x_0": np.concatenate(halves, 2)} | conditions(numbers, spelt)

    print("| told | numbers | both digits right | a digit right |\n|---|---|---|---|")
    for name, spelt in (("words", False), ("words and glyphs", True)):
        params = train([model], batches(spelt), args.steps, name)
        for kind, chosen in (("trained", ~unseen), ("unseen", unseen)):
            numbers = np.resize(every[chosen], args.count)
            drawn = draw(model, params, conditions(numbers, spelt))
            tens, units = (read(half) for half in np.split(drawn, 2, 2))
            right = np.stack([tens == numbers // 10, units == numbers % 10])
            print(f"| {name} | {kind} | {right.all(0).mean():.3f} |", end=" ")
            print(f"{right.mean():.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("sizes", "buckets", "words"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--count", type=int, default=200, help="images for a score")
    args = parser.parse_args()
    (words if args.part == "words" else sizes)(args)


if __name__ == "__main__":
    main()
