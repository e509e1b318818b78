# SPDX-License-Identifier: Apache-2.0
"""DiMR against arrays that its published code computed.

The code was qihao067/DiMR fa141ae (libs/core/blocks.py), run in float32 on CPU with
random weights: two resolutions, the learned grid and a smaller one that is not square.
Every block and both predictions, up to 10 in size, are within 5e-5.
"""

import jax
import jax.numpy as jnp
import pytest
from parity.stored import bits, cases, compare, write
from safetensors.numpy import load_file

from jdit.interop.dimr import load_dimr, save_dimr

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name, grid", [("plain", None), ("wide", (4, 6))])
def test_every_block_is_the_published_one(tmp_path, name, grid):
    whole, case = cases("dimr")["plain"], cases("dimr")[name]
    path = write(tmp_path, whole)
    model, params = load_dimr(path, heads=2, grid=grid)
    n, label = (jnp.asarray(whole[key]) for key in ("n", "label"))
    x = jnp.asarray(case["x"])
    out = jax.jit(model.apply)(params, x, n / 1000, {"label": label})
    ours = {
        f"{stage.name.removesuffix('_blocks')} {i}": out.taps[stage.name][i]
        for stage in model.stages
        for i in range(stage.depth)
    }
    ours |= {"coarse": out.taps["coarse"][0], "output": out.prediction}
    compare(ours, case, 5e-5)


def test_files_round_trip_bitwise(tmp_path):
    case = cases("dimr")["plain"]
    path = write(tmp_path, case)
    save_dimr(tmp_path / "b.safetensors", *load_dimr(path, heads=2))
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
