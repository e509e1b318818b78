# SPDX-License-Identifier: Apache-2.0
"""The shared encoder: neutral where it shares nothing, and as rare as it claims."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import MODEL, awake

import jdit
from jdit.conditioning import Labels
from jdit.denoise import Network
from jdit.guidance import CFG
from jdit.models.ddt import DDT, Tower
from jdit.policies import Always, Observed, Tally
from jdit.processes import Gaussian, Linear
from jdit.wrappers import SharedEncoder, every, sharing_steps, similarity

TOWERS = dict(encoder=Tower(16, 2, 2, 20), decoder=Tower(16, 1, 2, 20))
DDT_ = DDT((4, 4), 2, 2, conditioning=Labels(5), **TOWERS)
PROCESS = Gaussian(Linear(), "velocity")
LABELS = {"label": jnp.array([0, 4])}


@pytest.fixture(scope="module")
def params():
    return awake(DDT_)


def sample(params, wrap, steps=6, policy=None):
    return jax.jit(
        lambda key: jdit.sample(
            key,
            DDT_,
            params,
            LABELS,
            process=PROCESS,
            steps=steps,
            policy=policy,
            guidance=wrap,
        )
    )(jax.random.key(2))


def test_sharing_nothing_is_the_plain_model(params):
    plain = sample(params, None)
    np.testing.assert_allclose(
        sample(params, SharedEncoder(every(1, 6))), plain, atol=1e-5
    )
    assert np.abs(sample(params, SharedEncoder((0,))) - plain).max() > 1e-4


def test_the_encoder_is_computed_as_often_as_claimed(params):
    """Also under guidance, where one call serves both halves of the batch."""
    tally, steps = Tally(), (0, 1, 4)
    out = sample(
        params,
        lambda network: CFG(2.0)(SharedEncoder(steps)(network)),
        policy=Observed(Always(), tally),
    )
    assert np.all(np.isfinite(out))
    jax.effects_barrier()
    for depth in range(3):
        for branch in ("attention", "mlp"):
            assert tally.counts[depth, branch] == (len(steps) if depth < 2 else 6)


def test_in_between_the_last_state_serves(params):
    denoiser = SharedEncoder((0, 2))(Network(DDT_, params, PROCESS))
    x = jax.random.normal(jax.random.key(3), (2, *DDT_.sample_shape))
    memory = denoiser.init(x, LABELS)
    z = []
    for i, time in enumerate((1.0, 0.7, 0.4)):
        _, memory = denoiser(x, jnp.float32(time), LABELS, memory, jnp.int32(i))
        z.append(memory.z)
    np.testing.assert_array_equal(z[0], z[1])
    here = DDT_.encode(params, x, jnp.full(2, 0.4), LABELS).result
    np.testing.assert_allclose(z[2], here, atol=1e-5)


def cost(matrix, steps):
    ends = (*steps[1:], len(matrix))
    return sum(
        1 - matrix[i, start]
        for start, end in zip(steps, ends, strict=True)
        for i in range(start, end)
    )


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_program_finds_the_best_of_all_choices(count):
    z = np.random.default_rng(count).normal(size=(7, 3, 4)).cumsum(0)
    matrix = similarity(jnp.asarray(z, jnp.float32))
    found = sharing_steps(matrix, count)
    choices = [(0, *rest) for rest in combinations(range(1, 7), count - 1)]
    assert found in choices
    assert cost(matrix, found) == pytest.approx(min(cost(matrix, c) for c in choices))


def test_similarity_is_the_mean_cosine():
    z = jnp.array([[[[3.0, 0.0], [0.0, 2.0]]], [[[1.0, 1.0], [0.0, 5.0]]]])
    want = (0.5**0.5 + 1) / 2
    np.testing.assert_allclose(similarity(z), [[1, want], [want, 1]], atol=1e-6)


def test_steps_where_nothing_changes_are_shared():
    matrix = np.kron(np.eye(3), np.ones((4, 4)))
    assert sharing_steps(matrix, 3) == (0, 4, 8)
    assert every(4, 12) == (0, 4, 8)


def test_what_does_not_fit_says_so(unchecked):
    for steps in ((), (1, 2), (0, 3, 2), (0, 0)):
        with pytest.raises(ValueError, match="rise strictly and start at 0"):
            SharedEncoder(steps)
    with pytest.raises(ValueError, match="wraps the Network"):
        SharedEncoder((0,))(Network(MODEL, {}, PROCESS))
    with pytest.raises(ValueError, match="must be square"):
        sharing_steps(np.ones((2, 3)), 1)
    with pytest.raises(ValueError, match="1 to 2"):
        sharing_steps(np.ones((2, 2)), 3)
    with pytest.raises(ValueError, match="interval is 0"):
        every(0, 3)
