# SPDX-License-Identifier: Apache-2.0
"""Blocks: the identity at the start, branches that are modulated one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import awake, start

from jdit.blocks import AdaLNZero
from jdit.stack import Branch, Context

BLOCKS = {
    "adaLN-Zero": AdaLNZero(16, 2),
    "adaLN-Zero, qk norm": AdaLNZero(16, 2, mlp_ratio=2.0, qk_norm=True),
}
each = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())

X = jax.random.normal(jax.random.key(0), (2, 6, 16))
CONTEXT = Context(jax.random.normal(jax.random.key(1), (2, 16)))


def run(block, params, x=X, context=CONTEXT):
    for name in block.branches:
        branch = Branch(block, name, params[name], context)
        x = branch.merge(x, branch(x, branch.weights))
    return x


@each
def test_is_the_identity_at_the_start(block):
    np.testing.assert_array_equal(run(block, start(block)), X)


@each
def test_learns_from_the_start(block):
    """The gates get gradients although the output is the input."""
    params = start(block)
    grads = jax.grad(lambda p: jnp.sum(run(block, p) * X[..., ::-1]))(params)
    for name in block.branches:
        assert np.abs(grads[name]["gate"]["kernel"]).max() > 1e-3


@each
def test_each_branch_has_its_own_modulation(block):
    """Closing the gate of one branch leaves exactly the other."""
    params = awake(block)
    for name in block.branches:
        closed = jax.tree.map(jnp.zeros_like, params[name]["gate"])
        others = params | {name: params[name] | {"gate": closed}}
        x = X
        for other in block.branches:
            if other != name:
                branch = Branch(block, other, params[other], CONTEXT)
                x = branch.merge(x, branch(x, branch.weights))
        np.testing.assert_allclose(run(block, others), x, atol=1e-6)


@each
def test_an_output_is_ungated(block):
    """A cache keeps outputs: they know no gate, and a merge knows nothing else."""
    params = awake(block)
    for name in block.branches:
        branch = Branch(block, name, params[name], CONTEXT)
        ungated = {k: v for k, v in params[name].items() if k != "gate"}
        output = branch(X, ungated)
        merge = Branch(block, name, {"gate": params[name]["gate"]}, CONTEXT).merge
        np.testing.assert_array_equal(
            merge(X, output), branch.merge(X, branch(X, branch.weights))
        )
        assert output.shape == X.shape


@each
def test_an_image_does_not_see_another(block):
    params = awake(block)
    alone = run(block, params, X[1:], Context(CONTEXT.vector[1:]))
    np.testing.assert_allclose(run(block, params)[1:], alone, atol=1e-5)


@each
def test_computes_in_the_dtype_of_the_stream(block):
    params = awake(block)
    low = Context(CONTEXT.vector.astype(jnp.bfloat16))
    out = run(block, params, X.astype(jnp.bfloat16), low)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), run(block, params), atol=0.15)
