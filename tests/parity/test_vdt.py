# SPDX-License-Identifier: Apache-2.0
"""VDT against arrays that its published code computed.

The code was RERV/VDT cdbad2b (models.py), with timm's three classes written anew, run
in float32 on CPU with random weights, 3 frames. Every block and the
output are within 5e-5.
"""

import jax
import jax.numpy as jnp
import pytest
from parity.stored import bits, cases, compare, write
from safetensors.numpy import load_file

from jdit.interop.vdt import load_vdt, save_vdt

pytestmark = pytest.mark.parity


def test_every_block_is_the_published_one(tmp_path):
    case = cases("vdt")["plain"]
    path = write(tmp_path, case)
    model, params = load_vdt(path, heads=3)
    x, index = (jnp.asarray(case[key]) for key in ("x", "index"))
    out = jax.jit(model.apply)(params, x, (index + 1) / 1000)
    ours = {f"block {i}": tap for i, tap in enumerate(out.taps["blocks"])}
    compare(ours | {"output": out.prediction}, case, 5e-5)


def test_files_round_trip_bitwise(tmp_path):
    case = cases("vdt")["plain"]
    path = write(tmp_path, case)
    save_vdt(tmp_path / "b.safetensors", *load_vdt(path, heads=3))
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
