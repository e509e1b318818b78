# SPDX-License-Identifier: Apache-2.0
"""LaVin-DiT against arrays that its published code computed.

The code was DerrickWang005/LaVin-DiT f372858 (lib/model/dit.py, blocks.py), with
apex's norms and flash attention written anew in plain torch and a SwiGLU of width 20,
run in float32 on CPU with random weights: 3 shown and 2 asked frames of 4 x 6. Every
block and the output are within 5e-5.
"""

import jax
import jax.numpy as jnp
import pytest
from parity.stored import bits, cases, compare, write
from safetensors.numpy import load_file

from jdit.interop.lavin_dit import load_lavin_dit, save_lavin_dit

pytestmark = pytest.mark.parity
GIVEN = dict(heads=4, grid=(2, 4, 6))


def test_every_block_is_the_published_one(tmp_path):
    case = cases("lavin_dit")["plain"]
    model, params = load_lavin_dit(write(tmp_path, case), **GIVEN)
    x, t, shown = (jnp.asarray(case[key]) for key in ("x", "t", "shown"))
    out = jax.jit(model.apply)(params, x, 1 - t, {"shown": shown})
    ours = {
        f"{name} {i}": out.taps["blocks"][name][i]
        for i in range(model.depth)
        for name in ("shown", "asked")
    }
    compare(ours | {"output": out.prediction}, case, 5e-5)


def test_files_round_trip_bitwise(tmp_path):
    case = cases("lavin_dit")["plain"]
    model, params = load_lavin_dit(write(tmp_path, case), **GIVEN)
    save_lavin_dit(tmp_path / "b.safetensors", model, params)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
