# SPDX-License-Identifier: Apache-2.0
"""Features of a stream of images, and the scores of the stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.data import to_uint8
from jdit.evals import Reference, Statistics, compare, evaluate, extract

IMAGES = np.random.default_rng(0).uniform(-1, 1, (50, 4, 4, 3)).astype(np.float32)
OTHERS = np.random.default_rng(1).uniform(-1, 0.5, (30, 4, 4, 3)).astype(np.float32)


def corners(images):
    return images.reshape(len(images), -1)[:, :5]


def test_a_stream_of_any_batches_gives_the_same_features():
    whole = np.concatenate(list(extract(corners, IMAGES, batch=64)))
    np.testing.assert_array_equal(whole, corners(IMAGES))
    parts = np.split(IMAGES, [0, 3, 17])
    streamed = np.concatenate(list(extract(corners, iter(parts), batch=8)))
    np.testing.assert_array_equal(streamed, whole)


def test_a_feature_function_compiles_once():
    traces = []

    @jax.jit
    def features(images):
        traces.append(images.shape)
        return jnp.mean(images, (1, 2))

    list(extract(features, np.split(IMAGES, [7, 20]), batch=16))
    assert traces == [(16, 4, 4, 3)]


def test_bytes_are_images_too():
    as_bytes = np.concatenate(list(extract(corners, to_uint8(IMAGES))))
    np.testing.assert_allclose(as_bytes, corners(IMAGES), atol=1.01 / 255)


def test_streamed_scores_are_those_of_the_whole():
    reference = Reference.of(np.split(IMAGES, 5), corners, batch=8)
    scores = evaluate(np.split(OTHERS, 3), corners, reference, batch=7)
    assert scores == pytest.approx(evaluate(OTHERS, corners, reference))
    expected = compare(corners(IMAGES), corners(OTHERS))
    assert expected == pytest.approx(
        {k: v for k, v in scores.items() if k != "frechet"}
    )


def test_a_reference_of_statistics_gives_the_frechet_distance_alone():
    reference = Reference(Statistics.of(corners(IMAGES)))
    scores = evaluate(IMAGES, corners, reference)
    assert set(scores) == {"frechet"} and scores["frechet"] < 1e-10


def test_bad_streams_are_refused():
    reference = Reference.of(IMAGES, corners)
    with pytest.raises(ValueError, match="generated images is empty"):
        evaluate(iter([]), corners, reference)
    with pytest.raises(ValueError, match="real images is empty"):
        Reference.of(IMAGES[:0], corners)
    with pytest.raises(ValueError, match="n h w c"):
        evaluate(IMAGES[0], corners, reference)
    with pytest.raises(ValueError, match="changed from 48 to 12"):
        flat = lambda images: images.reshape(len(images), -1)  # noqa: E731
        list(extract(flat, iter([IMAGES, IMAGES[..., :1, :]])))
    with pytest.raises(ValueError, match="NaN"):
        evaluate(IMAGES * np.nan, corners, reference)
    with pytest.raises(ValueError, match="differ in dimension: 48 .* 5"):
        evaluate(IMAGES, lambda x: x.reshape(len(x), -1), reference)
    with pytest.raises(ValueError, match="the first set has 1"):
        evaluate(IMAGES[:1], corners, reference)
