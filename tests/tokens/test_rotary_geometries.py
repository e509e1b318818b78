# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jdit.tokens import Patches, rotary_table
from jdit.tokens.rotary_geometries import (
    Axes,
    Centred,
    Diagonal,
    ResonanceYaRN,
    check_axes,
)

AXES = (4, 6, 8)
REFERENCE = Path(__file__).parents[1] / "parity/reference/ultraflux.safetensors"


def points(*grid: int) -> np.ndarray:
    return Patches(grid, 1).coordinates()


def same(one, other, room=1e-6):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=room)


@pytest.mark.parametrize("grid", [(8, 10), (8, 6), (3, 10)], ids=str)
def test_within_the_trained_size_yarn_is_the_plain_table(grid):
    yarn = ResonanceYaRN(AXES, trained=(0, 8, 10))
    same(yarn(2, points(*grid)), Axes(AXES)(2, points(*grid)), 0)


def test_at_the_trained_size_centred_is_the_plain_table():
    centred = Centred(AXES[1:], trained=(8, 10))
    same(centred(2, points(8, 10)), Axes(AXES[1:])(2, points(8, 10)))


def test_the_centre_stays_where_it_is():
    """The middle token of odd grids has one position; a doubled grid, half steps."""
    centred = Centred((6, 8), trained=(5, 5))
    middles = []
    for grid in [(5, 5), (9, 9), (3, 11)]:
        table = centred(0, points(*grid))
        middles.append([x[np.prod(grid) // 2] for x in table])
    same(middles[1], middles[0])
    same(middles[2], middles[0])
    line = np.stack([np.arange(10) / 2 + 1.75] * 2, -1)
    double = Centred((6, 8), trained=(5, 5))(0, points(10, 10))
    diagonal = [np.einsum("iik->ik", x.reshape(10, 10, -1)) for x in double]
    same(diagonal, rotary_table(line - 2, (6, 8)))


def test_text_follows_the_image_on_its_diagonal():
    """Rows of 3 run from -2 to 0, columns of 4 from -2 to 1; text from 2 on."""
    rows, columns = np.meshgrid([-2, -1, 0], [-2, -1, 0, 1], indexing="ij")
    image = np.stack([0 * rows, rows, columns], -1).reshape(-1, 3)
    text = np.repeat(np.array([[2], [3]]), 3, 1)
    want = rotary_table(np.concatenate([text, image]).astype(float), AXES)
    same(Diagonal(AXES)(2, points(3, 4)), want)


def test_fast_frequencies_turn_a_whole_number_of_times():
    yarn = ResonanceYaRN((0, 56, 56), trained=(0, 64, 64))
    turns = yarn.frequencies(56, 64, 1.0 + 1e-9) * 64 / (2 * np.pi)
    plain = 64 * 10000.0 ** -(np.arange(0, 56, 2) / 56) / (2 * np.pi)
    fast = plain >= 1
    np.testing.assert_allclose(turns[fast], np.round(plain[fast]), rtol=1e-6)
    np.testing.assert_allclose(turns[~fast], plain[~fast], rtol=1e-6)


def test_slow_frequencies_are_interpolated_and_fast_ones_kept():
    yarn = ResonanceYaRN(trained=(0, 64, 64), resonance=False)
    plain = 10000.0 ** -(np.arange(0, 56, 2) / 56)
    ratio = yarn.frequencies(56, 64, 4.0) / plain
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(1 / 4)
    assert np.all(np.diff(ratio) <= 1e-12)


def test_a_longer_axis_is_scaled_for_text_too():
    cos, sin = ResonanceYaRN(AXES, trained=(0, 4, 4))(1, points(8, 4))
    size = np.sqrt(np.square(cos) + np.square(sin))
    want = np.concatenate([np.ones(2), np.full(3, 1 + 0.1 * np.log(2)), np.ones(4)])
    np.testing.assert_allclose(size, np.broadcast_to(want, size.shape), rtol=1e-6)


def test_yarn_is_the_published_table():
    """W2GenAI-Lab/UltraFlux 8dec21b, `FluxPosEmbed` for 256 x 320 trained pixels."""
    stored = load_file(REFERENCE)
    for grid in [(12, 20), (20, 6)]:
        cos, sin = ResonanceYaRN((8, 12, 20), trained=(0, 8, 10))(3, points(*grid))
        name = "x".join(map(str, grid))
        same((cos, sin), (stored[f"cos.{name}"], stored[f"sin.{name}"]))


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match=r"trained is \(4,\), but it must hold"):
        ResonanceYaRN(AXES, trained=(4,))
    with pytest.raises(ValueError, match="tokens have 2 coordinates"):
        Axes((8,))(0, points(2, 2))
    with pytest.raises(ValueError, match="tokens have 1 coordinates"):
        Centred((8, 8), (4, 4))(0, points(3))
    with pytest.raises(ValueError, match="add up to the width of a head, 16"):
        check_axes(Axes(AXES), 16)
