# SPDX-License-Identifier: Apache-2.0
"""DiT's loss, and sums of losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.objectives import Denoising, DenoisingVLB, DiscreteTime, Sum, Term
from jdit.processes import DDPMLinear, Gaussian

NOISE = Gaussian(DDPMLinear(), "noise")
DATA = jax.random.uniform(jax.random.key(5), (8, 3, 2), minval=-1)


class Output(NamedTuple):
    prediction: jax.Array


def network(mean, variance=None):
    def call(x_t, time, conditions):
        parts = [mean * x_t] + ([] if variance is None else [variance * x_t])
        return Output(jnp.concatenate(parts, -1))

    return call


def run(objective, net, key=0, process=NOISE, params=None):
    return objective(jax.random.key(key), net, params or {}, process, DATA, {})


def test_the_bound_trains_the_variance_and_the_error_the_mean():
    @jax.jit
    @jax.jacrev
    def gradients(weights):
        return run(DenoisingVLB(), network(*weights))[1]

    gradient = gradients(jnp.array([0.4, 0.2]))
    assert gradient["vlb"][0] == 0 and gradient["vlb"][1] != 0
    assert gradient["error"][0] != 0 and gradient["error"][1] == 0


def test_the_loss_is_the_error_plus_the_weighted_bound():
    losses, metrics = run(DenoisingVLB(0.25), network(0.4, 0.2))
    expected = metrics["error"] + 0.25 * metrics["vlb"]
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5)
    plain, _ = run(Denoising(DiscreteTime()), network(0.4))
    np.testing.assert_allclose(plain.mean(), metrics["error"], rtol=1e-5)


def test_the_bound_wants_a_discrete_path_and_a_variance():
    with pytest.raises(ValueError, match="path Linear.., but DenoisingVLB needs a dis"):
        run(DenoisingVLB(), network(0.4, 0.2), process=Gaussian())
    with pytest.raises(ValueError, match="the prediction has no variance"):
        run(DenoisingVLB(), network(0.4))


class Owner:
    """An objective with a parameter: the loss is its square."""

    def parameters(self, key, model):
        return {"scale": jax.random.normal(key, ())}

    def __call__(self, key, network, params, process, x_0, conditions):
        losses = jnp.full(len(x_0), params["scale"] ** 2)
        return losses, {"scale": params["scale"]}


def test_a_sum_gives_each_term_its_parameters_its_weight_and_its_name():
    terms = Term("a", Owner(), 2.0), Term("b", Owner(), 3.0), Term("c", Denoising())
    objective = Sum(terms)
    params = objective.parameters(jax.random.key(0), None)
    assert set(params) == {"a", "b", "c"} and params["c"] == {}
    a, b = params["a"]["scale"], params["b"]["scale"]
    assert a != b
    losses, metrics = run(objective, network(0.4), params=params)
    plain, _ = run(Denoising(), network(0.4))
    np.testing.assert_allclose(losses, 2 * a**2 + 3 * b**2 + plain, rtol=1e-5)
    assert set(metrics) == {"a", "b", "c", "a/scale", "b/scale", "c/error"}
    np.testing.assert_allclose(metrics["b"], b**2, rtol=1e-6)


def test_a_sum_needs_terms_with_names_that_differ():
    with pytest.raises(ValueError, match="terms are named"):
        Sum(())
    with pytest.raises(ValueError, match=r"terms are named \['a', 'a'\]"):
        Sum((Term("a", Denoising()), Term("a", Denoising())))
