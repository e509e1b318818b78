# SPDX-License-Identifier: Apache-2.0
"""Lumina-T2I's pipeline: its parts, and what the authors' demo sets."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from tiny_dit import awake
from tokenizers import Tokenizer, models, pre_tokenizers

from jdit.codecs import AutoencoderTiny, save_codec
from jdit.conditioning import Text
from jdit.encoders import Decoder, save_encoder
from jdit.interop.lumina import save_lumina
from jdit.models import FlagDiT, NextDiT
from jdit.pipelines import lumina_t2i
from jdit.processes import Gaussian, Linear
from jdit.sample import sample
from jdit.solvers import Euler, Shifted
from jdit.tokens.stretched import Scaled

MODEL = FlagDiT(
    (4, 4), channels=4, dim=32, depth=1, heads=4, groups=4, hidden=256,
    conditioning=Text(16),
)  # fmt: skip
LANGUAGE = Decoder(vocab=16, dim=16, depth=1, heads=2, groups=1, width=8, hidden=12)
CODEC = AutoencoderTiny(encoder_blocks=(1, 0), decoder_blocks=(1, 0), widths=(8, 8))
WORDS = ["<unk>", "<s>", "</s>", "an", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lumina")
    save_lumina(folder / "w.safetensors", MODEL, awake(MODEL))
    save_encoder(folder / "text", LANGUAGE, awake(LANGUAGE))
    kind = models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(os.fspath(folder / "text" / "tokenizer.json"))
    save_codec(folder / "codec", CODEC, awake(CODEC))
    return folder


def made(folder, **changes):
    places = [folder / name for name in ("w.safetensors", "text", "codec")]
    return lumina_t2i(*places, length=4, heads=4, grid=(4, 4), steps=2, **changes)


def test_the_latents_are_those_of_its_parts(folder):
    """At another size than the trained one, from the same noise."""
    pipe = made(folder)
    assert pipe.size == (8, 8) and pipe.guidance == 4.0
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 4)).astype(np.float32)
    given = dict(size=(8, 12), guidance=1.0, latents=x, show=False)
    got = pipe("an owl", output="latent", **given)
    ids, mask = jnp.array([[3, 4, 2, 0]]), jnp.array([[True, True, True, False]])
    text = LANGUAGE.apply(awake(LANGUAGE), ids, mask).tokens
    model = replace(MODEL, grid=(4, 6), stretch=Scaled(ntk=1.5), base_tokens=8)
    want = sample(
        jax.random.key(0), model, awake(MODEL), {"text": text, "mask": mask},
        process=Gaussian(Linear(), "velocity"), steps=2, solver=Euler(),
        grid=Shifted(4.0), x_T=jnp.asarray(x),
    )  # fmt: skip
    np.testing.assert_allclose(got, want, atol=1e-5)
    with compilations() as compiled:
        pipe("owl", output="latent", **given)
    assert not compiled


def test_images_are_guided_away_from_an_empty_text(folder):
    pipe = made(folder)
    images = [pipe("an owl", output="array", show=False, guidance=g) for g in (1, 4)]
    assert images[0].shape == (1, 8, 8, 3)
    assert np.abs(images[0] - images[1]).max() > 1e-4


def test_other_weights_say_so(folder, tmp_path):
    other = NextDiT(
        (4, 4), channels=4, dim=32, depth=1, heads=4, groups=4, hidden=256,
        conditioning=Text(16),
    )  # fmt: skip
    save_lumina(tmp_path / "w.safetensors", other, awake(other))
    with pytest.raises(ValueError, match="are of a NextDiT, but"):
        lumina_t2i(tmp_path / "w.safetensors", "", "", heads=4, grid=(4, 4))
