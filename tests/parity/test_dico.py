# SPDX-License-Identifier: Apache-2.0
"""DiCo against arrays that its published code computed.

The code was shallowdream204/DiCo b596b05 (dico_models.py), run in float32 on CPU with
random weights, 8 x 4 pixels. Every block and the
output are within 5e-5.
"""

import jax
import jax.numpy as jnp
import pytest
from parity.stored import bits, cases, compare, write
from safetensors.numpy import load_file

from jdit.interop.dico import load_dico, save_dico

pytestmark = pytest.mark.parity


def test_every_block_is_the_published_one(tmp_path):
    case = cases("dico")["wide"]
    path = write(tmp_path, case)
    model, params = load_dico(path, grid=(8, 4))
    x, index, label = (jnp.asarray(case[k]) for k in ("x", "index", "label"))
    out = jax.jit(model.apply)(params, x, (index + 1) / 1000, {"label": label})
    ours = {
        f"{stage.name.removesuffix('_blocks')} {i}": out.taps[stage.name][i]
        for stage in model.stages
        for i in range(stage.depth)
    }
    compare(ours | {"output": out.prediction}, case, 5e-5)


def test_files_round_trip_bitwise(tmp_path):
    case = cases("dico")["wide"]
    path = write(tmp_path, case)
    save_dico(tmp_path / "b.safetensors", *load_dico(path, grid=(8, 4)))
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
