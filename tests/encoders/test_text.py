# SPDX-License-Identifier: Apache-2.0
"""What sets the text encoders apart, and what they refuse."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_dit import start

from jdit.encoders import Bert, CLIPText, Decoder, Llama3Scaling, Rotary, T5Encoder
from jdit.encoders.layers import Attention, OffsetRMSNorm
from jdit.linear import call

SMALL = dict(vocab=20, dim=16, depth=2, heads=2, hidden=12)
T5, CLIP, BERT = (
    T5Encoder(**SMALL, width=8),
    CLIPText(**SMALL, positions=6, eos=19),
    Bert(**SMALL, positions=6),
)
LM = Decoder(**SMALL, groups=1, width=8)


def test_buckets_depend_on_distance_and_grow_with_it():
    index = T5Encoder().positions(300)
    for k in (-299, -130, -9, 0, 7, 64, 250):
        assert len(set(np.diagonal(index, k))) == 1
    right = index[0]  # keys to the right of the first query
    assert right[0] == 0 and np.all(np.diff(right[1:]) >= 0)
    assert list(right[1:8]) == [17, 18, 19, 20, 21, 22, 23]  # exact below a quarter
    assert np.array_equal(index[:, 0][1:] + 16, right[1:])  # and mirrored
    assert right[128] == right[299] == 31


def test_rotations_are_relative():
    """A turned query times a turned key depends on the difference of positions."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    turn = Rotary(100.0).turn
    q, k = (turn(jnp.broadcast_to(x, (1, 1, 12, 8)))[0, 0] for x in (q, k))
    products = np.asarray(q @ k.T)
    for offset in range(-11, 12):
        diagonal = np.diagonal(products, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)


def test_llama_3_slows_slow_rotations():
    scaling = Llama3Scaling(factor=8.0, low=1.0, high=4.0, original=64)
    rates = Rotary(10000.0).rates(64)
    waves, ratio = 2 * np.pi / rates, scaling(rates) / rates
    np.testing.assert_allclose(ratio[waves < 16], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[waves > 64], 1 / 8, rtol=1e-6)
    between = (waves > 16) & (waves < 64)
    mixed = (64 / waves[between] - 1) / 3  # from 0 at 64 to 1 at 16 tokens
    want = mixed + (1 - mixed) / 8
    np.testing.assert_allclose(ratio[between], want, rtol=1e-4)
    assert np.array_equal(Rotary(10000.0, scaling).rates(64), scaling(rates))


def test_windows_bound_how_far_a_token_reaches():
    """With windows of 2 tokens a change moves on by one token a layer."""
    model = replace(LM, windows=(2,))
    params = start(model)
    ids = jnp.arange(8)[None]
    run = jax.jit(model.hidden_states)
    moved = np.abs(run(params, ids.at[0, 2].set(9)) - run(params, ids)).max((1, 3))
    reached = [set(np.flatnonzero(state > 1e-6)) for state in moved]
    assert reached == [{2}, {2, 3}, {2, 3, 4}]
    assert replace(LM, windows=(2, None)).window(8).tolist() == [2, 8]
    assert replace(LM, windows=(8, None)).window(8) is None


def test_hidden_layers_are_indexed_from_both_ends():
    params, ids = start(LM), jnp.arange(6)[None]
    states = LM.hidden_states(params, ids)
    for layer in range(-3, 3):
        tokens = replace(LM, layer=layer).apply(params, ids).tokens
        np.testing.assert_allclose(tokens, states[layer], atol=1e-6)
    scaled = replace(LM, embed_scale=3.0, layer=0).apply(params, ids).tokens
    np.testing.assert_allclose(scaled, 3 * states[0], atol=1e-6)


def test_clip_pools_at_the_first_end():
    ids = jnp.array([[1, 19, 19, 3], [1, 2, 3, 19], [4, 5, 6, 7]])
    assert CLIP.end(ids).tolist() == [1, 3, 0]
    old = replace(CLIP, eos=2)  # where the largest id is
    assert old.end(jnp.array([[1, 2, 9, 2], [7, 2, 2, 2]])).tolist() == [2, 0]


def test_clip_skips_layers_but_pools_the_last():
    params, ids = start(CLIP), jnp.array([[1, 4, 19, 0]])
    states = CLIP.hidden_states(params, ids)
    plain = CLIP.apply(params, ids)
    for skip in (0, 1, 2):
        out = replace(CLIP, skip=skip, normed=False).apply(params, ids)
        np.testing.assert_allclose(out.tokens, states[2 - skip], atol=1e-6)
        np.testing.assert_allclose(out.pooled, plain.pooled, atol=1e-6)
    np.testing.assert_allclose(plain.pooled[0], plain.tokens[0, 2], atol=1e-6)


def test_bert_pools_real_tokens_to_unit_length():
    params = start(BERT)
    ids, mask = jnp.array([[3, 4, 5, 0]]), jnp.array([[1, 1, 1, 0]])
    out = BERT.apply(params, ids, mask)
    assert float(jnp.linalg.norm(out.pooled)) == pytest.approx(1, abs=1e-5)
    raw = replace(BERT, unit=False).apply(params, ids, mask).pooled
    np.testing.assert_allclose(raw[0], out.tokens[0, :3].mean(0), atol=1e-5)
    first = replace(BERT, pooling="class", unit=False).apply(params, ids, mask)
    np.testing.assert_allclose(first.pooled, out.tokens[:, 0], atol=1e-6)


def test_softcap_bounds_and_vanishes():
    """Far above the logits it changes nothing; near zero all keys weigh the same."""
    x = jax.random.normal(jax.random.key(0), (1, 5, 16))
    plain = Attention(2, 8)
    params = plain.init(jax.random.key(1), x)["params"]
    want = call(plain, params, x)
    np.testing.assert_allclose(
        call(Attention(2, 8, softcap=1e4), params, x), want, atol=1e-5
    )
    flat = call(Attention(2, 8, softcap=1e-6), params, x)
    np.testing.assert_allclose(
        flat, jnp.broadcast_to(flat[:, :1], flat.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        flat, call(Attention(2, 8, scale=0.0), params, x), atol=1e-5
    )


def test_an_offset_norm_counts_from_one():
    x = jax.random.normal(jax.random.key(0), (3, 8))
    zero = call(OffsetRMSNorm(), {"scale": jnp.zeros(8)}, x)
    np.testing.assert_allclose(jnp.square(zero).mean(-1), 1, atol=1e-4)
    one = call(OffsetRMSNorm(), {"scale": jnp.ones(8)}, x)
    np.testing.assert_allclose(one, 2 * zero, atol=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: replace(T5, depth=0), "depth is 0, but it must be >= 1"),
        (lambda: replace(T5, dtype="float16"), "dtype is 'float16'"),
        (lambda: replace(T5, buckets=6), "buckets is 6 and reach 128"),
        (lambda: replace(CLIP, heads=3), "dim 16 is not a multiple of heads 3"),
        (lambda: replace(CLIP, skip=3), "skip is 3, but it must be between 0 and"),
        (lambda: replace(BERT, pooling="max"), "pooling is 'max'"),
        (lambda: replace(BERT, pooler=False, pooling="pooler"), "pooler is False"),
        (lambda: replace(LM, groups=3), "heads 2 is not a multiple of groups 3"),
        (lambda: replace(LM, layer=3), "layer is 3, but there are 3 hidden states"),
        (lambda: replace(LM, width=7), "width is 7"),
        (lambda: replace(LM, order="post"), "order is 'post'"),
        (lambda: replace(LM, windows=(0,)), r"windows is \(0,\)"),
    ],
    ids=range(12),
)
def test_impossible_encoders_say_so(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "ids, mask, words",
    [
        (jnp.zeros((1, 7), int), None, "7 tokens, but this encoder reads at most 6"),
        (jnp.zeros((1, 4)), None, "ids are float32"),
        (jnp.zeros(4, int), None, r"of shape \(4,\)"),
        (jnp.zeros((1, 4), int), jnp.ones((1, 5)), r"mask has shape \(1, 5\)"),
    ],
    ids=["long", "float", "flat", "mask"],
)
def test_wrong_ids_say_so(unchecked, ids, mask, words):
    shapes = jax.eval_shape(CLIP.init, jax.random.key(0))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda p: CLIP.apply(p, ids, mask), shapes)
