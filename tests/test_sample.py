# SPDX-License-Identifier: Apache-2.0
"""Sampling: which image depends on what, where it starts, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jdit.guidance import CFG
from jdit.models import Output
from jdit.processes import DDPMLinear, Gaussian, LearnedRange, Linear
from jdit.sample import image_keys, sample
from jdit.solvers import DDPM, DPMSolverPP2MSDE, Respaced, Shifted, UniPC


class Tiny:
    """A model of one line, with labels and twice the channels: a learned variance."""

    sample_shape = (3, 3, 2)

    def memory(self, params, x_t, conditions, policy):
        return ()

    def null(self, conditions):
        return {"label": jnp.full_like(conditions["label"], 9)}

    def apply(self, params, x_t, time, conditions, *, policy, memory, step):
        label = conditions.get("label", jnp.zeros(len(x_t)))
        value = params["w"] * jnp.tanh(x_t) + 0.1 * label.reshape(-1, 1, 1, 1)
        return Output(jnp.concatenate([value, jnp.sin(value)], -1), memory, ())


PARAMS = {"w": jnp.asarray(0.5)}
KEY = jax.random.key(0)
LABELS = {"label": jnp.arange(8)}
FLOW, CHAIN = Gaussian(Linear(), "velocity"), Gaussian(DDPMLinear(), "noise")


def rows(conditions, start, stop):
    return {name: value[start:stop] for name, value in conditions.items()}


SETTINGS = [
    dict(process=FLOW, steps=4, solver=UniPC(), grid=Shifted(2.0), guidance=CFG(2.0)),
    dict(process=CHAIN, steps=4, solver=DDPM(LearnedRange()), grid=Respaced()),
    dict(
        process=CHAIN,
        steps=4,
        solver=DPMSolverPP2MSDE(),
        guidance=CFG(3.0, interval=(0.2, 0.6)),
    ),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: repr(s["solver"]))
def test_an_image_depends_on_its_number_alone(settings):
    """8 at once are 4 and 4; jitted, `first` traced."""
    draw = jax.jit(
        lambda key, conditions, first: sample(
            key, Tiny(), PARAMS, conditions, first=first, **settings
        )
    )
    whole = draw(KEY, LABELS, 0)
    other, (front, back) = jax.random.key(1), (rows(LABELS, i, i + 4) for i in (0, 4))
    parts = [draw(KEY, front, 0)]
    with compilations() as compiled:  # one program for each batch size
        parts.append(draw(KEY, back, 4))
        moved = draw(other, LABELS, 0)
    assert not compiled
    assert whole.shape == (8, 3, 3, 2) and whole.dtype == jnp.float32
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-5)
    assert not np.allclose(moved, whole, atol=1e-2)


def test_starts_where_it_is_told():
    """From the prior's own draw it is the run without x_T; else it is another."""
    keys = image_keys(KEY, 2)
    x_T = jax.vmap(FLOW.prior)(keys, jnp.zeros((2, 3, 3, 2)))
    draw = lambda **extra: sample(  # noqa: E731
        KEY, Tiny(), PARAMS, process=FLOW, steps=2, **extra
    )
    with jax.disable_jit():
        np.testing.assert_allclose(draw(x_T=x_T), draw(count=2), atol=1e-6)
        assert not np.allclose(draw(x_T=x_T + 1), draw(count=2), atol=1e-2)


@pytest.mark.parametrize("solver", [UniPC(), DPMSolverPP2MSDE()])
def test_differentiable_in_the_parameters(solver):
    """Through a history that is empty at first, and through infinite ends."""

    def out(params):
        settings = dict(process=FLOW, steps=3, solver=solver, count=2)
        return sample(KEY, Tiny(), params, **settings).sum()

    gradient = jax.jit(jax.grad(out))(PARAMS)["w"]
    assert jnp.isfinite(gradient) and gradient != 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(steps=0, count=1), "steps is 0, but"),
        (dict(), "count is missing"),
        (dict(count=0), "count is 0"),
        (
            dict(conditions={"label": jnp.arange(3), "size": jnp.arange(4)}),
            r"conditions\['size'\] has 4 entries, but the batch has 3 images",
        ),
        (
            dict(conditions={"label": jnp.arange(3)}, count=4),
            r"conditions\['label'\] has 3 entries, but the batch has 4 images",
        ),
        (
            dict(conditions={"label": jnp.asarray(3)}),
            r"conditions\['label'\] is a single number",
        ),
        (dict(x_T=jnp.zeros((2, 3, 3, 1))), r"x_T has shape \(2, 3, 3, 1\)"),
        (dict(x_T=jnp.zeros((2, 3, 3, 2)), count=3), r"must have shape \(3, 3, 3, 2\)"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(KEY, Tiny(), PARAMS, **dict(process=FLOW, steps=2) | arguments)
