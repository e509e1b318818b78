# SPDX-License-Identifier: Apache-2.0
"""Videos through a codec of images."""

import jax
import numpy as np
import pytest
from tiny_dit import start

from jdit.codecs import AutoencoderKL, Frames

KL = AutoencoderKL(widths=(8, 8), blocks=1, groups=4)


def test_frames_are_coded_each_by_itself():
    video = Frames(KL)
    params = start(video)
    x = jax.random.normal(jax.random.key(1), (2, 3, 8, 4, 3))
    posterior = jax.jit(video.encode)(params, x)
    assert posterior.mean.shape == (2, 3, 4, 2, 4) and video.factor == (1, 2, 2)
    one = jax.jit(KL.encode)(params, x[:, 1])
    np.testing.assert_allclose(posterior.mean[:, 1], one.mean, atol=1e-5)
    assert posterior.sample(jax.random.key(2)).shape == posterior.mean.shape
    kl = sum(jax.jit(KL.encode)(params, x[:, i]).kl() for i in range(3))
    np.testing.assert_allclose(posterior.kl(), kl, rtol=1e-4)
    out = jax.jit(video.decode)(params, posterior.mode)
    np.testing.assert_allclose(
        out[:, 2], jax.jit(KL.decode)(params, posterior.mode[:, 2]), atol=1e-5
    )
    z = video.denormalise(video.normalise(posterior.mode))
    assert np.asarray(z) == pytest.approx(np.asarray(posterior.mode), abs=1e-5)
    assert (video.channels, video.latent_channels) == (3, 4)
