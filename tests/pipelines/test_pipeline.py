# SPDX-License-Identifier: Apache-2.0
"""A pipeline is a thin composition: what it must do whatever its parts are."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from PIL import Image
from tiny_dit import awake

import jdit
from jdit.codecs import AutoencoderTiny
from jdit.draw import write_videos
from jdit.encoders import Bert
from jdit.interop.schedulers import Scheduler
from jdit.models import PixArt
from jdit.pipelines import (
    ClassNames,
    OneText,
    Pipeline,
    PooledAndText,
    Templated,
    TextTower,
    ThreeTexts,
    TwoMaskedTexts,
    Weights,
    save_video,
    to_images,
)
from jdit.pipelines.guided import TokenCFG
from jdit.pipelines.images import IMAGES
from jdit.pipelines.progress import Ticks
from jdit.pipelines.prompts import Prepared, cleaned, lowered
from jdit.pipelines.videos import VIDEOS
from jdit.processes import Gaussian, Linear
from jdit.solvers import Euler, Shifted

TINY = Bert(vocab=32, positions=8, dim=16, depth=1, heads=2, hidden=16)


def letters(texts):
    """Eight letters a text, as numbers."""
    rows = [[ord(c) % 32 for c in text[:8]] for text in texts]
    ids = np.array([row + [0] * (8 - len(row)) for row in rows], np.int32)
    mask = np.arange(8)[None] < np.array([[len(row)] for row in rows])
    return ids, mask


def scheduler(tokens):
    return Scheduler(Gaussian(Linear(), "velocity"), Euler(), Shifted(tokens / 8))


@pytest.fixture(scope="module")
def pipe():
    model = PixArt(
        grid=(4, 4), channels=4, out_channels=4, dim=24, depth=2, heads=2, base=2,
        conditioning=jdit.conditioning.Text(16),
    )  # fmt: skip
    codec = AutoencoderTiny(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    keys = jax.random.split(jax.random.key(0), 4)
    weights = Weights(
        awake(model),
        jax.jit(codec.init)(keys[2]),
        {"text": jax.jit(TINY.init)(keys[3])},
    )
    prompts = OneText(TextTower(TINY, letters))
    return Pipeline(
        model, codec, prompts, weights, scheduler, steps=3, guidance=2.0, size=(8, 8)
    )


def array(pipe, prompt="an owl", **more):
    return pipe(prompt, output="array", show=False, **more)


def test_images_come_out(pipe):
    images = pipe(["an owl", "a cat"], count=2, show=False)
    assert [image.size for image in images] == [(8, 8)] * 4
    assert all(isinstance(image, Image.Image) for image in images)


def test_prompt_seed_guidance_and_negative_all_matter(pipe):
    plain = array(pipe)
    assert plain.shape == (1, 8, 8, 3) and 0 <= plain.min() and plain.max() <= 1
    others = [dict(prompt="a cat"), dict(seed=1), dict(guidance=5.0)]
    for changes in [*others, dict(negative="dark"), dict(steps=2)]:
        assert np.abs(array(pipe, **changes) - plain).max() > 1e-5, changes
    np.testing.assert_array_equal(array(pipe), plain)


def test_an_image_does_not_see_what_is_drawn_beside_it(pipe):
    both = array(pipe, ["an owl", "a cat"])
    np.testing.assert_allclose(both[:1], array(pipe, "an owl"), atol=1e-5)


def test_a_second_call_compiles_nothing(pipe):
    array(pipe)
    with compilations() as compiled:
        array(pipe, "a dog", seed=5, guidance=3.0, negative="grey")
    assert not compiled


def test_another_size_is_another_grid(pipe):
    assert array(pipe, size=(12, 8)).shape == (1, 12, 8, 3)
    assert pipe.sized((12, 8)).grid == (6, 4)


def test_given_latents_take_the_place_of_the_seed(pipe):
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32)
    one = pipe("a", latents=x, output="latent", show=False)
    two = pipe("a", latents=x, seed=9, output="latent", show=False)
    np.testing.assert_array_equal(one, two)


def test_every_step_ticks(pipe):
    ticked = []

    class Counting(Ticks):
        def run(self, evaluation):
            ticked.append(int(evaluation))

    replace(pipe, ticks=Counting())("an owl", show=True)
    jax.effects_barrier()
    assert sorted(ticked) == [0, 1, 2]


def test_guidance_may_be_told_instead(pipe):
    class Told(OneText):
        pass

    told = replace(pipe, guided="told")
    conditions = {}

    def draw(params, key, given, *_, **__):
        conditions.update(given)
        return jnp.zeros((1, 4, 4, 4))

    object.__setattr__(told, "_draw", draw)
    told("a", guidance=3.5, show=False)
    assert conditions["guidance"].tolist() == [3.5] and "negative" not in conditions


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(prompt=[]), r"prompt is \[\]"),
        (dict(prompt=3), "prompt is 3"),
        (dict(count=0), "count is 0"),
        (dict(size=(8, 9)), r"size is \(8, 9\), but it must be 2 multiples of 4"),
        (dict(size=(8,)), r"size is \(8,\)"),
        (dict(steps=0), "steps is 0"),
        (dict(latents=np.zeros((1, 4, 4, 3), "f")), "x_T has shape"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_what_cannot_be_drawn_is_said(pipe, unchecked, changes, words):
    with pytest.raises(ValueError, match=words):
        pipe(**{"prompt": "a", "show": False} | changes)


def test_classes_are_prompts_by_name_or_number():
    prompts = ClassNames(("tench, Tinca tinca", "goldfish"))
    labels = prompts.tokens(["1", "Tinca tinca", "goldfish"])["label"]
    assert labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="'shark', but this model draws 2 classes"):
        prompts.tokens(["shark"])


class Fixed:
    """An encoder of known tokens."""

    def __init__(self, value, dim):
        self.value, self.dim = value, dim

    def apply(self, params, ids, mask=None):
        shape = (*ids.shape, self.dim)
        pooled = jnp.full((len(ids), self.dim), -self.value)
        return jdit.encoders.Encoding(jnp.full(shape, self.value), pooled)


def test_three_texts_lie_as_stable_diffusion_reads_them():
    towers = [
        TextTower(Fixed(v, d), letters) for v, d in ((1.0, 2), (2.0, 3), (3.0, 8))
    ]
    params = dict.fromkeys(("first", "second", "text"))
    for text, last in ((towers[2], 3.0), (None, 0.0)):
        prompts = ThreeTexts(towers[0], towers[1], text, features=8, length=8)
        out = prompts.conditions(params, prompts.tokens(["ab"]))
        assert out["text"].shape == (1, 16, 8)
        assert out["text"][0, 0].tolist() == [1, 1, 2, 2, 2, 0, 0, 0]
        assert set(out["text"][0, 8].tolist()) == {last}
        assert out["pooled"].tolist() == [[-1, -1, -2, -2, -2]]


def test_flux_reads_pooled_clip_and_the_tokens_of_t5():
    towers = [TextTower(Fixed(v, d), letters) for v, d in ((1.0, 2), (3.0, 4))]
    prompts = PooledAndText(*towers)
    out = prompts.conditions({"pooled": {}, "text": {}}, prompts.tokens(["a", "b"]))
    assert out["pooled"].tolist() == [[-1, -1]] * 2 and out["text"].shape == (2, 8, 4)


def test_hunyuan_dit_reads_two_masked_texts():
    towers = [TextTower(Fixed(v, d), letters) for v, d in ((1.0, 2), (3.0, 4))]
    prompts = TwoMaskedTexts(*towers)
    out = prompts.conditions(dict.fromkeys(("first", "second")), prompts.tokens(["ab"]))
    assert set(out) == set(prompts.negatives)
    assert out["second_text"].shape == (1, 8, 4) and out["second_text"][0, 0, 0] == 3
    assert out["mask"][0].tolist() == [True, True] + 6 * [False]


def test_a_template_is_told_without_its_beginning():
    def long(texts):
        rows = [[ord(c) % 32 for c in text] for text in texts]
        ids = np.array([row + [0] * (40 - len(row)) for row in rows], np.int32)
        return ids, np.arange(40)[None] < np.array([[len(row)] for row in rows])

    clip = TextTower(Fixed(1.0, 2), letters)
    prompts = Templated(TextTower(Fixed(3.0, 4), long), "say {}!", 4, clip, bucket=8)
    params = dict.fromkeys(("text", "pooled"))
    for text, length in (("a" * 7, 8), ("a" * 8, 16), ("a" * 32, 36)):
        tokens = prompts.tokens([text, "b"])
        assert tokens["ids"].shape == (2, 4 + length)  # all there is, at last
        assert tokens["ids"][1, :6].tolist() == [ord(c) % 32 for c in "say b!"]
        out = prompts.conditions(params, tokens)
        assert out["text"].shape == (2, length, 4) and out["pooled"].shape == (2, 2)
        assert out["mask"].sum(1).tolist() == [len(text) + 1, 2]


def test_texts_are_prepared():
    assert lowered(" An Owl ") == "an owl" and cleaned(" a &amp;lt;\n b ") == "a < b"
    ids, _ = Prepared(lowered, letters)(["An"])
    assert ids.tolist() == letters(["an"])[0].tolist()


def test_guidance_keeps_the_norm_of_each_token():
    process = Gaussian(Linear(), "velocity")
    x, good, bad = jax.random.normal(jax.random.key(0), (3, 2, 4, 6, 3))
    time = jnp.float32(0.7)
    yes, no = (process.predict(v, x, time) for v in (good, bad))
    mixed = TokenCFG(5.0, patch=2).mix(yes, no, x, time, process)
    out = process.express(mixed, time, to="velocity")
    plain = bad + 5 * (good - bad)

    def tokens(v):
        v = v.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5)
        return v.reshape(2, 6, 12)

    out, plain, good = map(tokens, (out, plain, good))
    norm = jnp.linalg.norm
    np.testing.assert_allclose(norm(out, axis=-1), norm(good, axis=-1), rtol=1e-4)
    cosine = (out * plain).sum(-1) / norm(out, axis=-1) / norm(plain, axis=-1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_a_video_begins_with_a_frame_of_its_own(pipe):
    class Codec:
        factor = (4, 8, 8)

        def latent_grid(self, size):
            return (1 + (size[0] - 1) // 4, size[1] // 8, size[2] // 8)

    class Video(SimpleNamespace):
        tokens = SimpleNamespace(size=(1, 2, 2))

    fit = lambda model, grid: grid  # noqa: E731
    video = replace(pipe, model=Video(), codec=Codec(), fit=fit)
    assert video.sized((9, 32, 48)) == (3, 4, 6)
    words = "1 more than a multiple of 4, then 2 multiples of 16"
    for size in ((8, 32, 48), (9, 32, 40), (32, 48), (0, 16, 16), (9, 0, 16)):
        with pytest.raises(ValueError, match=words):
            video.sized(size)


def test_pipelines_say_which_they_are(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "LoraPipeline"}')
    with pytest.raises(ValueError, match="is of a LoraPipeline, but accepted is one"):
        jdit.pipeline(tmp_path)
    assert len(IMAGES | VIDEOS) == len(IMAGES) + len(VIDEOS)
    index = {"_class_name": "WanPipeline", "expand_timesteps": True}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expand_timesteps to True, as Wan 2.2's 5B"):
        jdit.pipeline(tmp_path)


def test_several_videos_need_a_folder(tmp_path):
    x = np.linspace(-1, 1, 2 * 3 * 4 * 4 * 3).reshape(2, 3, 4, 4, 3)
    write_videos(tmp_path / "one" / "a.webp", x[:1], np.arange(1), 4.0)
    write_videos(tmp_path / "two", x, np.array([0, 7]), 4.0)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["00000-0.webp", "00001-7.webp"]
    assert (tmp_path / "one" / "a.webp").is_file()
    with pytest.raises(ValueError, match="there are 2 videos: give a folder"):
        write_videos(tmp_path / "a.webp", x, np.arange(2), 4.0)


def test_videos_are_written(tmp_path):
    frames = to_images(np.linspace(0, 1, 2 * 3 * 4 * 4 * 3).reshape(2, 3, 4, 4, 3))
    assert len(frames) == 2 and len(frames[0]) == 3
    save_video(tmp_path / "a.webp", frames[0], fps=4)
    with Image.open(tmp_path / "a.webp") as video:
        assert video.n_frames == 3 and video.size == (4, 4)
    with pytest.raises(ValueError, match="path ends in '.mov'"):
        save_video(tmp_path / "a.mov", frames[0])
    with pytest.raises(ValueError, match="0 frames"):
        save_video(tmp_path / "a.gif", [])
