# SPDX-License-Identifier: Apache-2.0
"""What every data set and its pipeline must hold. A new one is listed in DATASETS."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_data import emoji_font, encoded_folder, numbered_tfds, text_encoder

from jdit.data import (
    TFDS,
    Arrays,
    Captioned,
    Dataset,
    Digits,
    Encoded,
    Glyphs,
    ImageFolder,
    Latents,
    PosteriorSample,
    pipeline,
)


def _arrays(folder: Path) -> Arrays:
    x = np.arange(23 * 4 * 4 * 3).reshape(23, 4, 4, 3) % 256
    return Arrays(x.astype(np.uint8), np.arange(23) % 5)


def _floats(folder: Path) -> Arrays:
    return Arrays(np.linspace(-1, 1, 21 * 6 * 2).reshape(21, 6, 2))


def _folder(folder: Path) -> ImageFolder:
    for i in range(11):
        path = folder / "cat dog".split()[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + i, 17), (20 * i, 0, 255 - i)).save(path)
    return ImageFolder(str(folder), 8)


def _captioned(folder: Path) -> ImageFolder:
    for i in range(7):
        Image.new("L", (9, 12), 30 * i).save(folder / f"{i}.webp", lossless=True)
        (folder / f"{i}.txt").write_text(f"grey {i}\n")
    return ImageFolder(str(folder), 8)


def _latents(folder: Path) -> Latents:
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.1, 0.1, (19, 4, 4, 6)).astype(np.float16)
    x[..., 3:] -= 30
    np.savez(folder / "z.npz", x_0=x, label=np.arange(19) % 3)
    return Latents(str(folder / "z.npz"), scale=2.0, posterior=PosteriorSample())


def _memory_mapped(folder: Path) -> Latents:
    x = np.linspace(-1, 1, 13 * 3 * 4 * 4).reshape(13, 3, 4, 4).astype(np.float32)
    np.save(folder / "z.npy", x)
    return Latents(str(folder / "z.npy"), channels_first=True)


def _shards(folder: Path) -> Encoded:
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.1, 0.1, (17, 2, 4, 4, 6)).astype(np.float16)
    x[..., 3:] -= 30
    label = np.arange(17, dtype=np.int32) % 3
    return Encoded(str(encoded_folder(folder, x_0=x, label=label)))


def _glyphs(folder: Path) -> Glyphs:
    return Glyphs(size=8, font=str(emoji_font(folder)))


def _encoded(folder: Path) -> Captioned:
    text = str(text_encoder(folder / "encoder"))
    gives = ("text", "mask", "pooled")
    return Captioned(_captioned(folder), text, 6, ("{}", "a {}"), gives)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda folder: Digits("test_a"),
    "arrays": _arrays,
    "arrays of floats": _floats,
    "image folder, classes": _folder,
    "image folder, captions": _captioned,
    "latents, sampled": _latents,
    "latents, memory-mapped": _memory_mapped,
    "latents, in shards": _shards,
    "glyphs": _glyphs,
    "encoded captions": _encoded,
    "tfds": lambda folder: TFDS(str(numbered_tfds(folder))),
}


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return DATASETS[request.param](tmp_path)


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)
        for x, y in zip(a, b, strict=True)
    )


def take(iterator, count: int) -> list[dict]:
    return [next(iterator) for _ in range(count)]


def test_an_example_has_the_shape_and_the_labels_it_says(dataset):
    source = dataset.source()
    assert len(source) > 0
    for i in (0, len(source) - 1):
        record = source[i]
        assert record["x_0"].dtype in (np.uint8, np.float16, np.float32)
        if dataset.classes is None:
            assert "label" not in record
        else:
            assert record["label"].dtype == np.int32
            assert 0 <= record["label"] < len(dataset.classes)
        assert isinstance(record.get("caption", ""), str)


def test_batches_are_float_in_range_and_hold_no_strings(dataset):
    for batch in pipeline(dataset, batch=3, seed=0, repeat=False, drop_remainder=False):
        assert batch["x_0"].dtype == np.float32
        assert batch["x_0"].shape[1:] == dataset.sample_shape
        assert np.abs(batch["x_0"]).max() <= 1
        assert batch.keys() <= {"x_0", "label", "text", "mask", "pooled"}
        if dataset.classes is not None:
            assert batch["label"].dtype == np.int32
            assert 0 <= batch["label"].min() <= batch["label"].max()
            assert batch["label"].max() < len(dataset.classes)


def test_repr_is_stable(dataset):
    assert repr(dataset.source()) == repr(dataset.source())
    assert " at 0x" not in repr(dataset.source())


def test_the_seed_decides_the_batches(dataset):
    once = take(pipeline(dataset, batch=4, seed=1), 6)
    assert same(once, take(pipeline(dataset, batch=4, seed=1), 6))
    assert not same(once, take(pipeline(dataset, batch=4, seed=2), 6))


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_is_exact_at_any_step(dataset, threads):
    """In the middle of an epoch, at its seam, and epochs later."""
    size = len(dataset.source())
    steps = min(3 * size // 4 + 2, 30)
    whole = pipeline(dataset, batch=4, seed=3, threads=0)
    states, batches = [], []
    for _ in range(steps):
        states.append(json.loads(json.dumps(whole.get_state())))
        batches.append(next(whole))
    resumed = pipeline(dataset, batch=4, seed=3, threads=threads)
    for step in (steps - 2, 0, steps // 2):
        resumed.set_state(states[step])
        assert resumed.get_state() == states[step]
        assert same(take(resumed, steps - step), batches[step:])


def test_processes_share_each_batch(dataset):
    """Together, in order, the shares are the batch of one process."""
    one = take(pipeline(dataset, batch=6, seed=0), 5)
    shares = [
        take(pipeline(dataset, batch=6, seed=0, process_index=p, process_count=3), 5)
        for p in range(3)
    ]
    joined = [
        {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert same(one, joined)
