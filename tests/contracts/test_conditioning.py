# SPDX-License-Identifier: Apache-2.0
"""Conditioning: dropping gives the null condition exactly; time is told as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.conditioning import (
    Labels,
    LinearClock,
    LogSigmaClock,
    PooledText,
    Text,
    TimeEmbedding,
    frequencies,
)

DROPPING = {
    "labels": (Labels(7, 0.3), {"label": jnp.arange(2000) % 7}),
    "pooled text": (
        PooledText(6, 0.3),
        {"pooled": jax.random.normal(jax.random.key(9), (2000, 6))},
    ),
}
each = pytest.mark.parametrize("part, given", DROPPING.values(), ids=DROPPING.keys())


@each
def test_a_dropped_condition_is_the_null_condition(part, given):
    params = part.init(jax.random.key(0), 8)
    dropped = part.apply(params, part.drop(jax.random.key(1), given))
    null, kept = part.apply(params, part.null(given)), part.apply(params, given)
    is_null = np.all(dropped == null, -1)
    np.testing.assert_array_equal(dropped[~is_null], kept[~is_null])
    # Binomial(2000, 0.3): five standard deviations are 0.051.
    assert abs(is_null.mean() - part.dropout) < 0.051


@each
def test_the_null_condition_does_not_know_what_it_replaced(part, given):
    params = part.init(jax.random.key(0), 8)
    null = part.apply(params, part.null(given))
    np.testing.assert_array_equal(null, jnp.broadcast_to(null[:1], null.shape))


@each
def test_other_conditions_are_left_alone(part, given):
    text = jnp.ones(3)
    assert part.null({**given, "text": text})["text"] is text
    assert part.drop(jax.random.key(0), {**given, "text": text})["text"] is text


@each
def test_dropping_is_a_function_of_the_key(part, given):
    one, two = (part.drop(jax.random.key(3), given) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_negative_embedding_takes_the_place_of_no_text():
    part = PooledText(3)
    given = {"pooled": jnp.ones((2, 3)), "negative": {"pooled": jnp.full((2, 3), 2.0)}}
    np.testing.assert_array_equal(part.null(given)["pooled"], 2)
    with pytest.raises(ValueError, match=r"\['negative'\]\['pooled'\] has shape"):
        part.null({**given, "negative": {"pooled": jnp.ones((1, 3))}})
    for wrong in ({}, {"pooled": jnp.ones((2, 4))}, {"pooled": jnp.ones(3)}):
        with pytest.raises(ValueError, match=r"array \(batch, 3\)"):
            part.null(wrong)


def test_without_dropout_there_is_no_null_class():
    part = Labels(4, dropout=0.0)
    assert part.init(jax.random.key(0), 8)["table"].shape == (4, 8)
    given = {"label": jnp.array([3])}
    assert part.drop(jax.random.key(0), given) is given
    with pytest.raises(ValueError, match="no null class"):
        part.null(given)
    with pytest.raises(
        ValueError, match="label is 4, but this model knows labels 0 to"
    ):
        part.apply(part.init(jax.random.key(0), 8), {"label": jnp.array([4])})


@pytest.mark.parametrize(
    "label, words",
    [
        ([0, 9], "label is 9, but this model knows labels 0 to 4"),
        ([-1, 0], "label is -1"),
        ([0.5, 1.0], "dtype float32, but it must be integer"),
    ],
)
def test_a_label_out_of_range_says_so(label, words):
    part = Labels(5)
    params = part.init(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=words):
        part.apply(params, {"label": jnp.array(label)})


def test_the_null_label_is_in_range():
    Labels(5).check(np.array([0, 5]))
    with pytest.raises(ValueError, match="5 is the null class"):
        Labels(5).check(np.array([6]))


def test_a_missing_label_says_so():
    with pytest.raises(ValueError, match=r"conditions has \['text'\]"):
        Labels(5).null({"text": jnp.zeros(1)})


def test_label_vectors_start_small():
    table = Labels(999).init(jax.random.key(0), 64)["table"]
    assert table.shape == (1000, 64)
    assert float(table.std()) == pytest.approx(0.02, rel=0.02)


def test_frequencies_are_a_point_on_circles():
    """Radius 1 each; slowest turn max_period^(1 - 2/dim) slower than the fastest."""
    table = np.asarray(frequencies(jnp.array([0.0, 1.0, 37.5]), 16, 100.0))
    cos, sin = table[:, :8], table[:, 8:]
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-6)
    np.testing.assert_array_equal(table[0], [1] * 8 + [0] * 8)
    angles = np.arctan2(sin[1], cos[1])
    np.testing.assert_allclose(angles[1:] / angles[:-1], 100 ** (-1 / 8), rtol=1e-5)
    assert angles[0] == pytest.approx(1)


def test_an_odd_width_ends_with_a_zero():
    assert np.all(np.asarray(frequencies(jnp.array([0.3]), 7))[:, -1] == 0)


@pytest.mark.parametrize(
    "clock, data, noise",
    [
        (LinearClock(1000.0, -1.0), -1, 999),
        (LinearClock(1000.0), 0, 1000),
        (LinearClock(-1.0, 1.0), 1, 0),
        (LogSigmaClock(80.0), np.log(1e-8) / 4, np.log(80) / 4),
    ],
)
def test_clocks_at_their_ends(clock, data, noise):
    value = clock(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(value, [data, noise], rtol=1e-6)


def test_the_time_embedding_is_float32_and_starts_as_published():
    params = TimeEmbedding(512).init(jax.random.key(0), jnp.zeros(1))["params"]
    for layer in ("in", "out"):
        assert float(params[layer]["kernel"].std()) == pytest.approx(0.02, rel=0.02)
        assert not np.any(params[layer]["bias"])
    out = TimeEmbedding(512).apply({"params": params}, jnp.zeros(2, jnp.bfloat16))
    assert out.dtype == jnp.float32


GIVEN = {
    "text": jnp.ones((400, 3, 4)),
    "mask": jnp.ones((400, 3), bool),
    "pooled": jnp.ones((400, 2)),
    "negative": {"text": jnp.full((400, 3, 4), 2.0), "mask": jnp.zeros((400, 3), bool)},
}


def test_null_text_is_the_negative_prompt_or_zeros():
    part = Text(4, 2)
    null = part.null(GIVEN)
    assert null["text"] is GIVEN["negative"]["text"]
    assert null["mask"] is GIVEN["negative"]["mask"]
    assert null["pooled"] is GIVEN["pooled"]  # not in "negative": left alone
    bare = {name: x for name, x in GIVEN.items() if name != "negative"}
    null = part.null(bare)
    assert not np.any(null["text"]) and not np.any(null["pooled"])
    assert null["mask"] is bare["mask"]


def test_text_is_dropped_whole_image_by_image():
    dropped = Text(4, 2, dropout=0.3).drop(jax.random.key(0), GIVEN)
    gone = dropped["text"][:, 0, 0] == 2
    assert 0.2 < gone.mean() < 0.4  # binomial(400, 0.3): four standard deviations
    np.testing.assert_array_equal(dropped["mask"], ~gone[:, None].repeat(3, 1))
    assert Text(4, dropout=0.0).drop(jax.random.key(0), GIVEN) is GIVEN


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"text": None}, r"has \['mask', 'negative', 'pooled'\], .* needs 'text'"),
        ({"text": jnp.ones((2, 3, 5))}, r"\['text'\] has shape \(2, 3, 5\).* last 4"),
        ({"pooled": jnp.ones((2, 1, 2))}, r"\['pooled'\] has shape .* takes 2 axes"),
        ({"mask": jnp.ones((400, 4), bool)}, r"\['mask'\] has shape \(400, 4\)"),
    ],
    ids=["missing", "width", "axes", "mask"],
)
def test_other_text_says_so(changes, words):
    given = {k: v for k, v in (GIVEN | changes).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        Text(4, 2).check(given)


def test_another_negative_says_so():
    given = GIVEN | {"negative": {"text": jnp.ones((400, 2, 4))}}
    with pytest.raises(ValueError, match=r"\['negative'\]\['text'\] has shape"):
        Text(4).null(given)
