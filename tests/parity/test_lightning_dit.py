# SPDX-License-Identifier: Apache-2.0
"""LightningDiT against what its official module computed from random weights.

Stored on 2026-11-21 from hustvl/LightningDiT 2725fed (models/lightningdit.py), with
timm's PatchEmbed written anew: patches 1 and 2, QK-norm, no shifts, a learned variance.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import bits, cases, last, near, write
from safetensors.numpy import load_file

from jdit.interop.lightning_dit import load_lightning_dit, save_lightning_dit

pytestmark = pytest.mark.parity

CASES = cases("lightning_dit")
each = pytest.mark.parametrize("name", sorted(CASES))


@each
def test_every_block_and_the_velocity(tmp_path, name):
    case = CASES[name]
    model, params = load_lightning_dit(write(tmp_path, case))
    x, label = jnp.asarray(last(case["x"])), jnp.asarray(case["label"])
    out = model.apply(params, x, 1 - jnp.asarray(case["time"]), {"label": label})
    for i, tap in enumerate(out.taps["blocks"]):
        near(f"block {i}", tap, case[f"block {i}"])
    want = last(case["output"])
    prediction = out.prediction[..., : model.channels]  # theirs drops the variance
    near("output", -prediction, want)
    assert np.abs(want).max() > 0.3  # the weights are not trivial


@each
def test_the_file_round_trips_bitwise(tmp_path, name):
    model, params = load_lightning_dit(write(tmp_path, CASES[name]))
    save_lightning_dit(tmp_path / "b.safetensors", model, params)
    again = load_file(tmp_path / "b.safetensors")
    tables = {k: again.pop(k) for k in list(again) if "pos_embed" in k or "rope" in k}
    state = dict(CASES[name]["weights"])
    for key, table in tables.items():
        np.testing.assert_allclose(table, state.pop(key), atol=1e-6)
    assert bits(again) == bits(state)
