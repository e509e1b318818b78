# SPDX-License-Identifier: Apache-2.0
"""diffusers' scheduler configs give the noise levels of diffusers' schedulers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdit.interop import process_from_diffusers

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

NAMES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels(tmp_path, name, schedule):
    make = getattr(diffusers, name)
    scheduler = make(num_train_timesteps=500, beta_schedule=schedule)
    scheduler.save_pretrained(tmp_path)
    process = process_from_diffusers(tmp_path)
    alpha = process.path((jnp.arange(500) + 1) / 500).alpha
    want = np.sqrt(np.asarray(scheduler.alphas_cumprod))
    np.testing.assert_allclose(np.asarray(alpha), want, rtol=2e-5)
    assert process.target == "noise"
