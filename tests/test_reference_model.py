# SPDX-License-Identifier: Apache-2.0
"""The shipped reference model loads in one line, and draws what it was taught."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdit
from jdit.pretrained import SHIPPED

LIMIT = 25_000_000


@pytest.fixture(scope="module")
def loaded():
    return jdit.load("glyphs-64")


def draw(loaded, names):
    model, params = loaded
    labels = jnp.array([loaded.classes.index(name) for name in names])
    sampling = loaded.sampling
    run = partial(
        jdit.sample,
        model=model,
        process=loaded.process,
        steps=sampling.steps,
        solver=sampling.solver,
        grid=sampling.grid,
        guidance=sampling.guidance,
    )
    return jax.jit(lambda key, p, y: run(key, params=p, conditions={"label": y}))(
        jax.random.key(0), params, labels
    )


def test_it_is_small_and_is_what_the_issue_of_speed_needs(loaded):
    model, params = loaded
    assert sum(f.stat().st_size for f in (SHIPPED / "glyphs-64").iterdir()) < LIMIT
    assert model.sample_shape == (64, 64, 3) and model.tokens.count == 256
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    assert len(loaded.classes) == model.conditioning.classes == 32
    assert loaded.process.target == "velocity"


def test_it_draws_glyphs(loaded):
    """On white, which the noise it starts from is not; faces yellow, frogs green."""
    x = np.asarray(draw(loaded, ["face-smiling", "animal-amphibian"]))
    corners = x[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0.8
    red, green, blue = np.moveaxis(x[:, 24:40, 24:40].mean((1, 2)), -1, 0)
    assert red[0] > 0.3 and green[0] > 0 and blue[0] < 0
    assert green[1] > red[1] and green[1] > blue[1]
