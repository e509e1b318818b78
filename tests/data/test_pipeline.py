# SPDX-License-Identifier: Apache-2.0
"""The order, the shares, the state, and the values of the pipeline."""

import numpy as np
import pytest

from jdit.data import (
    Arrays,
    Digits,
    Flip,
    keys,
    normals,
    order,
    pipeline,
    to_float,
    to_uint8,
    uniforms,
)


def counted(count: int, **kwargs) -> Arrays:
    """Example i is filled with i."""
    x = np.zeros((count, 1, 2, 1), np.float32) + np.arange(count)[:, None, None, None]
    return Arrays(x, **kwargs)


def numbers(batches) -> list[int]:
    return [int(x) for batch in batches for x in batch["x_0"][:, 0, 0, 0]]


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (10, 5), (3, 7)])
def test_every_epoch_has_each_example_once_in_another_order(count, batch):
    epochs = 3 * batch
    stream = pipeline(counted(count), batch=batch, seed=0)
    seen = numbers(next(stream) for _ in range(epochs * count // batch))
    per_epoch = np.reshape(seen, (epochs, count))
    assert (np.sort(per_epoch) == np.arange(count)).all()
    assert len({tuple(epoch) for epoch in per_epoch}) > 1


def test_without_shuffle_the_order_is_the_data_sets():
    stream = pipeline(counted(5), batch=2, seed=0, shuffle=False)
    assert numbers(next(stream) for _ in range(5)) == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(("drop", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_one_epoch_ends(drop, sizes):
    stream = pipeline(counted(10), batch=4, seed=0, repeat=False, drop_remainder=drop)
    batches = list(stream)
    assert [len(batch["x_0"]) for batch in batches] == sizes
    assert len(set(numbers(batches))) == sum(sizes)


def test_shares_of_one_epoch_are_disjoint_and_cover_it():
    """Also where the last batch does not divide."""
    shares = [
        numbers(
            pipeline(
                counted(11),
                batch=6,
                seed=4,
                repeat=False,
                drop_remainder=False,
                process_index=p,
                process_count=3,
            )
        )
        for p in range(3)
    ]
    assert sorted(sum(shares, [])) == list(range(11))


def test_a_state_is_good_for_any_number_of_processes():
    one = pipeline(counted(50), batch=8, seed=0)
    for _ in range(9):
        next(one)
    state, expected = one.get_state(), next(one)["x_0"]
    parts = []
    for p in range(4):
        part = pipeline(
            counted(50), batch=8, seed=0, process_index=p, process_count=4, threads=2
        )
        part.set_state(state)
        parts.append(next(part)["x_0"])
    assert np.array_equal(np.concatenate(parts), expected)


def test_a_state_of_other_data_is_refused():
    state = pipeline(Digits(), batch=8, seed=0).get_state()
    for other in (
        pipeline(Digits("test"), batch=8, seed=0),
        pipeline(Digits(), batch=9, seed=0),
        pipeline(Digits(), batch=8, seed=1),
        pipeline(Digits(), batch=8, seed=0, flip=True),
    ):
        with pytest.raises(ValueError, match="state is of the pipeline"):
            other.set_state(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 6, "process_count": 4}, "batch is 6 for 4 processes"),
        ({"process_index": 1}, "process_index is 1"),
        ({"batch": 11, "repeat": False}, "batch is 11, but the data set has 10"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline(counted(10), **{"batch": 2, "seed": 0, **settings})


def test_the_order_is_a_uniform_permutation():
    """Each example is first about equally often: chi-squared of 9 degrees."""
    firsts = np.array([order(0, epoch, 10)[0] for epoch in range(4000)])
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # p = 0.001


def test_the_order_never_changes():
    """Runs are resumed with other versions of NumPy and of this library."""
    assert order(0, 0, 10).tolist() == ORDER_0
    assert order(-5, 7, 10).tolist() == ORDER_7


ORDER_0 = [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
ORDER_7 = [6, 9, 5, 4, 1, 2, 0, 3, 7, 8]


def test_random_bits_are_uniform_and_normal():
    key = keys(3, 1, np.arange(20_000))
    assert len(np.unique(key)) == len(key)
    u = uniforms(key)
    assert 0 <= u.min() < 1e-3 and 1 - 1e-3 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005
    z = normals(key[:200], (10, 10))
    assert z.shape == (200, 10, 10)
    assert abs(z.mean()) < 0.03 and abs(z.var() - 1) < 0.04
    assert abs((z**4).mean() - 3) < 0.3
    assert abs(np.corrcoef(z.reshape(200, 100))[0, 1:]).max() < 0.5


def test_flip_mirrors_half_and_differently_each_epoch():
    x = np.arange(400 * 3 * 4).reshape(400, 3, 4, 1).astype(np.float32)
    stream = pipeline(Arrays(x), batch=400, seed=0, shuffle=False, flip=True)
    mirrored = []
    for _ in range(2):
        batch = next(stream)["x_0"]
        flipped = (batch == x[:, :, ::-1]).all((1, 2, 3))
        assert ((batch == x).all((1, 2, 3)) ^ flipped).all()
        mirrored.append(flipped)
        assert 0.4 < flipped.mean() < 0.6
    assert 0.4 < (mirrored[0] == mirrored[1]).mean() < 0.6


def test_flip_does_not_depend_on_the_batch():
    x = np.arange(24 * 2).reshape(24, 1, 2, 1).astype(np.float32)

    def epoch(batch: int) -> np.ndarray:
        stream = pipeline(Arrays(x), batch=batch, seed=5, flip=True)
        return np.concatenate([next(stream)["x_0"] for _ in range(24 // batch)])

    assert np.array_equal(epoch(4), epoch(12))
    assert np.array_equal(Flip(0.0)({"x_0": x}, keys(0, range(24)))["x_0"], x)


def test_flip_needs_images():
    stream = pipeline(Arrays(np.zeros((4, 8, 2))), batch=2, seed=0, flip=True)
    with pytest.raises(ValueError, match="Flip needs images"):
        next(stream)


def test_captions_are_dropped_unless_a_transform_maps_them():
    data = counted(4, caption=("a", "bb", "ccc", "dddd"))
    assert next(pipeline(data, batch=4, seed=0)).keys() == {"x_0"}

    def lengths(batch, keys):
        return {**batch, "length": np.char.str_len(batch["caption"])}

    batch = next(pipeline(data, batch=4, seed=0, transforms=[lengths]))
    assert (batch["length"] == batch["x_0"][:, 0, 0, 0] + 1).all()


def test_bytes_survive_the_way_in_and_out():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(values)), values)
    assert to_float(values)[[0, 255]].tolist() == [-1, 1]
    assert to_uint8([-1.5, 1.5]).tolist() == [0, 255]
