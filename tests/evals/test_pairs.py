# SPDX-License-Identifier: Apache-2.0
"""`jdit eval --paired`: a run against a reference run, image by image."""

import json
import re

import jax
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jdit.cli import main
from jdit.data import to_float
from jdit.evals import lpips_alex, paired, relative_error
from jdit.evals.images import stored
from jdit.interop.lpips import save_lpips

RNG = np.random.default_rng(0)
REFERENCE = RNG.integers(0, 256, (13, 16, 16, 3), np.uint8)
RUN = np.clip(REFERENCE + RNG.normal(0, 20, REFERENCE.shape), 0, 255).astype(np.uint8)
RUN[4] = REFERENCE[4]
LATENTS = RNG.normal(size=(2, 12, 4, 4, 4)).astype(np.float32)
ALEX = lpips_alex().init(jax.random.key(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The reference as PNGs, the run as an .npz and an array_record, and latents."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "reference").mkdir()
    for i, image in enumerate(REFERENCE):
        Image.fromarray(image).save(root / "reference" / f"{i:02d}.png")
    np.savez(root / "run.npz", arr_0=RUN)
    writer = ArrayRecordWriter(str(root / "run.array_record"), "group_size:1")
    for image in RUN:
        Image.fromarray(image).save(root / "one.png")
        writer.write((root / "one.png").read_bytes())
    writer.close()
    (root / "one.png").unlink()
    save_lpips(root / "alex.safetensors", lpips_alex(), ALEX)
    for name, x in zip(("z.npz", "z_0.npz"), LATENTS, strict=True):
        np.savez(root / name, x_0=x, label=np.zeros(12))
    return root


def scored(place, run, reference, *more):
    out = place / f"{run}-{reference}-{len(more)}"
    argv = ["eval", str(place / run), "--paired", str(place / reference), *more]
    main([*argv, "--out", str(out), "--batch", "5", "--part", "5"])
    return json.loads((out / "scores.json").read_text())


def test_the_scores_are_those_of_the_functions(place, capsys):
    found = scored(place, "run.npz", "reference")
    want = paired(RUN, REFERENCE)
    assert found["scores"] == pytest.approx(want, rel=1e-5)
    assert list(found["scores"]) == ["psnr", "relative_error", "ssim"]
    again = scored(place, "run.array_record", "reference")
    assert again["scores"] == found["scores"]
    out = capsys.readouterr().out
    assert "psnr " in out and "protocol: samples " in out
    protocol = found["protocol"]
    assert protocol["paired"] == stored(place / "reference").hash()
    assert protocol["count"] == 13 and protocol["size"] == "16x16x3"
    same = scored(place, "run.npz", "run.npz")["scores"]
    assert same == {"psnr": np.inf, "relative_error": 0, "ssim": 1}


def test_latents_have_a_relative_error_alone(place):
    found = scored(place, "z.npz", "z_0.npz")
    want = {"relative_error": float(relative_error(*LATENTS).mean())}
    assert found["scores"] == pytest.approx(want, rel=1e-6)


def test_floats_are_compared_as_they_were_drawn_and_scored_as_bytes(place):
    floats = to_float(RUN)
    np.savez(place / "x.npz", x_0=floats)
    np.savez(place / "x_0.npz", x_0=to_float(REFERENCE) + 1e-4)
    both = scored(place, "x.npz", "x_0.npz")["scores"]
    want = paired(floats, to_float(REFERENCE) + np.float32(1e-4))
    assert both["psnr"] == pytest.approx(want["psnr"], rel=1e-6)
    assert both["ssim"] == pytest.approx(paired(RUN, REFERENCE)["ssim"], abs=1e-3)
    mixed = scored(place, "x.npz", "reference")["scores"]  # bytes, since one has them
    assert mixed == scored(place, "run.npz", "reference", "--seed", "0")["scores"]


def test_frames_of_videos_are_pairs(place):
    for name, x in (("video.npz", RUN), ("video_0.npz", REFERENCE)):
        np.savez(place / name, arr_0=x[:12].reshape(3, 4, 16, 16, 3))
    found = scored(place, "video.npz", "video_0.npz")
    assert found["scores"] == pytest.approx(paired(RUN[:12], REFERENCE[:12]), rel=1e-5)


def test_lpips_is_that_of_the_network(place):
    more = ("--lpips", str(place / "alex.safetensors"))
    big = [x.repeat(2, 1).repeat(2, 2)[:2] for x in (RUN, REFERENCE)]
    for name, x in zip(("big.npz", "big_0.npz"), big, strict=True):
        np.savez(place / name, arr_0=x)
    found = scored(place, "big.npz", "big_0.npz", *more)
    want = jax.jit(lpips_alex().apply)(ALEX, *map(to_float, big))[0]
    assert found["scores"]["lpips"] == pytest.approx(float(want.mean()), rel=1e-4)
    assert found["protocol"]["features"] == "LPIPS(alex)"
    assert len(found["protocol"]["features_hash"]) == 12


@pytest.mark.parametrize(
    ("run", "more", "words"),
    [
        ("few.npz", [], "the run has 7 images, but the paired one has 13"),
        ("small.npz", [], "are 8x8x3, but the paired one's are 16x16x3"),
        ("run.npz", ["--reference", "x.npz"], "paired and reference are both given"),
        ("run.npz", ["--paired", "nowhere"], "paired is nowhere, but there is no"),
        ("run.npz", ["--lpips", "ALEX"], "16 by 16 pixels, too few for LPIPS"),
        ("bad.npz", [], "x_0 of .* hold NaN"),
        ("far.npz", [], "lie in .*, but floats must be in"),
        ("torn.npz", [], "is no .npz"),
    ],
    ids=["count", "size", "both", "path", "lpips", "nan", "range", "torn"],
)
def test_mistakes_are_one_sentence(place, capsys, run, more, words):
    np.savez(place / "few.npz", arr_0=RUN[:7])
    np.savez(place / "small.npz", arr_0=RUN[:, :8, :8])
    np.savez(place / "bad.npz", x_0=to_float(RUN) * np.nan)
    np.savez(place / "far.npz", x_0=RUN.astype(np.float32))
    (place / "torn.npz").write_bytes(b"PK nothing")
    more = [str(place / "alex.safetensors") if x == "ALEX" else x for x in more]
    argv = ["eval", str(place / run), "--paired", str(place / "reference"), *more]
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--out", str(place / f"mistake-{run}")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and said.count("\n") == 1
