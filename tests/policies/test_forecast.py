# SPDX-License-Identifier: Apache-2.0
"""What is reused, and what is forecast, on outputs that are known in closed form."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.policies import Forecast, Reuse
from jdit.stack import Context, init_memory, walk

STREAM = jnp.zeros((1, 1, 2))
PARAMS = {"only": {"speed": jnp.array([1.0, -2.0, 0.5])}}  # three layers


@dataclass(frozen=True)
class Clockwork:
    """A branch that gives `speed * f(evaluation)`; the vector tells the evaluation."""

    curve: tuple[float, ...]  # the polynomial's coefficients
    branches = ("only",)

    def output(self, name, params, stream, context):
        value = jnp.polyval(jnp.array(self.curve), context.vector[:, None])
        return jnp.broadcast_to(params["speed"] * value, stream.shape)

    def merge(self, name, params, stream, output, context):
        return stream + output


def curve_seen(policy, curve, evaluations=12):
    """The stream after the layers at each evaluation, over the speeds' sum."""
    block = Clockwork(curve)

    def step(memory, i):
        context = Context(jnp.full((1, 1), i, jnp.float32))
        out = walk(block, PARAMS, STREAM, context, policy=policy, memory=memory, step=i)
        return out.memory, out.stream[0, 0, 0] / PARAMS["only"]["speed"].sum()

    first = init_memory(block, PARAMS, STREAM, Context(jnp.zeros((1, 1))), policy)
    return jax.jit(lambda: jax.lax.scan(step, first, jnp.arange(evaluations))[1])()


SQUARE, LINE = (1.0, 2.0, 3.0), (2.0, -5.0)


def test_reuse_holds_the_last_computed_value():
    seen = curve_seen(Reuse(4), SQUARE)
    held = np.arange(12) // 4 * 4
    np.testing.assert_allclose(seen, np.polyval(SQUARE, held), rtol=1e-6)


def test_order_zero_is_reuse():
    same = curve_seen(Forecast(4, order=0, warmup=1), SQUARE)
    np.testing.assert_array_equal(same, curve_seen(Reuse(4), SQUARE))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("interval", [2, 3, 5])
def test_first_differences_follow_a_line_exactly(interval, order):
    seen = curve_seen(Forecast(interval, order), LINE)
    np.testing.assert_allclose(seen, np.polyval(LINE, np.arange(12)), atol=1e-4)


def test_one_known_value_is_held():
    """Before a second output is known, its difference is zero: reuse."""
    seen = curve_seen(Forecast(3, warmup=1), LINE, 6)
    line = np.polyval(LINE, np.arange(6))
    np.testing.assert_allclose(seen, [line[0]] * 3 + line[3:].tolist(), atol=1e-4)


def test_the_published_schedule_and_differences():
    """Two computed at first, then each `interval`-th; slopes over their distance.

    On n^2 the slope over a gap g up to n is 2n - g, so that k further on the forecast
    is n^2 + k (2n - g).
    """
    seen = curve_seen(Forecast(4), (1.0, 0.0, 0.0), 12)
    expected = {0: 0, 1: 1}
    for last, gap in ((1, 1), (5, 4), (9, 4)):
        for k in range(4):
            expected[last + k] = last**2 + k * (2 * last - gap)
    np.testing.assert_allclose(seen, [expected[i] for i in range(12)], rtol=1e-5)


def test_second_order_uses_differences_of_differences():
    """TaylorSeer's recurrence: each difference is divided by the last gap."""
    seen = curve_seen(Forecast(2, order=2, warmup=3), (1.0, 0.0, 0.0), 6)
    # Computed at 0, 1, 2: 0, 1, 4. First differences 1, 3; second 2. Forecast at 3:
    # 4 + 3 + 2/2. Computed at 4: 16, first (16-4)/2 = 6, second (6-3)/2 = 1.5.
    np.testing.assert_allclose(seen, [0, 1, 4, 8, 16, 16 + 6 + 0.75], rtol=1e-6)
