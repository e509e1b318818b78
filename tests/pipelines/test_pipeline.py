# SPDX-License-Identifier: Apache-2.0
"""A pipeline is a thin composition: what it must do whatever its parts are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_dit import awake

import jdit
from jdit.codecs import AutoencoderTiny
from jdit.encoders import Bert
from jdit.interop.schedulers import Scheduler
from jdit.models import PixArt
from jdit.pipelines import (
    ClassNames,
    OneText,
    Pipeline,
    PooledAndText,
    TextTower,
    ThreeTexts,
    Weights,
    save_video,
    to_images,
)
from jdit.pipelines.progress import Ticks
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
        jax.jit(awake)(model.init(keys[0]), keys[1]),
        codec.init(keys[2]),
        {"text": TINY.init(keys[3])},
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
    programs = (pipe._encode, pipe._draw, pipe._decode)
    sizes = [program._cache_size() for program in programs]
    array(pipe, "a dog", seed=5, guidance=3.0, negative="grey")
    assert [program._cache_size() for program in programs] == sizes


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
