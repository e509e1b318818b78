# SPDX-License-Identifier: Apache-2.0
"""What each data set reads, and what it says about data that do not fit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from synthetic_data import numbered_image, numbered_tfds

from jdit.data import (
    TFDS,
    Arrays,
    Digits,
    ImageFolder,
    Latents,
    PosteriorMean,
    PosteriorSample,
    center_crop,
    pipeline,
)


def rows(dataset) -> set[bytes]:
    return {x.tobytes() for x in dataset.source().columns["x_0"]}


def test_digits_are_split_once_and_evenly():
    train, test, everything = Digits(), Digits("test"), Digits("all")
    assert len(everything.source()) == 1797
    assert len(train.source()) + len(test.source()) == 1797
    assert rows(train).isdisjoint(rows(test))
    a, b = rows(Digits("test_a")), rows(Digits("test_b"))
    assert a.isdisjoint(b) and a | b == rows(test)
    for digits in (train, test, Digits("test_a"), Digits("test_b")):
        share = np.bincount(digits.source().columns["label"]) / len(digits.source())
        assert np.abs(share - 0.1).max() < 0.01


def test_digits_are_scikit_learns():
    columns = Digits("all").source().columns
    original = load_digits()
    assert np.array_equal((columns["x_0"][..., 0] + 1) * 8, original.images)
    assert np.array_equal(columns["label"], original.target)
    with pytest.raises(ValueError, match="split is 'val'"):
        Digits("val")


@pytest.mark.parametrize("size", [(100, 60), (61, 200), (256, 256), (31, 32)])
def test_center_crop_keeps_the_middle(size):
    """A gradient stays one, and its middle the middle."""
    width, height = size
    ramp = np.tile(np.linspace(0, 255, width)[None], (height, 1)).astype(np.uint8)
    out = np.asarray(center_crop(Image.fromarray(ramp), 16), float)
    assert out.shape == (16, 16)
    assert (np.diff(out[8]) > 0).all()
    assert abs(out.mean() - 127.5) < 255 / width + 255 / 32


def test_center_crop_of_the_right_size_is_exact():
    x = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(x), 24)), x)


def save(path: Path, colour, mode: str = "RGB", size=(12, 12), **kwargs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **kwargs)


def test_image_folder_with_classes(tmp_path):
    save(tmp_path / "dog" / "deep" / "2.PNG", (0, 255, 0))
    save(tmp_path / "cat" / "1.png", (255, 0, 0))
    save(tmp_path / "cat" / ".hidden.png", (9, 9, 9))
    save(tmp_path / "cat" / "3.png", (0, 0, 0, 0), "RGBA")
    data = ImageFolder(str(tmp_path), 8)
    source = data.source()
    assert data.classes == ("cat", "dog")
    got = [(tuple(source[i]["x_0"][0, 0]), source[i]["label"]) for i in range(3)]
    assert len(source) == 3
    assert got == [((255, 0, 0), 0), ((255, 255, 255), 0), ((0, 255, 0), 1)]


def test_image_folder_with_captions(tmp_path):
    for name in ("a/2", "1"):
        save(tmp_path / f"{name}.jpg", 128, "L")
        (tmp_path / f"{name}.txt").write_text(f"näme {name}\n", encoding="utf-8")
    data = ImageFolder(str(tmp_path), 4)
    source = data.source()
    assert data.classes is None
    assert {source[i]["caption"] for i in range(2)} == {"näme a/2", "näme 1"}
    (tmp_path / "1.txt").unlink()
    with pytest.raises(ValueError, match="1 captions for 2 images.*'1.txt' is missing"):
        ImageFolder(str(tmp_path), 4).source()


def test_image_folder_turns_photographs_upright(tmp_path):
    """EXIF orientation 6: the camera was held on its side."""
    x = np.zeros((8, 8, 3), np.uint8)
    x[:, :4] = 255  # the left half is white; upright, the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(x).save(tmp_path / "1.png", exif=exif)
    upright = ImageFolder(str(tmp_path), 8).source()[0]["x_0"]
    assert (upright[:4] == 255).all() and (upright[4:] == 0).all()


def test_image_folder_moved_is_the_same_data(tmp_path):
    save(tmp_path / "one" / "cat" / "1.png", 0)
    before = repr(ImageFolder(str(tmp_path / "one"), 8).source())
    (tmp_path / "one").rename(tmp_path / "two")
    assert repr(ImageFolder(str(tmp_path / "two"), 8).source()) == before


def test_image_folders_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ImageFolder(str(tmp_path / "nowhere"), 8).source()
    with pytest.raises(ValueError, match="has no images"):
        ImageFolder(str(tmp_path), 8).source()
    with pytest.raises(ValueError, match="size is 0"):
        ImageFolder(str(tmp_path), 0)
    save(tmp_path / "cat" / "1.png", 0)
    save(tmp_path / "loose.png", 0)
    with pytest.raises(ValueError, match="mixes images.*'loose.png'"):
        ImageFolder(str(tmp_path), 8).source()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_image_is_named(tmp_path, threads):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    stream = pipeline(ImageFolder(str(tmp_path), 8), batch=1, seed=0, threads=threads)
    with pytest.raises(ValueError, match="broken.png' cannot be read"):
        next(stream)


def test_arrays_that_do_not_fit():
    x = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match="different lengths"):
        Arrays(x, np.zeros(3, int)).source()
    with pytest.raises(ValueError, match="dtype int64"):
        Arrays(x.astype(int))
    with pytest.raises(ValueError, match="label has values 0 ... 2.*0 ... 1"):
        Arrays(x, np.array([0, 1, 2, 0]), names=("a", "b"))
    with pytest.raises(ValueError, match="label has values -1"):
        Arrays(x, np.array([0, -1, 2, 0]))
    with pytest.raises(ValueError, match="one integer for each"):
        Arrays(x, np.zeros(4))
    with pytest.raises(ValueError, match="is empty"):
        Arrays(x[:0]).source()


def moments(folder: Path, count: int = 40) -> np.ndarray:
    """A file of moments whose noise is told apart: deviation 0.5 around the index."""
    x = np.zeros((count, 4, 4, 6), np.float32)
    x[..., :3] = np.arange(count)[:, None, None, None]
    x[..., 3:] = 2 * np.log(0.5)
    np.savez(folder / "z.npz", x_0=x, shift=np.float32(1), scale=np.float32(2))
    return x


def test_latents_are_shifted_and_scaled(tmp_path):
    x = moments(tmp_path)
    data = Latents(str(tmp_path / "z.npz"), posterior=PosteriorMean())
    assert data.sample_shape == (4, 4, 3)
    batch = next(pipeline(data, batch=40, seed=0, shuffle=False))["x_0"]
    assert np.array_equal(batch, (x[..., :3] - 1) * 2)
    given = Latents(str(tmp_path / "z.npz"), shift=0, scale=(1, 2, 3) * 2)
    assert given.rescale.shift == (0,) and given.rescale.scale == (1, 2, 3) * 2
    with pytest.raises(ValueError, match="scale has 2 numbers"):
        _ = Latents(str(tmp_path / "z.npz"), scale=(1, 2)).transforms


def test_latents_are_drawn_anew_each_epoch(tmp_path):
    x = moments(tmp_path)
    data = Latents(
        str(tmp_path / "z.npz"), shift=0, scale=1, posterior=PosteriorSample()
    )
    stream = pipeline(data, batch=40, seed=0, shuffle=False)
    noise = [(next(stream)["x_0"] - x[..., :3]) / 0.5 for _ in range(2)]
    for z in noise:
        assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_latents_from_each_kind_of_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 2, 4, 5)).astype(np.float32)
    label = np.arange(6) % 2
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "label.npy", label)
    np.savez(tmp_path / "x.npz", x_0=x, label=label)
    save_file({"x_0": x, "label": label}, tmp_path / "x.safetensors")
    for name in ("x.npy", "x.npz", "x.safetensors"):
        side = str(tmp_path / "label.npy") if name == "x.npy" else None
        data = Latents(str(tmp_path / name), label_path=side, channels_first=True)
        assert data.sample_shape == (4, 5, 2) and data.classes == ("0", "1")
        batch = next(pipeline(data, batch=6, seed=0, shuffle=False))
        assert np.array_equal(batch["x_0"], np.moveaxis(x, 1, -1))
        assert np.array_equal(batch["label"], label)
    source = Latents(str(tmp_path / "x.npy")).source()
    assert isinstance(source.columns["x_0"], np.memmap)


def test_latents_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Latents(str(tmp_path / "x.npz")).source()
    (tmp_path / "x.bin").touch()
    with pytest.raises(ValueError, match="ends in '.bin'"):
        Latents(str(tmp_path / "x.bin")).source()
    for name in ("x.npz", "x.npy", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing at all")
        with pytest.raises(ValueError, match="cannot be read as arrays"):
            Latents(str(tmp_path / name)).source()
    np.savez(tmp_path / "y.npz", y=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds \['y'\]"):
        Latents(str(tmp_path / "y.npz")).source()
    np.savez(tmp_path / "p.npz", x_0=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Latents(str(tmp_path / "p.npz")).source()
    np.savez(tmp_path / "odd.npz", x_0=np.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match="even number of channels"):
        Latents(str(tmp_path / "odd.npz"), posterior=PosteriorMean()).source()


def test_tfds_reads_what_was_written(tmp_path):
    folder = numbered_tfds(tmp_path)
    data = TFDS(str(folder), caption_key="text")
    assert data.sample_shape == (6, 5, 3) and data.classes == ("a", "b", "c")
    source = data.source()
    assert len(source) == 12
    for i in range(12):
        record = source[i]
        number = int(record["caption"].removeprefix("number "))
        assert record["label"] == number % 3
        assert np.array_equal(record["x_0"], numbered_image(number))
    resized = TFDS(str(folder), split="train[:50%]", size=4, label_key=None)
    assert len(resized.source()) == 6 and resized.classes is None
    assert resized.source()[0]["x_0"].shape == resized.sample_shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"split is 'dev', but .* has \['train'\]"):
        TFDS(str(folder), split="dev").source()
    with pytest.raises(ValueError, match="no feature 'image2'"):
        TFDS(str(folder), image_key="image2").source()


def test_a_broken_example_of_tfds_is_named(tmp_path):
    class Broken(list):
        def __getitem__(self, index):
            raise OSError("cannot identify image file")

    source = TFDS(str(numbered_tfds(tmp_path))).source()
    source.data = Broken()
    with pytest.raises(ValueError, match="example 3 of .* cannot be read: cannot iden"):
        source[3]


def test_tfds_without_data_or_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        TFDS("no_such_data_set", data_dir=str(tmp_path)).source()
    with pytest.raises(FileNotFoundError, match="'mnist' is not prepared.*download"):
        TFDS("mnist", data_dir=str(tmp_path)).source()


def test_tfds_mock_data_has_the_shape_of_the_real():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        data = TFDS("mnist")
        batch = next(pipeline(data, batch=5, seed=0))
    assert batch["x_0"].shape == (5, 28, 28, 1) and len(data.classes) == 10


def test_tfds_does_not_import_tensorflow(tmp_path):
    folder = numbered_tfds(tmp_path)
    code = f"""
import sys
from jdit.data import TFDS, pipeline
next(pipeline(TFDS({str(folder)!r}), batch=4, seed=0))
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
