# SPDX-License-Identifier: Apache-2.0
"""U-ViT against arrays that its published code computed.

The code was baofff/U-ViT ce55170 (libs/uvit.py, libs/uvit_t2i.py), run in float32 on
CPU with random weights: class labels, no condition, text tokens; with and without the
last convolution and biases of queries, keys and values. Every
block and the output, up to 10 in size, are within 5e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.stored import bits, cases, compare, write
from safetensors.numpy import load_file

from jdit.interop.uvit import load_uvit, save_uvit

pytestmark = pytest.mark.parity
each = pytest.mark.parametrize("name", ["label", "plain", "text"])


@each
def test_every_block_is_the_published_one(tmp_path, name):
    case = cases("uvit")[name]
    path = write(tmp_path, case)
    model, params = load_uvit(path, heads=2, text_tokens=5)
    x, n = (jnp.asarray(case[key]) for key in ("x", "n"))
    conditions = {k: jnp.asarray(case[k]) for k in ("label", "text") if k in case}
    out = jax.jit(model.apply)(params, x, n / 1000, conditions)
    taps = np.concatenate([out.taps[stage.name] for stage in model.stages])
    ours = {f"block {i}": tap for i, tap in enumerate(taps)}
    compare(ours | {"output": out.prediction}, case, 5e-5)


@each
def test_files_round_trip_bitwise(tmp_path, name):
    case = cases("uvit")[name]
    path = write(tmp_path, case)
    model, params = load_uvit(path, heads=2, text_tokens=5)
    save_uvit(tmp_path / "b.safetensors", model, params)
    assert bits(load_file(tmp_path / "b.safetensors")) == bits(case["weights"])
