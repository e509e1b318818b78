# SPDX-License-Identifier: Apache-2.0
"""DDT and RAE's wide head against what their official modules computed.

Stored on 2026-11-21 from MCG-NJU/DDT 1d1b4d2 (decoupled_improved_dit.py; a grid that is
not square, and a z of another step) and bytetriper/RAE a4d18c4 (stage2/models/DDT.py,
with timm's PatchEmbed written anew; towers of two widths), with random weights.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import bits, cases, last, near, write
from safetensors.numpy import load_file

from jdit.interop.ddt import load_ddt, load_dit_dh, save_ddt, save_dit_dh

pytestmark = pytest.mark.parity

CASES = cases("ddt")


def load(folder, name):
    path = write(folder, CASES[name])
    if name == "ddt":
        return load_ddt(path, encoder_depth=2, grid=(6, 10))
    return load_dit_dh(path)


def inputs(case, name):
    time = jnp.asarray(case["time"])
    label = {"label": jnp.asarray(case["label"])}
    return jnp.asarray(last(case["x"])), 1 - time if name == "ddt" else time, label


@pytest.mark.parametrize("name, sign", [("ddt", -1), ("head", 1)], ids=["ddt", "head"])
def test_every_block_and_the_velocity(tmp_path, name, sign):
    case = CASES[name]
    model, params = load(tmp_path, name)
    out = model.apply(params, *inputs(case, name))
    taps = [*out.taps["encoder_blocks"], *out.taps["decoder_blocks"]]
    for i, tap in enumerate(taps):
        near(f"block {i}", tap, case[f"block {i}"])
    near("output", sign * out.prediction, last(case["output"]))
    assert np.abs(case["output"]).max() > 0.3  # the weights are not trivial


def test_the_decoder_takes_the_state_of_another_step(tmp_path):
    case = CASES["ddt"]
    model, params = load(tmp_path, "ddt")
    x, time, label = inputs(case, "ddt")
    z = model.encode(params, x, time, label).result
    near("z", z * (1 / (1 + jnp.exp(-z))), case["state"])  # theirs is after SiLU
    near("shared", -model.decode(params, x[::-1], z).result, last(case["shared"]))


@pytest.mark.parametrize(
    "name, save", [("ddt", save_ddt), ("head", save_dit_dh)], ids=["ddt", "head"]
)
def test_the_file_round_trips_bitwise(tmp_path, name, save):
    model, params = load(tmp_path, name)
    save(tmp_path / "b.safetensors", model, params)
    again, state = load_file(tmp_path / "b.safetensors"), dict(CASES[name]["weights"])
    for key in [k for k in again if "pos_embed" in k or "rope" in k]:
        np.testing.assert_allclose(again.pop(key), state.pop(key), atol=1e-6)
    assert bits(again) == bits(state)
