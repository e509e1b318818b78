# SPDX-License-Identifier: Apache-2.0
"""Images to shards of latents: what is in them, stopping, several processes, errors."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from PIL import Image
from synthetic_data import numbered_tfds
from tiny_dit import awake

from jdit.cli import main
from jdit.codecs import AutoencoderKL, AutoencoderTiny, save_codec
from jdit.data import (
    TFDS,
    Digits,
    Encoded,
    ImageFolder,
    PosteriorMean,
    pipeline,
    to_float,
)
from jdit.data.pipeline import read
from jdit.encode import Encode, encode

ROOT = Path(__file__).parents[2]
KL = AutoencoderKL(widths=(8, 8), blocks=1, groups=4, latent_channels=2)
TINY = AutoencoderTiny(encoder_blocks=(1, 0), decoder_blocks=(1, 0), widths=(8, 8))
COUNT, SHARDS = 11, 4

RECIPE = '''
import os, time
from dataclasses import dataclass
from jdit.conditioning import Labels
from jdit.data import Encoded, ImageFolder
from jdit.models import DiT
from jdit.recipe import Recipe, Sampling, Training


@dataclass(frozen=True)
class Stuck(ImageFolder):
    """Never gives image 7, which is in the third of four shards, if told so."""

    def source(self):
        files = super().source()
        plain = type(files)
        class Sticking(plain):
            def __getitem__(self, index):
                while index == 7 and "STUCK" in os.environ:
                    time.sleep(60)
                return plain.__getitem__(self, index)
        files.__class__ = Sticking
        return files


def recipe():
    return Recipe(
        name="tiny",
        model=DiT(grid=(4, 4), channels=2, patch=2, dim=16, depth=1, heads=2,
                  conditioning=Labels(2)),
        data={data},
        training=Training(steps=2, batch=4, ema=(0.5,)),
        sampling=Sampling(steps=1, per_class=1, batch=2),
    )
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a codec, images of two classes, and their latents in `out`."""
    root = tmp_path_factory.mktemp("encode")
    save_codec(root / "codec", KL, awake(KL))
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = root / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    main(["encode", *arguments(root)])
    return root


def arguments(root: Path, out: str = "out", data: str = "images") -> list[str]:
    fixed = "--resolution 8 --shards 4 --batch 2".split()
    paths = ["--codec", str(root / "codec"), "--out", str(root / out)]
    return [str(root / data), *paths, *fixed]


def options(root: Path, out: str = "out", **more) -> Encode:
    own = dict(codec=str(root / "codec"), out=root / out, resolution=8, batch=2)
    return Encode(**own | more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_stored(root):
    """The moments of each image and of its mirror image, and its label."""
    source = Encoded(str(root / "out")).source()
    plain = ImageFolder(str(root / "images"), 8)
    images = read(plain.source(), np.arange(COUNT))
    assert len(source) == COUNT and Encoded(str(root / "out")).classes == plain.classes
    stored = read(source, np.arange(COUNT))
    assert np.array_equal(stored["label"], images["label"])
    assert stored["x_0"].shape == (COUNT, 2, 4, 4, 4)
    assert stored["x_0"].dtype == np.float16
    x = to_float(images["x_0"])
    for i, view in enumerate((x, x[:, :, ::-1])):
        want = KL.encode(awake(KL), jnp.asarray(view))
        np.testing.assert_allclose(stored["x_0"][:, i, ..., :2], want.mean, rtol=1e-3)
        logvar = stored["x_0"][:, i, ..., 2:]
        np.testing.assert_allclose(logvar, want.logvar, rtol=2e-3, atol=1e-3)
    # not the mirrored latents of the image
    assert np.abs(stored["x_0"][:, 0] - stored["x_0"][:, 1, :, ::-1]).max() > 0.1


def test_statistics_are_of_draws_from_all_latents(root):
    index = json.loads((root / "out" / "index.json").read_text())
    x = read(Encoded(str(root / "out")).source(), np.arange(COUNT))["x_0"]
    mean, logvar = np.split(x.astype(np.float64).reshape(-1, 4), 2, axis=-1)
    noise = np.random.default_rng(0).normal(size=(2000, *mean.shape))
    draws = (mean + np.exp(logvar / 2) * noise).reshape(-1, 2)
    np.testing.assert_allclose(index["mean"], mean.mean(0), atol=1e-9)
    np.testing.assert_allclose(index["std"], draws.std(0), rtol=5e-3)


def test_the_two_scalings(root):
    path = str(root / "out")
    codec = Encoded(path, PosteriorMean())
    batch = next(pipeline(codec, batch=COUNT, seed=0, shuffle=False))["x_0"]
    stored = read(codec.source(), np.arange(COUNT))["x_0"].astype(np.float32)
    either = [np.isclose(batch, 0.18215 * stored[:, i, ..., :2]) for i in (0, 1)]
    assert (either[0] | either[1]).all() and not either[0].all()
    channels = Encoded(path, scaling="channels")
    stream = pipeline(channels, batch=COUNT, seed=0)
    many = np.concatenate([next(stream)["x_0"] for _ in range(200)]).reshape(-1, 2)
    np.testing.assert_allclose(many.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(many.std(0), 1, atol=0.03)


def test_each_epoch_sees_one_of_both_views(root):
    data = Encoded(str(root / "out"), PosteriorMean())
    stored = read(data.source(), np.arange(COUNT))["x_0"].astype(np.float32)[..., :2]
    stream, seen = pipeline(data, batch=COUNT, seed=0, shuffle=False), []
    for _ in range(60):
        x = next(stream)["x_0"]
        gaps = np.abs(x[:, None] - 0.18215 * stored).reshape(COUNT, 2, -1).max(-1)
        assert (gaps.min(1) < 1e-5).all()
        seen.append(gaps.argmin(1))
    share = np.mean(seen, 0)
    assert (share > 0.25).all() and (share < 0.75).all()
    assert abs(np.mean(share) - 0.5) < 0.06


def test_it_goes_on_where_it_was(root, capsys):
    """With one shard gone, a torn one beside it, and the last index not written."""
    whole = content(root / "out")
    shard = root / "out" / "latents-00002-of-00004.array_record"
    others = {p: p.stat().st_mtime_ns for p in shard.parent.glob("*-0000[013]*")}
    shard.unlink()
    (root / "out" / f".{shard.name}.123").write_bytes(b"torn")
    with pytest.raises(ValueError, match="1 of 4 shards are missing"):
        _ = Encoded(str(root / "out")).sample_shape
    with compilations() as compiled:
        main(["encode", *arguments(root)])
    assert len(compiled) == 1, compiled
    assert "latents-00002" in capsys.readouterr().err
    assert content(root / "out") == whole
    assert all(path.stat().st_mtime_ns == at for path, at in others.items())


def processes(
    root: Path, out: str, data: str, count: int = 1, devices: int = 1, **more: str
) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"]
    flags += f" --xla_force_host_platform_device_count={devices}"
    given = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, **more}
    if count > 1:
        given |= {"JAX_NUM_PROCESSES": str(count), "JAX_COORDINATOR_ADDRESS": address}
    command = [sys.executable, "-m", "jdit", "encode", *arguments(root, out, data)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **given, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def test_killed_and_started_again(root):
    """A real process is killed in the third of four shards."""
    data = f"Stuck({str(root / 'images')!r}, 8)"
    (root / "stuck.py").write_text(RECIPE.replace("{data}", data))
    (process,) = processes(root, "killed", "stuck.py", STUCK="1")
    second = root / "killed" / "latents-00001-of-00004.array_record"
    until = time.monotonic() + 300  # on a crowded machine
    while not second.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and second.is_file(), output
    assert len(list(second.parent.glob("*.array_record"))) == 2
    main(["encode", *arguments(root, "killed", "stuck.py")])
    assert content(root / "killed") == content(root / "out")


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(root):
    both = processes(root, "both", "images", 2)
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert content(root / "both") == content(root / "out")


@pytest.mark.slow
def test_devices_share_a_batch(root):
    (process,) = processes(root, "split", "images", devices=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    split, one = (Encoded(str(root / name)) for name in ("split", "out"))
    assert split.index["made"]["devices"] == 2
    both = [read(data.source(), np.arange(COUNT))["x_0"] for data in (split, one)]
    np.testing.assert_allclose(*both, atol=2e-3)


def test_two_steps_of_training(root):
    (root / "train.py").write_text(
        RECIPE.replace("{data}", f"Encoded({str(root / 'out')!r})")
    )
    main(["train", str(root / "train.py"), "--folder", str(root / "run")])
    records = (root / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["step"] == 2
    assert np.isfinite(json.loads(records[-1])["loss"])


def test_tfds_by_a_codec_without_variance(tmp_path):
    """And without the mirror images."""
    save_codec(tmp_path / "codec", TINY, awake(TINY))
    name = str(numbered_tfds(tmp_path / "tfds"))
    out = encode(name, options(tmp_path, flip=False, dtype="float32"))
    data = Encoded(str(out))
    assert data.sample_shape == (4, 4, 4) and not data.index["moments"]
    record = data.source()[5]
    image = TFDS(name, size=8).source()[5]
    x = jnp.asarray(to_float(image["x_0"]))[None]
    want = TINY.encode(awake(TINY), x).mean[0]
    np.testing.assert_allclose(record["x_0"], want, atol=1e-5)
    assert record["label"] == image["label"]
    batch = next(pipeline(data, batch=4, seed=0))
    assert batch["x_0"].shape == (4, 4, 4, 4)


def test_grey_images_of_a_recipe(tmp_path):
    save_codec(tmp_path / "codec", TINY, awake(TINY))
    own = options(tmp_path, resolution=None, flip=False, dtype="float32", batch=64)
    data, digits = Encoded(str(encode("digits", own))), Digits("train")
    assert len(data.source()) == len(digits.source()) and data.classes == digits.classes
    x = jnp.asarray(digits.source()[3]["x_0"])[None].repeat(3, -1)
    want = TINY.encode(awake(TINY), x).mean[0]
    np.testing.assert_allclose(data.source()[3]["x_0"], want, atol=1e-5)


def test_captions_are_kept(tmp_path):
    save_codec(tmp_path / "codec", TINY, awake(TINY))
    for i in range(3):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"grün {i}")
    out = encode(str(tmp_path), options(tmp_path, shards=9))
    source = Encoded(str(out)).source()
    assert [source[i]["caption"] for i in range(3)] == ["grün 0", "grün 1", "grün 2"]
    assert len(list(out.glob("*.array_record"))) == 3  # no shard is empty


def mistake(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["encode", *argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_mistakes_are_one_sentence(root, capsys, tmp_path):
    def said(*changes: str, data: str = "images", out: str = "other") -> str:
        return mistake(capsys, *arguments(root, out, data), *changes)

    assert "neither a folder" in said(data="nowhere")
    (root / "empty").mkdir()
    assert "has no images" in said(data="empty")
    assert "needs multiples of 2" in said("--resolution", "7")
    assert "give --codec" in mistake(capsys, str(root / "images"))
    assert "no config.json" in said("--codec", str(root / "images"))
    assert "is not there" in said("--codec", str(root / "nowhere"))
    assert "batch is 0" in said("--batch", "0")
    for change in (["--resolution", "4"], ["--flip", "False"], ["--shards", "3"]):
        assert "out holds other latents" in said(*change, out="out")
    save_codec(tmp_path, KL, awake(KL, seed=2))
    assert "weights is" in said("--codec", str(tmp_path), out="out")
    bad = root / "bad" / "cat" / "x.png"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no image")
    assert f"image {str(bad)!r} cannot be read" in said(data="bad")
    assert not list((root / "other").glob("*.array_record"))


def test_latents_that_are_not_finite_are_named(root, tmp_path):
    params = awake(KL)
    quant = {**params["quant"], "bias": params["quant"]["bias"] + 1e5}
    save_codec(tmp_path / "codec", KL, {**params, "quant": quant})
    with pytest.raises(ValueError, match="image 0 of the data.*not finite in float16"):
        encode(str(root / "images"), options(tmp_path))
    encode(str(root / "images"), options(tmp_path, "whole", dtype="float32"))


def test_data_that_are_no_images_or_cannot_be_resized(root, tmp_path):
    recipe = RECIPE.replace("{data}", f"Encoded({str(root / 'out')!r})")
    (tmp_path / "latents.py").write_text(recipe)
    (tmp_path / "codec").symlink_to(root / "codec")
    with pytest.raises(ValueError, match="are no images"):
        encode(str(tmp_path / "latents.py"), options(tmp_path))
    with pytest.raises(ValueError, match="resolution is 16.*cannot be resized"):
        encode("digits", options(tmp_path, resolution=16))


def test_folders_that_are_not_encoded(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        _ = Encoded(str(tmp_path / "x")).sample_shape
    with pytest.raises(ValueError, match="has no index.json"):
        _ = Encoded(str(tmp_path)).sample_shape
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="a file.*Latents reads"):
        _ = Encoded(str(tmp_path / "index.json")).classes
    with pytest.raises(ValueError, match="is no index of latents"):
        _ = Encoded(str(tmp_path)).sample_shape
