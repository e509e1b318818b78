# SPDX-License-Identifier: Apache-2.0
"""Captions as condition tokens: what an example is told, and what it is told to be."""

import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_data import encoded_folder, text_encoder

from jdit.data import ArraySource, Captioned, Encoded, pipeline
from jdit.encoders import load_encoder, load_tokenizer


class Greys:
    sample_shape, classes = (2, 2, 3), None

    def source(self):
        x = np.stack([np.full((2, 2, 3), 30 * i, np.uint8) for i in range(3)])
        captions = np.array([f"grey {i}" for i in range(3)])
        return ArraySource("greys", {"x_0": x, "caption": captions})


class Bare(Greys):
    def source(self):
        return ArraySource("bare", {"x_0": np.zeros((3, 2, 2, 3), np.uint8)})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(text_encoder(tmp_path_factory.mktemp("encoder")))


def test_an_example_is_told_by_each_template(encoder):
    given = dict(templates=("{}", "a {}"), gives=("text", "mask", "pooled"))
    data = Captioned(Greys(), encoder, length=4, **given)
    source = data.source()
    assert len(source) == 6
    assert [source[i]["caption"] for i in (0, 1, 5)] == [
        "grey 0", "a grey 0", "a grey 2",
    ]  # fmt: skip
    assert [int(source[i]["x_0"].max()) for i in range(6)] == [0, 0, 30, 30, 60, 60]
    text, params = load_encoder(encoder)
    ids, mask = load_tokenizer(encoder, length=4)(["a grey 2"])
    expected = (
        np.asarray(text.apply(params, jnp.asarray(ids), mask).tokens) * mask[..., None]
    )
    np.testing.assert_allclose(source[5]["text"], expected[0], atol=1e-6)
    mean = expected[0, :3].mean(0)
    unit = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(source[5]["pooled"], unit, atol=1e-6)
    assert source[5]["mask"].tolist() == [True, True, True, False]
    batch = next(pipeline(data, batch=5, seed=0))
    assert batch["text"].shape == (5, 4, 8) and batch["mask"].dtype == bool
    told = data.conditions(np.array([5, 0]))
    assert told.keys() == {"text", "mask", "pooled"}
    np.testing.assert_array_equal(told["text"][0], source[5]["text"])


def test_latents_are_captioned_as_images_are(encoder, tmp_path):
    """They are drawn and scaled by the set that is captioned."""
    x = np.zeros((3, 2, 2, 2, 4), np.float32) - 60
    x[..., :2] = np.arange(3)[:, None, None, None, None]
    columns = {"x_0": x, "label": np.zeros(3, np.int32), "caption": np.array([*"abc"])}
    inner = Encoded(str(encoded_folder(tmp_path, **columns)))
    data = Captioned(inner, encoder, length=4)
    batch = next(pipeline(data, batch=3, seed=0, shuffle=False))
    assert batch["x_0"].shape == (3, 2, 2, 2)
    np.testing.assert_allclose(batch["x_0"][:, 0, 0, 0], [0, 2, 4], atol=1e-5)


def test_what_does_not_fit_is_said(encoder, tmp_path):
    with pytest.raises(ValueError, match="length is 0"):
        Captioned(Greys(), encoder, length=0)
    for templates in ((), ("emoji",)):
        with pytest.raises(ValueError, match="templates is"):
            Captioned(Greys(), encoder, templates=templates)
    with pytest.raises(ValueError, match="there is no 'audio'"):
        Captioned(Greys(), encoder, 4, gives=("audio",)).source()
    with pytest.raises(FileNotFoundError, match="config.json"):
        Captioned(Greys(), str(tmp_path)).source()
    with pytest.raises(ValueError, match="has no captions"):
        Captioned(Bare(), encoder, length=4).source()
