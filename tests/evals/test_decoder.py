# SPDX-License-Identifier: Apache-2.0
"""What decodes the latents of `jdit eval --codec`, and how they are scaled back."""

import jax
import numpy as np
import pytest
from synthetic_data import encoded_folder
from tiny_dit import start

from jdit.codecs import AutoencoderKL, save_codec
from jdit.data import Encoded, Latents
from jdit.evals.decoder import Decoder

CODEC = AutoencoderKL(widths=(4,), blocks=1, groups=2, mid_attention=False)
LATENTS = np.random.default_rng(0).normal(size=(6, 4, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    save_codec(folder, CODEC, start(CODEC))
    return folder


def decoded(z):
    return np.asarray(jax.jit(CODEC.decode)(start(CODEC), z))


def test_latents_are_scaled_back_as_the_codec_says(folder):
    """Six of them by four at once: the last are filled up."""
    decoder = Decoder(folder, None, 4, (4, 4, 4))
    assert decoder.shape == (4, 4, 3)
    want = decoded(LATENTS / CODEC.scaling_factor)
    np.testing.assert_allclose(decoder(LATENTS), want, atol=1e-5)
    assert decoder.fields["codec"].startswith("AutoencoderKL ")
    assert f"scaling_factor={CODEC.scaling_factor}" in decoder.fields["codec_scaling"]


def test_the_scale_of_the_data_comes_before_the_codecs(folder):
    decoder = Decoder(
        folder, Latents("nowhere.npz", scale=0.5, shift=0.25), 6, (4, 4, 4)
    )
    want = decoded(LATENTS / 0.5 + 0.25)
    np.testing.assert_allclose(decoder(LATENTS), want, atol=1e-5)
    assert decoder.fields["codec_scaling"] == "shift=0.25, scale=0.5"


def test_encoded_latents_are_scaled_back_by_codec_or_channel(folder, tmp_path):
    moments = np.concatenate([LATENTS + 3, 0 * LATENTS - 30], -1)
    label = np.zeros(len(moments), np.int32)
    path = str(encoded_folder(tmp_path, False, x_0=moments, label=label))
    plain = Decoder(folder, Encoded(path), 6, (4, 4, 4))
    want = decoded(LATENTS / CODEC.scaling_factor)
    np.testing.assert_allclose(plain(LATENTS), want, atol=1e-5)
    values = (LATENTS + 3).reshape(-1, 4)
    want = decoded(LATENTS * values.std(0) + values.mean(0))
    channels = Decoder(folder, Encoded(path, scaling="channels"), 6, (4, 4, 4))
    np.testing.assert_allclose(channels(LATENTS), want, atol=1e-4)


def test_videos_are_decoded_frame_by_frame(folder):
    decoder = Decoder(folder, None, 2, (3, 4, 4, 4))
    assert decoder.shape == (3, 4, 4, 3)
    videos = decoder(LATENTS.reshape(2, 3, 4, 4, 4))
    want = decoded(LATENTS / CODEC.scaling_factor).reshape(videos.shape)
    np.testing.assert_allclose(videos, want, atol=1e-5)
    assert decoder.fields["codec"].startswith("AutoencoderKL ")
