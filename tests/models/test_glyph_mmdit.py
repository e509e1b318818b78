# SPDX-License-Identifier: Apache-2.0
"""MM-DiT on spliced text against MM-DiT on the text it splices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count, shape_of_prediction

from jdit.conditioning import Text
from jdit.interop.mmdit import save_mmdit
from jdit.models.glyph_mmdit import GlyphMMDiT, TextAndGlyphs
from jdit.models.mmdit import MMDiT
from jdit.recipe import load_recipe
from jdit.tokens.rotary_geometries import Centred

SIZE = dict(grid=(4, 4), channels=2, dim=16, depth=2, heads=2, max_size=6, qk_norm=True)
SIZE["rotary"] = Centred((4, 4), (2, 2))
PLAIN = MMDiT(**SIZE, conditioning=Text(6, 3))
MODEL = GlyphMMDiT(
    **SIZE, conditioning=TextAndGlyphs(6, 3, second_features=5), text_tokens=8
)


def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


GIVEN = {
    "text": draw(2, 3, 6),
    "second_text": draw(2, 4, 5),
    "pooled": draw(2, 3),
    "mask": jnp.arange(3) < jnp.array([[3], [2]]),
    "second_mask": jnp.arange(4) < jnp.array([[0], [3]]),
}
X_T, TIME = draw(2, 4, 4, 2), jnp.array([0.3, 0.8])


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return jax.tree.map(lambda x: 0.3 * draw(*x.shape, seed=1), shapes)


@pytest.fixture(scope="module")
def run(params):
    run = jax.jit(lambda p, c: MODEL.apply(p, X_T, TIME, c).prediction)
    return lambda given, p=params: np.asarray(run(p, given))


def spliced(params):
    """What GlyphMMDiT shall see as text."""
    mlp = params["glyphs"]
    hidden = GIVEN["second_text"] @ mlp["in"]["kernel"] + mlp["in"]["bias"]
    glyphs = jax.nn.gelu(hidden) @ mlp["out"]["kernel"] + mlp["out"]["bias"]
    return jnp.concatenate([GIVEN["text"], glyphs], 1)


def test_without_positions_it_is_mmdit_on_the_spliced_text(params, run):
    table = params["text_positions"]["table"]
    found = run(GIVEN, params | {"text_positions": {"table": 0 * table}})
    mask = jnp.concatenate([GIVEN["mask"], GIVEN["second_mask"]], 1)
    told = {"text": spliced(params), "mask": mask, "pooled": GIVEN["pooled"]}
    want = PLAIN.apply(params, X_T, TIME, told).prediction
    np.testing.assert_allclose(found, want, atol=2e-5)


def test_tokens_have_places_and_masked_glyphs_are_not_seen(params, run):
    found = run(GIVEN)
    other = GIVEN["second_text"].at[:, 3].set(9.0)  # the last glyph of neither is real
    np.testing.assert_allclose(run(GIVEN | {"second_text": other}), found, atol=1e-5)
    turned = GIVEN["second_text"].at[1, :3].set(GIVEN["second_text"][1, 2::-1])
    moved = np.abs(run(GIVEN | {"second_text": turned}) - found).max((1, 2, 3))
    assert moved[0] < 1e-5 < 1e-3 < moved[1]


def test_null_and_dropout_take_glyphs_with_the_text():
    null = MODEL.null(GIVEN)
    for name in ("text", "second_text", "pooled"):
        assert not null[name].any()
    assert null["second_mask"] is GIVEN["second_mask"]
    told = replace(MODEL, conditioning=replace(MODEL.conditioning, dropout=0.5))
    rows = 200
    many = {name: jnp.ones((rows, *x.shape[1:])) for name, x in GIVEN.items()}
    dropped = told.drop(jax.random.key(0), many)
    gone = {n: ~dropped[n].reshape(rows, -1).any(1) for n in ("text", "second_text")}
    assert np.array_equal(gone["text"], gone["second_text"])
    assert 50 < gone["text"].sum() < 150
    negative = {name: 2 * GIVEN[name] for name in ("text", "second_text")}
    found = MODEL.null(GIVEN | {"negative": negative})
    assert np.array_equal(found["second_text"], negative["second_text"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"second_text": None}, r"conditions\['second_text'\] has shape \(\)"),
        ({"second_text": draw(2, 4, 6)}, "3 axes, batch first, the last 5"),
        ({"second_mask": GIVEN["mask"]}, r"it must be \(2, 4\): one entry"),
        ({"text": draw(2, 5, 6), "mask": None}, "text_tokens is 8, but text and gly"),
    ],
    ids=["missing", "width", "mask", "long"],
)
def test_what_does_not_fit_is_one_sentence(change, words, params, unchecked):
    given = {k: x for k, x in (GIVEN | change).items() if x is not None}
    with pytest.raises(ValueError, match=words):
        MODEL.apply(params, X_T, TIME, given)


def test_no_layout_of_mmdit_drops_the_glyphs(params, tmp_path):
    with pytest.raises(ValueError, match="glyphs/in/bias, which .* has no place for"):
        save_mmdit(tmp_path / "a.safetensors", replace(MODEL, rotary=None), params)


def test_the_recipe_at_full_size():
    model = load_recipe("seedream2").model
    given = {
        "text": ((9, 3584), np.float32),
        "pooled": ((3584,), np.float32),
        "mask": ((9,), bool),
        "second_text": ((7, 1472), np.float32),
        "second_mask": ((7,), bool),
    }
    assert shape_of_prediction(model, given) == (2, 32, 32, 16)
    mlp = 1472 * 3584 + 3584 + 3584**2 + 3584
    plain = MMDiT(qk_norm=True, conditioning=Text(3584, 3584))
    assert count(model) == count(plain) + mlp + 512 * 1536
