# SPDX-License-Identifier: Apache-2.0
"""LaVin-DiT's autoencoder against arrays that its published code computed.

The code was DerrickWang005/LaVin-DiT f372858 (lib/model/vae3d.py), unchanged, run in
float32 on CPU: three levels, 32 to 64 channels, one block each, 2 latent channels,
compressing time 4 and 2 times; clips of 1 to 9 frames, one of them of 6, which decodes
to 5. Weights are not stored: they are drawn here as there, by the stored shapes.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import bits, cases, last, near
from safetensors.numpy import load_file, save_file

from jdit.codecs import AutoencoderKLSTVAE, load_lavin_vae, save_lavin_vae

pytestmark = pytest.mark.parity

CODEC = AutoencoderKLSTVAE(latent_channels=2, widths=(32, 32, 64), blocks=1)


@cache
def state():
    """By key, in alphabetic order, from numpy's stream that never changes."""
    rng, found = np.random.RandomState(0), {}
    shapes = cases("lavin_vae")["shapes"]
    for key in sorted(shapes.keys() - {"weights"}):
        shape = tuple(shapes[key])
        fan = np.prod(shape[1:]) if len(shape) > 1 else 100
        one = len(shape) == 1 and key.endswith("weight")
        found[key] = (rng.normal(size=shape) / np.sqrt(fan) + one).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("lavin") / "a.safetensors"
    save_file(state(), path)
    return load_lavin_vae(path, CODEC)[1]


@pytest.mark.parametrize("name", ["4 x 1", "4 x 5", "4 x 9", "4 x 6", "2 x 3"])
def test_clips_are_coded_alike(params, name):
    """How many times time is compressed, and frames."""
    codec, case = replace(CODEC, time_factor=int(name[0])), cases("lavin_vae")[name]
    x, z = jnp.asarray(last(case["x"])), jnp.asarray(last(case["z"]))
    posterior = jax.jit(codec.encode)(params, x)
    assert posterior.mean.shape[1:4] == codec.latent_grid(x.shape[1:4])
    near("mean", posterior.mean, last(case["mean"]))
    near("logvar", posterior.logvar, last(case["logvar"]))
    video = jax.jit(codec.decode)(params, z)
    assert video.shape[1:4] == codec.data_grid(z.shape[1:4])
    near("video", video, last(case["video"]))


def test_files_round_trip_bitwise(tmp_path, params):
    save_lavin_vae(tmp_path / "b.safetensors", CODEC, params)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(state())
