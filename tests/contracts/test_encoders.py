# SPDX-License-Identifier: Apache-2.0
"""Encoders: pure, blind to padding, near in bfloat16, adapted and stored like all."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jdit import encoders
from jdit.encoders import Bert, CLIPText, Decoder, T5Encoder, VisionTransformer
from jdit.encoders.layers import OffsetRMSNorm, gelu_tanh, quick_gelu, relu, silu
from jdit.surgery import LoRA, Quantise
from jdit.surgery.base import Chain, is_leaf

SMALL = dict(vocab=40, dim=32, depth=2, heads=4, hidden=24)
LM = SMALL | dict(groups=2, width=8)
IMAGE = dict(size=8, patch=4, dim=32, depth=2, heads=4, hidden=24)
TEXTS = {
    "t5": T5Encoder(**SMALL, width=12),
    "umt5": T5Encoder(**SMALL, activation=relu, gated=False, biases="each"),
    "clip": CLIPText(**SMALL, positions=12, projection=16, eos=39, skip=1),
    "bert": Bert(**SMALL, positions=12),
    "gemma 2": Decoder(
        **LM,
        norm=OffsetRMSNorm,
        order="sandwich",
        activation=gelu_tanh,
        scale=24**-0.5,
        softcap=5.0,
        windows=(3, None),
        embed_scale=32**0.5,
        layer=-2,
    ),
    "qwen 2": Decoder(**LM, qkv_bias=True),
}
IMAGES = {
    "clip image": encoders.clip_vision_l(**IMAGE, projection=16, activation=quick_gelu),
    "siglip": encoders.siglip_base(**IMAGE),
    "dinov2": VisionTransformer(
        **IMAGE,
        activation=silu,
        gated=True,
        registers=3,
        antialias=True,
        layer_scale=True,
        mask_token=True,
    ),
}
ENCODERS = TEXTS | IMAGES
CAUSAL = ("clip", "gemma 2", "qwen 2")


def each(cases):
    return pytest.mark.parametrize("name", cases)


@cache
def start(name):
    return jax.jit(ENCODERS[name].init)(jax.random.key(0))


@cache
def compiled(encoder):
    return jax.jit(encoder.apply)


def inputs(name):
    """Three texts of 9 tokens, cut to 9, 5 and 2; or two images."""
    random = np.random.default_rng(0)
    if name in IMAGES:
        return jnp.asarray(random.uniform(-1, 1, (3, 8, 8, 3)), jnp.float32), None
    ids, length = random.integers(3, 38, (3, 9)), np.array([9, 5, 2])
    ids[np.arange(3), length - 1] = 39
    return jnp.asarray(ids), jnp.asarray(np.arange(9) < length[:, None])


@each(ENCODERS)
def test_shapes_and_dtypes(name):
    encoder, (x, mask) = ENCODERS[name], inputs(name)
    out = jax.eval_shape(encoder.apply, start(name), x, mask)
    assert out.tokens.shape[0] == 3 and out.tokens.shape[-1] == encoder.features
    assert out.tokens.dtype == jnp.float32
    if name in TEXTS:
        assert out.tokens.shape[1] == 9
    if out.pooled is not None:
        assert out.pooled.ndim == 2 and out.pooled.dtype == jnp.float32


@each(TEXTS)
def test_padding_is_not_read(name):
    """Other ids behind the mask leave every real token as it is; CLIP's end, too."""
    (ids, mask), params = inputs(name), start(name)
    run = compiled(TEXTS[name])
    one, other = (run(params, jnp.where(mask, ids, fill), mask) for fill in (0, 1))
    np.testing.assert_allclose(one.tokens[mask], other.tokens[mask], atol=1e-6)
    if one.pooled is not None:
        np.testing.assert_allclose(one.pooled, other.pooled, atol=1e-6)
    assert np.abs(one.tokens[~mask] - other.tokens[~mask]).max() > 1e-4


@each(ENCODERS)
def test_examples_are_independent(name):
    """Swapping the examples of a batch swaps what comes out, and changes nothing."""
    (x, mask), params = inputs(name), start(name)
    run, turn = compiled(ENCODERS[name]), partial(jnp.roll, shift=1, axis=0)
    whole = run(params, x, mask)
    turned = run(params, turn(x), None if mask is None else turn(mask))
    np.testing.assert_allclose(turned.tokens, turn(whole.tokens), atol=1e-5)
    assert np.abs(whole.tokens[0] - whole.tokens[1]).max() > 1e-2


@each(TEXTS)
def test_who_sees_whom(name):
    """A later token reaches an earlier one unless the encoder is causal."""
    (ids, mask), params = inputs(name), start(name)
    run = compiled(TEXTS[name])
    late = run(params, ids.at[0, 5].set((ids[0, 5] + 1) % 38), mask).tokens
    moved = np.abs(late - run(params, ids, mask).tokens)
    assert moved[0, 5].max() > 1e-4 and moved[0, 6].max() > 1e-5
    assert not moved[1:].any()
    assert (moved[0, :5].max() > 1e-5) != (name in CAUSAL)


@each(ENCODERS)
def test_bfloat16_is_near_with_finite_gradients(name):
    (x, mask), params = inputs(name), start(name)
    low = replace(ENCODERS[name], dtype="bfloat16")

    def total(params):
        out = low.apply(params, x, mask)
        return sum(jnp.mean(jnp.square(y)) for y in out if y is not None), out

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), grads = run(params)
    exact = compiled(ENCODERS[name])(params, x, mask).tokens
    assert out.tokens.dtype == jnp.float32
    assert np.abs(out.tokens - exact).max() < 0.06 * np.abs(exact).max()
    for grad in jax.tree.leaves(grads):
        assert grad.dtype == jnp.float32 and np.all(np.isfinite(grad))
    kernel = grads["layers"]["attention"]["q"]["kernel"]
    assert np.abs(kernel[0]).max() > 0


@each(ENCODERS)
def test_does_not_compile_twice(name):
    (x, mask), params = inputs(name), start(name)
    run = compiled(ENCODERS[name])
    others = (x + 0, None if mask is None else ~mask | True)
    run(params, x, mask)
    with compilations() as names:
        run(params, *others)
    assert not names


@each(ENCODERS)
def test_weights_may_be_array_like(name):
    """Eight-bit weights under a fresh adapter compute what their dense form does."""
    (x, mask), params = inputs(name), start(name)
    encoder, key = ENCODERS[name], jax.random.key(1)
    everywhere = r"layers/.*kernel$"
    change = Chain((Quantise(everywhere), LoRA(2, targets=everywhere)))
    _, changed = change(encoder, params, key)
    run = compiled(encoder)
    exact, ours = run(params, x, mask).tokens, run(changed, x, mask).tokens
    dense = lambda leaf: leaf.dense() if is_leaf(leaf) else leaf  # noqa: E731
    plain = jax.tree.map(dense, changed, is_leaf=is_leaf)
    np.testing.assert_allclose(ours, run(plain, x, mask).tokens, atol=3e-5)
    assert 0 < np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()


@each(ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_round_trip_bitwise(name, dtype, tmp_path):
    encoder, params = ENCODERS[name], start(name)
    params = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    encoders.save_encoder(tmp_path, encoder, params, dtype=dtype)
    again, same = encoders.load_encoder(tmp_path)
    chosen = {
        field: getattr(encoder, field)
        for field in ("layer", "skip", "normed")
        if hasattr(encoder, field) and not callable(getattr(encoder, field))
    }
    assert replace(again, **chosen) == encoder
    assert jax.tree.structure(same) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, same))
