# SPDX-License-Identifier: Apache-2.0
"""`contract` and the leaves: shapes, dtypes, array-like weights, gradients."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from jdit.linear import Linear, Linears, Mlp, contract, side_by_side
from jdit.surgery import Int8, LowRank


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("lead", [(), (3,), (2, 5), (2, 3, 4)])
def test_contract_is_the_product_over_the_last_axis(lead):
    x, kernel = draw(*lead, 6), draw(6, 7, seed=1)
    truth = np.einsum(
        "...d,de->...e", *(np.asarray(a, np.float64) for a in (x, kernel))
    )
    np.testing.assert_allclose(contract(x, kernel), truth, atol=1e-5)


def test_gradients_of_contract_are_the_products_by_hand():
    x, kernel, bar = draw(2, 5, 6), draw(6, 7, seed=1), draw(2, 5, 7, seed=2)
    d_x, d_kernel = jax.vjp(contract, x, kernel)[1](bar)
    x64, kernel64, bar64 = (np.asarray(a, np.float64) for a in (x, kernel, bar))
    np.testing.assert_allclose(d_x, bar64 @ kernel64.T, atol=1e-5)
    summed = np.einsum("bnd,bne->de", x64, bar64)
    np.testing.assert_allclose(d_kernel, summed, atol=1e-5)


@flax.struct.dataclass
class Twice:
    """An array-like weight: stands for twice its kernel."""

    kernel: jax.Array

    def contract(self, x: jax.Array) -> jax.Array:
        return 2 * contract(x, self.kernel)


def test_a_weight_may_be_an_array_like_leaf():
    x, module = draw(2, 5, 6), Linear(7)
    params = module.init(jax.random.key(0), x)["params"]
    plain = module.apply({"params": params}, x)
    other = module.apply({"params": {**params, "kernel": Twice(params["kernel"])}}, x)
    np.testing.assert_allclose(other - params["bias"], 2 * (plain - params["bias"]))


class OnTwo:
    """What two devices do to columns: each has its own of every part."""

    count = 2

    def fits(self, features: int, parts: int) -> bool:
        return features % self.count == 0

    def __call__(self, x: jax.Array, parts: int) -> jax.Array:
        return rearrange(x, "... (p t e) -> ... (t p e)", p=parts, t=self.count)


@pytest.mark.parametrize("features", [6, 5])
def test_linears_are_one_linear_cut_in_parts_on_one_device_and_on_two(features):
    x, module = draw(2, 5, 6), Linears(features, parts=3, bias_init=jax.random.normal)
    params = module.init(jax.random.key(0), x)["params"]
    one = Linear(3 * features, bias_init=jax.random.normal)
    same = one.init(jax.random.key(0), x)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, same)
    want = jnp.split(one.apply({"params": params}, x), 3, -1)
    kernel = params["kernel"]
    low = LowRank(Int8.of(kernel), draw(6, 2), draw(2, 3 * features), jnp.float32(0.5))
    for weight in (kernel, low, Int8.of(kernel), Twice(kernel)):
        told = {"params": {**params, "kernel": weight}}
        whole = module.apply(told, x)
        with side_by_side(OnTwo()):
            jax.tree.map(np.testing.assert_array_equal, module.apply(told, x), whole)
        if weight is kernel:
            jax.tree.map(np.testing.assert_array_equal, whole, tuple(want))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_are_float32_and_the_input_sets_the_compute_dtype(dtype):
    x, module = draw(2, 6).astype(dtype), Linear(7)
    params = module.init(jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert module.apply({"params": params}, x).dtype == dtype


def test_linear_without_bias_maps_zero_to_zero():
    module = Linear(7, use_bias=False)
    params = module.init(jax.random.key(0), draw(2, 6))
    assert set(params["params"]) == {"kernel"}
    assert not module.apply(params, jnp.zeros((2, 6))).any()


def mlp() -> tuple[Mlp, dict, jax.Array]:
    module, x = Mlp(24), draw(2, 5, 6)
    return module, module.init(jax.random.key(0), x), x


def test_mlp_is_linear_activation_linear():
    module, params, x = mlp()
    first, second = params["params"]["in"], params["params"]["out"]
    hidden = x @ first["kernel"] + first["bias"]
    cubic = hidden + 0.044715 * hidden**3  # Hendrycks and Gimpel's tanh approximation
    hidden = 0.5 * hidden * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * cubic))
    truth = hidden @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(module.apply(params, x), truth, atol=1e-5)


def test_gradients_of_the_mlp_are_those_of_its_formula():
    module, params, x = mlp()

    def plain(params, x):
        first, second = params["params"]["in"], params["params"]["out"]
        hidden = jax.nn.gelu(x @ first["kernel"] + first["bias"])
        return jnp.sum(jnp.sin(hidden @ second["kernel"] + second["bias"]))

    mine = jax.grad(lambda p, x: jnp.sin(module.apply(p, x)).sum(), (0, 1))(params, x)
    truth = jax.grad(plain, (0, 1))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, truth)


def test_the_mlp_keeps_one_hidden_array_beside_its_input_for_the_gradient():
    """The activation's own intermediates are computed again, not kept."""
    module, params, x = mlp()
    _, vjp = jax.vjp(lambda p, x: module.apply(p, x), params, x)
    kept = [leaf for leaf in jax.tree.leaves(vjp) if leaf.shape[-1:] == (24,)]
    wide = [leaf for leaf in kept if leaf.size == 2 * 5 * 24]
    assert len(wide) == 2  # before and after the activation


def test_forward_mode_goes_through_the_mlp():
    module, params, x = mlp()
    apply = partial(module.apply, params)
    out, tangent = jax.jvp(apply, (x,), (jnp.ones_like(x),))
    step = 1e-2
    slope = (apply(x + step) - apply(x - step)) / (2 * step)
    np.testing.assert_allclose(tangent, slope, atol=1e-3)
