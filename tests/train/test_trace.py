# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps, and the first NaN found."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jdit.train import fit, init_state, make_step
from jdit.train.trace import Trace
from tests.train.tiny import tiny


def test_a_run_traces_the_steps_it_is_asked_for(tmp_path: Path, monkeypatch):
    began: list[str] = []
    start = jax.profiler.start_trace
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda at: (began.append(at), start(at))
    )
    assert fit(tiny(), tmp_path, profile=(3, 4), tensorboard=False).done
    assert began == [str(tmp_path / "profile")]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(RuntimeError):  # nothing is running
        jax.profiler.stop_trace()


@pytest.mark.parametrize("steps", [(0, 2), (4, 3)], ids=["zero", "backwards"])
def test_steps_that_are_none_are_refused(tmp_path: Path, steps):
    with pytest.raises(ValueError, match="profile is .* the first and the last step"):
        Trace(tmp_path, steps)


def test_with_debug_nans_the_first_nan_stops_the_step():
    recipe = tiny()
    batch = {
        "x_0": jnp.full((8, 4, 4, 1), jnp.nan),
        "label": jnp.zeros(8, jnp.int32),
    }
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.block_until_ready(make_step(recipe)(init_state(recipe), batch))
