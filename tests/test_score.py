# SPDX-License-Identifier: Apache-2.0
"""`jdit eval ... --reference`: a score that reproduces, and says what it is of."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tiny_dit import MODEL, awake, start

from jdit.cli import main
from jdit.codecs import AutoencoderKL, save_codec
from jdit.data import to_uint8
from jdit.draw import Drawer
from jdit.encoders import VisionTransformer, save_encoder
from jdit.evals import (
    Statistics,
    adm_scores,
    clip_score,
    frechet_distance,
    measure,
)
from jdit.evals.against import Against
from jdit.evals.drawn import Drawn, asked_labels, rounded_down
from jdit.evals.images import Npz, stored
from jdit.evals.protocol import passes, sampling_fields
from jdit.guidance import CFG, Autoguidance
from jdit.models import dit, sit
from jdit.models.latte import Latte
from jdit.pretrained import export
from jdit.processes import DDPMLinear, Gaussian, LearnedRange
from jdit.recipe import Recipe, Sampling, load_recipe
from jdit.score import score_recipe
from jdit.solvers import DDPM, Euler, Heun, Respaced

NET = '''
import os, signal
import numpy as np
from jdit.encoders.inception import InceptionFeatures
from jdit.evals import I3D

KERNEL = np.random.default_rng(5).normal(size=(192, 18)).astype(np.float32)


class Net:
    """Pooled, spatial and class features; it may kill its process."""

    params, calls = {"kernel": KERNEL}, 0

    def all(self, images):
        Net.calls += 1
        if Net.calls == int(os.environ.get("DIE_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        y = np.tanh(np.asarray(images).reshape(len(images), -1) @ KERNEL / 8)
        return InceptionFeatures(y[:, :6], y[:, 6:13], 3 * y[:, 13:])


class Other(Net):
    params = {"kernel": KERNEL + 1}


class Reader(Net):
    """It reads texts too: a direction of their length."""

    def texts(self, texts):
        return np.stack([np.eye(6)[len(text) % 6] for text in texts])


def pooled(images):
    return Net().all(images).pool


class Clips:
    """Of videos: FVD is between its features."""

    scores = I3D.scores

    def __call__(self, videos):
        assert videos.shape[1:] == (3, 4, 4, 3)
        return np.tanh(videos.mean((2, 3)).reshape(len(videos), -1))
'''

CHILD = """
import sys
from pathlib import Path
import jax, numpy as np
from jdit.cli import main
from jdit.codecs import AutoencoderKL, save_codec
from jdit.data import to_uint8
from jdit.draw import Drawer
from jdit.parallel import Mesh, Rules, arrange
from test_score import LABELS, PROCESS, SAMPLING, dino
from tiny_dit import MODEL, awake

assert jax.device_count() == 8
for batch in (8, 16):
    plan = arrange(Mesh(), Rules())
    drawer = Drawer(MODEL, awake(), PROCESS, SAMPLING, batch, plan=plan)
    np.save(f"{sys.argv[1]}/{batch}.npy", drawer(3, LABELS))
place, argv = Path(sys.argv[1]), sys.argv[2:]
main(dino(place, "eight"))
main(argv)
"""

DINO = VisionTransformer(
    size=16, patch=4, dim=16, depth=1, heads=2, hidden=64, layer_scale=True
)
PROCESS = Gaussian()
SAMPLING = Sampling(solver=Heun(), steps=3, guidance=CFG(2.0), batch=8)
LABELS = np.arange(20, dtype=np.int32) % 5


def images(seed, count, low=0):
    rng = np.random.default_rng(seed)
    return rng.integers(low, 256, (count, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with samples, a reference and feature nets, which Python can import."""
    root = tmp_path_factory.mktemp("score")
    (root / "tiny_net.py").write_text(NET)
    (root / "child.py").write_text(CHILD)
    np.savez(root / "samples.npz", arr_0=images(0, 205, 40))
    np.savez(root / "reference.npz", arr_0=images(1, 90))
    save_encoder(root / "dino", DINO, start(DINO))
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


def command(place, *more, out="out", net="tiny_net:Net", samples="samples.npz"):
    argv = ["eval", str(place / samples), "--reference", str(place / "reference.npz")]
    argv += ["--features", net, "--out", str(place / out), "--batch", "10"]
    return [*argv, "--part", "20", *more]


def dino(place, out):
    """Scores in the features of a network that is split over devices."""
    more = ["--weights", str(place / "dino"), "--resize", "PillowResize:8"]
    return command(place, *more, out=out, net="DINOv2")


def content(place, out="out"):
    return json.loads((place / out / "scores.json").read_text())


@pytest.fixture(scope="module")
def killed(place):
    """A process on 8 devices that drew images, and was killed while it scored."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, [here.parent, here, place]))
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "DIE_AT": "12"}
    argv = [sys.executable, place / "child.py", place, *command(place, out="killed")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    return place


def drawn(batch, labels=LABELS, first=0):
    return Drawer(MODEL, awake(), PROCESS, SAMPLING, batch)(3, labels, first)


def test_image_i_depends_on_the_seed_and_i_alone(killed):
    """Not on batch size, number of devices or where a run went on."""
    whole = drawn(8)
    for other in (drawn(3), np.load(killed / "8.npy"), np.load(killed / "16.npy")):
        np.testing.assert_allclose(other, whole, atol=1e-5)
    again = np.concatenate([drawn(8, LABELS[:8]), drawn(8, LABELS[8:], 8)])
    np.testing.assert_array_equal(again, whole)


def test_scores_do_not_depend_on_the_number_of_devices(killed):
    """The batch of 10 is split over 8 devices, and filled up."""
    main(dino(killed, "single"))
    one, eight = (content(killed, name) for name in ("single", "eight"))
    assert {"fd_dinov2", "precision", "coverage", "kid"} < set(one["scores"])
    assert eight["scores"] == pytest.approx(one["scores"], rel=1e-6, abs=1e-9)
    assert eight["protocol"] == one["protocol"]
    assert (one["about"]["devices"], eight["about"]["devices"]) == (1, 8)
    moments = [killed / name / "statistics.npz" for name in ("single", "eight")]
    a, b = map(Statistics.load, moments)
    np.testing.assert_allclose(b.sigma, a.sigma, atol=1e-6 * np.abs(a.sigma).max())
    np.testing.assert_allclose(b.mu, a.mu, rtol=1e-6, atol=1e-6)


def test_a_killed_run_ends_with_the_same_score(killed):
    parts = list((killed / "killed" / "partial" / "samples").glob("*.npz"))
    assert 0 < len(parts) < 10 and "00000000-00000020.npz" in {p.name for p in parts}
    main(command(killed, out="killed"))
    main(command(killed, out="whole"))
    assert content(killed, "killed")["scores"] == content(killed, "whole")["scores"]
    assert content(killed, "killed")["protocol"] == content(killed, "whole")["protocol"]
    assert not (killed / "killed" / "partial").exists()
    main(["eval", "--compare", *files(killed, "killed", "whole")])


def files(place, *names):
    return [str(place / name / "scores.json") for name in names]


def test_the_scores_are_adms(place, capsys):
    from tiny_net import Net

    main(command(place, out="adm"))
    sets = [measure(x, Net()) for x in (images(0, 205, 40), images(1, 90))]
    found = content(place, "adm")
    wanted = adm_scores(*sets)
    assert {k: found["scores"][k] for k in wanted} == pytest.approx(wanted, rel=1e-6)
    assert {"kid", "density", "coverage"} < set(found["scores"])
    line = capsys.readouterr().out.splitlines()[1]
    for word in (
        "protocol: samples ",
        "features Net",
        "count 205",
        "size 8x8x3",
        "jax",
    ):
        assert word in line
    again = (place / "adm" / "scores.json").stat().st_mtime_ns
    main(command(place, out="adm"))  # it is there already
    assert (place / "adm" / "scores.json").stat().st_mtime_ns == again


def test_a_net_without_classes_gives_the_frechet_distance(place):
    main(command(place, out="pooled", net="tiny_net:pooled"))
    names = {"frechet", "precision", "recall", "density", "coverage", "kid"}
    assert set(content(place, "pooled")["scores"]) == names


def test_statistics_of_one_run_are_a_reference_of_the_same_net_only(place, capsys):
    main(command(place, out="first"))
    kept = str(place / "first" / "statistics.npz")
    main(command(place, "--reference", kept, out="second"))
    scores = content(place, "second")["scores"]
    assert scores["fid"] < 1e-9 and scores["sfid"] < 1e-9 and "recall" not in scores
    assert Statistics.load(kept).count == 205
    args = command(place, "--reference", kept, out="third", net="tiny_net:Other")
    assert "of another feature net" in fails(capsys, args)


def test_moments_that_name_no_net_are_inceptions(place, capsys):
    path = place / "foreign.npz"
    np.savez(path, mu=np.zeros(6), sigma=np.eye(6))
    main(command(place, "--reference", str(path), out="foreign"))
    assert content(place, "foreign")["scores"]["fid"] > 0
    args = command(place, "--reference", str(path), out="alien", net="tiny_net:pooled")
    assert "so they are Inception's" in fails(capsys, args)


def test_prompts_add_the_clip_score_and_need_no_reference(place, capsys):
    from tiny_net import Reader

    prompts = place / "prompts.txt"
    prompts.write_text("".join(f"{'x' * (i % 9 + 1)}\n" for i in range(205)))
    more = ["--prompts", str(prompts)]
    main(command(place, *more, out="asked", net="tiny_net:Reader"))
    found = content(place, "asked")
    features = measure(images(0, 205, 40), Reader()).features
    want = clip_score(features, Reader().texts(prompts.read_text().splitlines()))
    assert found["scores"]["clip_score"] == pytest.approx(want, rel=1e-6)
    assert "fid" in found["scores"] and len(found["protocol"]["prompts"]) == 12
    alone = command(place, *more, out="alone", net="tiny_net:Reader")
    at = alone.index("--reference")
    main(alone[:at] + alone[at + 2 :])
    assert content(place, "alone")["scores"] == {
        "clip_score": found["scores"]["clip_score"]
    }
    assert "reads no texts" in fails(capsys, command(place, *more, out="mute"))
    prompts.write_text("one\n\n")
    args = command(place, *more, out="few", net="tiny_net:Reader")
    assert "has 1 prompts on 2 lines" in fails(capsys, args)
    prompts.unlink()
    assert "no such file" in fails(capsys, args)


def test_comparing_says_what_differs(place, capsys):
    main(command(place, out="one"))
    main(command(place, out="two", net="tiny_net:Other"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--compare", *files(place, "one", "two")])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "features: Net / Other" in out and "features_hash: " in out
    assert "seed" not in out
    a, b = (Path(name) for name in files(place, "one", "one"))
    other = place / "other.json"
    other.write_text(a.read_text().replace('"fid": ', '"fid": 1'))
    main(["eval", "--compare", str(b), str(other)])  # a score alone may differ
    assert "the protocols are the same\nscore fid: " in capsys.readouterr().out
    assert "takes 2" in fails(capsys, ["eval", "--compare", str(a)])
    other.write_text("{}")
    assert "no protocol" in fails(capsys, ["eval", "--compare", str(a), str(other)])


def fails(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_model_and_its_recipe_are_scored_alike(place):
    model = replace(MODEL, channels=3)
    recipe = Recipe("tiny", model, data=None, process=PROCESS, sampling=SAMPLING)
    export(place / "run" / "export", recipe, awake(model))
    more = ("--count", "24", "--seed", "3")
    main(command(place, *more, out="model", samples="run"))
    found = content(place, "model")
    protocol = found["protocol"]
    assert protocol["solver"] == "Heun()" and protocol["steps"] == 3
    assert protocol["evaluations"] == 5 and protocol["passes"] == 10
    assert protocol["guidance_scale"] == 2 and protocol["guidance_interval"] == "none"
    assert protocol["labels"] == "balanced of 5" and protocol["count"] == 24
    assert protocol["codec"] is None and protocol["rounding"] == "nearest"
    options = Against(
        place / "reference.npz", 24, 3, features="tiny_net:Net", batch=10, part=10
    )
    path = score_recipe(recipe, place / "run", options)
    again = json.loads(path.read_text())
    assert again["protocol"] == protocol
    assert again["scores"]["fid"] == pytest.approx(found["scores"]["fid"], rel=0.01)
    assert path.parent.parent == place / "run"
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    (path.parent / "scores.json").write_text(
        json.dumps({"protocol": protocol | {"seed": 4}})
    )
    with pytest.raises(ValueError, match="of another protocol .seed: 4 / 3"):
        score_recipe(recipe, place / "run", options)


def test_videos_are_drawn_and_scored(place, capsys):
    """In pixels, and as latents that a codec of images decodes frame by frame."""
    model = Latte((3, 4, 4), 3, None, dim=16, depth=1, heads=2, base=2)
    sampling = Sampling(steps=2, guidance=None, batch=5)
    recipe = Recipe("clip", model, data=None, process=PROCESS, sampling=sampling)
    export(place / "clip" / "export", recipe, awake(model))
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (12, 3, 4, 4, 3), np.uint8)
    np.savez(place / "clips.npz", arr_0=real)
    more = ("--reference", str(place / "clips.npz"), "--count", "14")
    main(command(place, *more, out="fvd", net="tiny_net:Clips", samples="clip"))
    found = content(place, "fvd")
    assert {"fvd", "precision", "kid"} < set(found["scores"])
    assert found["protocol"]["size"] == "3x4x4x3"
    labels = np.zeros(14, np.int32)
    videos = Drawer(model, awake(model), PROCESS, sampling, 5)(0, labels)
    from tiny_net import Clips

    sets = [measure(x, Clips()).pool for x in (to_uint8(videos), real)]
    assert found["scores"]["fvd"] == pytest.approx(frechet_distance(*sets), rel=1e-5)
    words = fails(capsys, command(place, *more, out="stills", samples="clip"))
    assert "shapes" in words or "mismatch" in words  # the net's own, before any draw

    codec = AutoencoderKL(widths=(4,), blocks=1, groups=2, mid_attention=False)
    save_codec(place / "codec", codec, start(codec))
    latent = replace(model, channels=4)
    save = replace(recipe, model=latent)
    export(place / "latent-clip" / "export", save, awake(latent))
    more = (*more, "--codec", str(place / "codec"))
    main(command(place, *more, out="z", net="tiny_net:Clips", samples="latent-clip"))
    assert content(place, "z")["protocol"]["codec"].startswith("AutoencoderKL ")
    assert content(place, "z")["scores"]["fvd"] > 0


def learned():
    sampling = dict(solver=DDPM(LearnedRange()), grid=Respaced(), steps=6)
    return Gaussian(DDPMLinear(), "noise"), sampling


@pytest.mark.parametrize(
    ("process", "sampling", "evaluations", "seen"),
    [
        (PROCESS, dict(solver=Euler(), steps=10, guidance=None), 10, 10),
        (PROCESS, dict(solver=Euler(), steps=10, guidance=CFG(1.0)), 10, 10),
        (PROCESS, dict(solver=Heun(), steps=10, guidance=CFG(2.0)), 19, 38),
        (
            PROCESS,
            dict(solver=Euler(), steps=10, guidance=CFG(2, (0.25, 0.75))),
            10,
            15,
        ),
        (PROCESS, dict(solver=Heun(), steps=4, guidance=Autoguidance(None)), 7, 14),
        (learned()[0], learned()[1] | dict(guidance=CFG(4.0)), 6, 12),
    ],
    ids=["euler", "scale-1", "heun-cfg", "interval", "autoguidance", "ancestral"],
)
def test_function_evaluations_are_counted(process, sampling, evaluations, seen):
    sampling = Sampling(**sampling)
    assert passes(process, sampling, guided=False) == evaluations
    assert passes(process, sampling) == seen


def test_stored_images_are_the_same_however_they_are_stored(tmp_path):
    x = images(2, 12)
    np.savez_compressed(tmp_path / "x.npz", arr_0=x)
    (tmp_path / "pngs").mkdir()
    writer = ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for i, one in enumerate(x):
        path = tmp_path / "pngs" / f"{i:03d}.png"
        Image.fromarray(one).save(path)
        writer.write(path.read_bytes())
    writer.close()
    for name in ("x.npz", "pngs", "x.array_record"):
        source = stored(tmp_path / name)
        assert (source.count, source.shape) == (12, (8, 8, 3)), name
        np.testing.assert_array_equal(np.concatenate(list(source.stream(0, 5))), x)
        np.testing.assert_array_equal(np.concatenate(list(source.stream(7, 3))), x[7:])
    hashes = {stored(tmp_path / name).hash() for name in ("pngs", "x.array_record")}
    assert len(hashes) == 1
    Image.fromarray(x[0, :4]).save(tmp_path / "pngs" / "012.png")
    with pytest.raises(ValueError, match="must be alike"):
        list(stored(tmp_path / "pngs").stream(0, 20))
    assert isinstance(stored(tmp_path / "x.npz"), Npz) and stored(tmp_path) is None


def test_labels_depend_on_the_seed_and_their_number():
    assert asked_labels("balanced", 3, 7, 0).tolist() == [0, 1, 2, 0, 1, 2, 0]
    many, few = (asked_labels("random", 10, n, 5) for n in (500, 20))
    np.testing.assert_array_equal(many[:20], few)
    assert np.bincount(many, minlength=10).min() > 20
    assert (asked_labels("random", 10, 20, 6) != few).any()


def test_rounding_down_is_half_a_level_darker():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    bias = rounded_down(x).mean() - (x.mean() + 1) * 127.5
    assert bias == pytest.approx(-0.5, abs=0.02)


def test_a_nan_never_becomes_a_score():
    def draw(seed, labels, first):
        x = np.zeros((len(labels), 8, 8, 3), np.float32)
        x[np.arange(first, first + len(labels)) == 6] = np.nan
        return x

    with pytest.raises(ValueError, match="image 6 of seed 0"):
        list(Drawn(draw, np.zeros(9, np.int32), (8, 8, 3)).stream(0, 4))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--reference", "nowhere.npz"], "no such file"),
        (["--features", "Nothing"], "a part of jdit.evals"),
        (["--features", "tiny_net:Nothing"], "a part of jdit.evals"),
        (["--weights", "x.pth"], "takes no weights"),
        (["--resize", "CleanResize"], "takes no resize"),
        (["--resize", "Bicubic"], "must be one of"),
        (["--count", "3"], "at least 10"),
        (["--reference", "SMALL"], "compare images of one size"),
        (["--reference", "FEW"], "3 nearest neighbours need at least 4"),
    ],
    ids=[
        *("reference", "net", "module", "weights", "resize", "kind", "count", "size"),
        "few",
    ],
)
def test_mistakes_are_one_sentence(place, capsys, more, words):
    np.savez(place / "small.npz", arr_0=images(3, 20)[:, :4, :4])
    np.savez(place / "few.npz", arr_0=images(3, 3))
    files = {name: str(place / f"{name.lower()}.npz") for name in ("SMALL", "FEW")}
    more = [files.get(x, x) for x in more]
    assert words in fails(capsys, command(place, *more, out="mistake"))


def test_drawing_over_devices_needs_a_batch_they_divide():
    eight = SimpleNamespace(parts=8, round_up=lambda batch: 16)
    with pytest.raises(ValueError, match="batch is 10, but it is split over 8 devices"):
        Drawer(MODEL, {}, PROCESS, SAMPLING, 10, plan=eight)


def test_latents_need_a_codec(place, capsys):
    model = replace(MODEL, channels=4)
    recipe = Recipe("latent", model, data=None, process=PROCESS, sampling=SAMPLING)
    export(place / "latent" / "export", recipe, {})
    argv = command(place, "--count", "10", samples="latent", out="latents")
    assert "give the --codec" in fails(capsys, argv)


@pytest.mark.parametrize("name", ["dit_xl_2", "sit_xl_2"])
def test_published_protocols_are_those_of_the_recipes(name):
    """docs/evaluation.md: 250 evaluations, two passes each, guidance 1.5 of three."""
    recipe = load_recipe(name)
    fields = sampling_fields(recipe.process, recipe.sampling)
    assert fields["evaluations"] == 250 and fields["passes"] == 500
    assert fields["guidance_scale"] == 1.5 and "channels=3" in fields["guidance_rest"]
    published = dit("XL") if name == "dit_xl_2" else sit("XL", out_channels=8)
    assert recipe.model == published and recipe.data.scaling == "codec"
