# SPDX-License-Identifier: Apache-2.0
"""What every objective, every time distribution and every weighting must do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.objectives import (
    Band,
    CosMap,
    Denoising,
    DenoisingVLB,
    DiscreteTime,
    EDMWeight,
    HuberWavelet,
    LogitNormal,
    LogNormalSigma,
    MinSNR,
    Mode,
    Shifted,
    SoftMinSNR,
    Sum,
    Term,
    UniformTime,
    UniformWeight,
)
from jdit.processes import EDM, TARGETS, DDPMLinear, Gaussian, Linear, VPCosine

TIMES = [
    UniformTime(),
    DiscreteTime(),
    LogitNormal(),
    LogitNormal(0.5, 0.6),
    Mode(),
    Mode(-1.0),
    CosMap(),
    LogNormalSigma(),
    Shifted(),
    Shifted(LogitNormal(), 1.5),
    Band(),
]
WEIGHTINGS = [UniformWeight(), MinSNR(), SoftMinSNR(), EDMWeight()]
NOISE = Gaussian(DDPMLinear(), "noise")
OBJECTIVES = [
    (Denoising(), Gaussian()),
    (Denoising(LogitNormal(), MinSNR()), Gaussian(Linear(), "x_0")),
    (Denoising(weighting=MinSNR()), NOISE),
    (Denoising(LogNormalSigma(), EDMWeight()), Gaussian(EDM(), "edm")),
    (Denoising(Shifted(), SoftMinSNR()), Gaussian(VPCosine(), "v")),
    (DenoisingVLB(), NOISE),
    (DenoisingVLB(0.0, MinSNR()), NOISE),
    (HuberWavelet(LogitNormal()), Gaussian()),
    (HuberWavelet(beta=1.0), NOISE),
    (Sum((Term("a", Denoising()), Term("b", Denoising(Mode()), 0.5))), Gaussian()),
]
each_time = pytest.mark.parametrize("times", TIMES, ids=repr)
each_objective = pytest.mark.parametrize(
    "objective, process", OBJECTIVES, ids=[type(o).__name__ for o, _ in OBJECTIVES]
)
DATA = jnp.tile(jnp.linspace(-0.9, 0.9, 6).reshape(1, 2, 3), (4, 1, 1))


class Output(NamedTuple):
    prediction: jax.Array


def linear(weight):
    def network(x_t, time, conditions):
        out = x_t * weight[0] + weight[1] * time[:, None, None]
        return Output(jnp.concatenate([out, jnp.tanh(out)], -1))

    return network


def knows_the_data(process):
    """The best network of all where the data is one point: it has seen it."""

    def network(scaled, time, conditions):
        x_t = scaled / process.scale(jnp.ones_like(scaled), time)
        truth = process.solve(DATA, x_t, time, source="x_0")
        best = process.express(truth, time, to=process.target)
        return Output(jnp.concatenate([best, -jnp.ones_like(best)], -1))

    return network


@each_objective
def test_losses_and_gradients_are_finite_and_compile_once(objective, process):
    params = objective.parameters(jax.random.key(0), None)
    traces = []

    @jax.jit
    def value_and_grad(weight, key):
        traces.append(key)

        def loss(weight):
            losses, metrics = objective(key, linear(weight), params, process, DATA, {})
            assert losses.shape == (4,)
            assert all(value.shape == () for value in metrics.values())
            return losses.mean(), metrics

        return jax.value_and_grad(loss, has_aux=True)(weight)

    weight = jnp.array([0.5, -0.3])
    results = [value_and_grad(weight, jax.random.key(seed)) for seed in range(8)]
    assert len(traces) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
    assert all((gradient != 0).any() for _, gradient in results)
    assert len({float(value) for (value, _), _ in results}) == 8  # the key matters


@each_objective
def test_the_optimum_is_zero_where_it_is_known(objective, process):
    network = knows_the_data(process)
    losses, metrics = objective(jax.random.key(0), network, {}, process, DATA, {})
    error = {name: x for name, x in metrics.items() if name.endswith("error")}
    assert error
    for value in error.values():
        np.testing.assert_allclose(value, 0, atol=1e-5)
    if not isinstance(objective, DenoisingVLB) or objective.weight == 0:
        np.testing.assert_allclose(losses, 0, atol=1e-4)


@each_time
def test_times_lie_in_their_interval_and_depend_on_the_key_alone(times):
    draw = jax.jit(lambda key: times(key, (5000,)))
    time = draw(jax.random.key(0))
    assert time.dtype == jnp.float32 and time.shape == (5000,)
    assert 0 < time.min() and time.max() <= 1
    np.testing.assert_array_equal(time, draw(jax.random.key(0)))
    assert (time != draw(jax.random.key(1))).any()
    assert times(jax.random.key(0), ()).shape == ()


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
@pytest.mark.parametrize("path", [Linear(), EDM(), DDPMLinear()], ids=repr)
def test_weights_are_finite_and_not_negative(weighting, path):
    time = jnp.array([1e-3, 0.02, 0.5, 0.98, 1.0])
    for target in TARGETS:
        weight = weighting(Gaussian(path, target), time)
        assert weight.shape == time.shape
        assert np.isfinite(weight).all() and (weight >= 0).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS[1:], ids=repr)
@pytest.mark.parametrize("path", [Linear(), EDM(), DDPMLinear()], ids=repr)
def test_the_weighted_loss_does_not_depend_on_the_target(weighting, path):
    time = jnp.array([0.02, 0.3, 0.7, 0.95])
    x_0, noise, guess = jax.random.normal(jax.random.key(0), (3, 4, 5))
    losses = []
    for target in TARGETS:
        process = Gaussian(path, target)
        at = path(time[:, None])
        x_t = at.alpha * x_0 + at.sigma * noise
        values = [
            process.convert(value, x_t, time, source="x_0", to=target)
            for value in (x_0, guess)
        ]
        error = jnp.square(values[0] - values[1]).mean(-1)
        losses.append(weighting(process, time) * error)
    for loss in losses[1:]:
        np.testing.assert_allclose(loss, losses[0], rtol=5e-3)
