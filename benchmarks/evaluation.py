# SPDX-License-Identifier: Apache-2.0
"""50,000 images of 256 x 256 through all of `jdit eval`: how fast, in how much memory.

    python benchmarks/evaluation.py                 # half an hour on two cores
    python benchmarks/evaluation.py --moments       # without precision, recall, KID
    python benchmarks/evaluation.py --folder F      # kept there: stopped, it goes on

The images and the feature net are stand-ins, which cost next to nothing and have the
real ones' sizes: 2,048 pooled features, 2,023 spatial ones, 1,008 classes. All else is
what runs behind the command: the stream, the resize to 299, moments, features kept for
precision, recall, KID, density and coverage, states on the disk. The real InceptionV3,
of random weights, is timed alone, on a few images.
"""

import argparse
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdit import score
from jdit.encoders.inception import InceptionFeatures, InceptionV3
from jdit.evals import InceptionPool, Statistics, TensorFlowResize, frechet_distance
from jdit.evals.against import Against
from jdit.evals.fid_features import as_bytes
from jdit.interop.inception import save_inception

WIDTHS = (2048, 2023, 1008)
CELLS = 16


@dataclass(frozen=True)
class Stream:
    """Image i of noise about a colour of its own; of a reference, a little brighter."""

    count: int
    brighter: int = 0
    shape: tuple[int, ...] = (256, 256, 3)

    def image(self, index: int) -> np.ndarray:
        generator = np.random.default_rng([self.brighter, index])
        colour = generator.integers(0, 160, (CELLS, CELLS, 3), np.uint8)
        side = self.shape[0] // CELLS
        noise = generator.integers(0, 64, self.shape, np.uint8)
        return colour.repeat(side, 0).repeat(side, 1) + noise + np.uint8(self.brighter)

    def stream(self, start: int, batch: int) -> Iterator[np.ndarray]:
        for first in range(start, self.count, batch):
            last = min(first + batch, self.count)
            yield np.stack([self.image(i) for i in range(first, last)])


class StandIn:
    """Random directions of mean colours of 16 by 16 cells, in Inception's widths."""

    resize = TensorFlowResize()
    params = {
        "kernel": np.random.default_rng(0)
        .normal(size=(3 * CELLS**2, sum(WIDTHS)))
        .astype(np.float32)
    }

    def all(self, images: Any) -> InceptionFeatures:
        pixels = self.resize(as_bytes(images))
        side = pixels.shape[1] // CELLS
        cells = pixels[:, : CELLS * side, : CELLS * side].reshape(
            len(pixels), CELLS, side, CELLS, side, 3
        )
        values = cells.mean((2, 4)).reshape(len(pixels), -1) / 128 - 1
        y = np.tanh(values @ self.params["kernel"] / 8)
        return InceptionFeatures(*np.split(y, np.cumsum(WIDTHS)[:2], 1))


def write_reference(path: Path, count: int, moments: bool) -> None:
    """An .npz as ADM's are: moments of a whole set, or images, never held at once."""
    if moments:
        rng = np.random.default_rng(7)
        sets = [
            Statistics.of(rng.normal(size=(3 * width, width))).fields(suffix)
            for width, suffix in zip(WIDTHS, ("", "_s"), strict=False)
        ]
        np.savez(path, **sets[0], **sets[1])
        return
    real, member = Stream(count, brighter=16), path.with_name("arr_0.npy")
    shape = (count, *real.shape)
    images = np.lib.format.open_memmap(member, "w+", np.uint8, shape)
    for i in range(count):
        images[i] = real.image(i)
    del images
    with zipfile.ZipFile(path, "w") as file:
        file.write(member, member.name)
    member.unlink()


def resident() -> float:
    """GiB of this process, at its highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def inception_rate(folder: Path, count: int, batch: int = 32) -> float:
    """Images a second of the real network and its resize, compiled before."""
    model = InceptionV3()
    params = jax.jit(model.init)(jax.random.key(0))
    save_inception(folder / "random.safetensors", model, params)
    net = InceptionPool(str(folder / "random.safetensors"))
    parts = list(Stream(count).stream(0, batch))
    jax.block_until_ready(net.all(parts[0]))
    began = time.time()
    for part in parts:
        jax.block_until_ready(net.all(part))
    return count / (time.time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--inception", type=int, default=256)
    parser.add_argument("--moments", action="store_true", help="no images to compare")
    parser.add_argument("--folder", type=Path, help="what to keep, and to go on from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        there = folder / "reference.npz"
        if not there.exists():
            write_reference(there, options.reference, options.moments)
        if options.moments:
            options.reference = 0
        np.asarray(jax.numpy.zeros(()))  # the backend is started
        before, began, spent = resident(), time.time(), time.process_time()
        against = Against(
            reference=there,
            count=options.count,
            features="evaluation:StandIn",
            out=folder / "out",
        )
        seen: dict[str, float] = {}
        made = score.scores_of

        def scores_of(*args: Any) -> dict[str, float]:
            seen["read"], seen["held"] = time.time() - began, resident() - before
            seen["spent"] = time.process_time() - spent
            return made(*args)

        score.scores_of = scores_of
        path = score.score(
            Stream(options.count), {"samples": "stand-in"}, against, root=folder
        )
        whole, held = time.time() - began, resident() - before
        total = options.count + options.reference
        print(
            f"{total:,} images of 256 x 256 read, resized and measured in "
            f"{seen['read']:,.0f} s, {total / seen['read']:,.0f} a second, and "
            f"{total / seen['spent']:,.0f} a second of a core's time; scores in "
            f"{whole - seen['read']:,.0f} s more",
            f"host memory beyond what the process had: {seen['held']:.2f} GiB while "
            f"reading, {held:.2f} GiB with the scores (to stay below 2)",
            score.show(path).splitlines()[0],
            sep="\n",
            flush=True,
        )
        fake = Statistics.load(folder / "out" / "statistics.npz")
        other = Statistics(fake.mu[::-1], fake.sigma[::-1, ::-1], fake.count)
        began = time.time()
        ours = frechet_distance(fake, other)
        seconds = time.time() - began
        roots = np.linalg.eigvals(fake.sigma @ other.sigma).astype(complex) ** 0.5
        delta = fake.mu - other.mu
        theirs = delta @ delta + 2 * np.trace(fake.sigma) - 2 * roots.real.sum()
        print(
            f"Frechet distance at 2,048 features: {seconds:.1f} s, "
            f"{abs(ours - theirs) / theirs:.1e} from torch-fidelity's form, relatively",
            flush=True,
        )
        if options.inception:
            rate = inception_rate(folder, options.inception)
            print(
                f"InceptionV3 with its resize: {rate:.1f} images a second "
                f"({options.inception} images in batches of 32)"
            )


if __name__ == "__main__":
    main()
