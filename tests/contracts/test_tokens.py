# SPDX-License-Identifier: Apache-2.0
"""Tokens: round trips are exact, coordinates come in order, positions are relative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.ops.platform import compiling_for
from jdit.tokens import Patches, rotary_table, rotate, sincos

PARTS = {
    "1d": Patches((12,), 3),
    "2d": Patches((8, 8), 2),
    "2d wide": Patches((4, 12), (2, 3)),
    "2d whole": Patches((4, 4), 4),
    "3d": Patches((4, 6, 8), (2, 3, 4)),
    "3d frames": Patches((3, 4, 4), (1, 2, 2)),
}
each = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())


def data(part: Patches, channels: int = 3) -> jax.Array:
    shape = (2, *part.grid, channels)
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


@each
def test_round_trip_is_exact(part):
    x = data(part)
    tokens = part.patchify(x)
    assert tokens.shape == (2, part.count, np.prod(part.size) * 3)
    np.testing.assert_array_equal(part.unpatchify(tokens), x)


@each
def test_coordinates_are_those_of_the_tokens(part):
    """A grid that holds its own coordinates gives tokens that hold theirs."""
    mesh = np.stack(np.meshgrid(*map(np.arange, part.grid), indexing="ij"), -1)
    tokens = part.patchify(jnp.asarray(mesh[None], jnp.float32))
    corner = tokens[0, :, : len(part.grid)]  # the first value of each patch
    np.testing.assert_array_equal(corner / np.array(part.size), part.coordinates())


@each
def test_coordinates_run_in_row_major_order(part):
    coordinates = part.coordinates()
    assert coordinates.shape == (part.count, len(part.grid))
    flat = np.ravel_multi_index(coordinates.astype(int).T, part.shape)
    np.testing.assert_array_equal(flat, np.arange(part.count))


@each
def test_a_patch_sees_its_own_values_only(part):
    x = data(part)
    moved = part.patchify(x.at[(0,) + (0,) * len(part.grid)].add(1.0))
    changed = np.argwhere(np.any(moved != part.patchify(x), -1))
    np.testing.assert_array_equal(changed, [[0, 0]])


@pytest.mark.parametrize(
    "grid, patch, words",
    [
        ((8, 9), 2, "9 is not a multiple of 2"),
        ((8, 8), 0, "8 is not a multiple of 0"),
        ((8, 8), (2, 2, 2), "has 2 axes"),
        ((2, 2, 2, 2), 1, "1, 2 or 3 axes"),
    ],
)
def test_bad_patches_say_so(grid, patch, words):
    with pytest.raises(ValueError, match=words):
        Patches(grid, patch)


def test_another_grid_says_so():
    with pytest.raises(ValueError, match=r"x has grid \(4, 4\)"):
        Patches((8, 8)).patchify(jnp.zeros((1, 4, 4, 3)))


def test_sincos_by_an_independent_formula():
    """A sine of position p at frequency w is the imaginary part of exp(i p w)."""
    dim, part = 24, Patches((3, 5), 1)
    table = np.asarray(sincos(part.coordinates(), dim))
    for row, column in [(0, 0), (1, 3), (2, 4)]:
        phases = [
            np.exp(1j * place * np.exp(-np.log(10000) * i / (dim // 4)))
            for place in (column, row)  # the column first
            for i in range(dim // 4)
        ]
        halves = np.array(phases).reshape(2, dim // 4)
        expected = np.concatenate([halves.imag, halves.real], -1).ravel()
        np.testing.assert_allclose(table[row * 5 + column], expected, atol=1e-6)


def test_sincos_tells_places_apart():
    table = np.asarray(sincos(Patches((16, 16), 1).coordinates(), 32))
    gram = table @ table.T
    assert np.all(np.argmax(gram, -1) == np.arange(256))
    np.testing.assert_allclose(np.diag(gram), 16, rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rotation_depends_on_the_difference_of_places(axes):
    rng = np.random.default_rng(0)
    dims = (4, 6, 2)[:axes]
    q, k = rng.normal(size=(2, 1, sum(dims))).astype(np.float32)
    there, here, shift = rng.normal(size=(3, 1, axes)).astype(np.float32) * 5

    def dot(a, b):
        turn = lambda x, at: rotate(jnp.asarray(x), rotary_table(at, dims))  # noqa: E731
        return float(jnp.sum(turn(q, a) * turn(k, b)))

    assert dot(there + shift, here + shift) == pytest.approx(dot(there, here), abs=1e-4)
    assert dot(here, here) == pytest.approx(float(np.sum(q * k)), abs=1e-4)


def test_rotation_keeps_lengths_and_dtype():
    table = rotary_table(Patches((4, 4), 1).coordinates(), (4, 4))
    x = jax.random.normal(jax.random.key(0), (2, 3, 16, 8))
    norm = jnp.linalg.norm(rotate(x, table), axis=-1)
    np.testing.assert_allclose(norm, jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert rotate(x.astype(jnp.bfloat16), table).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rotation_as_a_tpu_does_it(dtype):
    """Its neighbours come from a product: the same numbers, the same gradients."""
    table = rotary_table(Patches((4, 4), 1).coordinates(), (4, 4))
    x, bar = jax.random.normal(jax.random.key(0), (2, 3, 16, 8)).astype(dtype)
    out, vjp = jax.vjp(lambda x: rotate(x, table), x)
    with compiling_for("tpu"):
        mine, my_vjp = jax.vjp(lambda x: rotate(x, table), x)
    np.testing.assert_array_equal(mine, out)
    tolerance = 1e-6 if dtype == jnp.float32 else 0.02
    (d_x,), (my_d_x,) = (f(bar)[0].astype(jnp.float32)[None] for f in (vjp, my_vjp))
    np.testing.assert_allclose(my_d_x, d_x, atol=tolerance)


@pytest.mark.parametrize("dims", [(4, 3), (4,), (4, 4, 4)])
def test_bad_axes_say_so(dims):
    with pytest.raises(ValueError, match="one even number for each"):
        rotary_table(Patches((4, 4)).coordinates(), dims)


def test_a_width_that_the_axes_cannot_share_says_so():
    with pytest.raises(ValueError, match="dim is 30"):
        sincos(Patches((4, 4)).coordinates(), 30)
