# SPDX-License-Identifier: Apache-2.0
"""Parts in files: what is missing is done, by whom there is, and joined in order."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from jdit.evals import measure
from jdit.evals.parts import joined, measure_in

IMAGES = np.random.default_rng(0).integers(0, 256, (47, 4, 4, 3), np.uint8)
KERNEL = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)


def net(images):
    return images.reshape(len(images), -1) @ KERNEL


@dataclass
class Source:
    """Images that remember which of them were asked for."""

    count: int = 47
    ends: int = 47

    def __post_init__(self):
        self.asked = []

    def stream(self, start, batch):
        for at in range(start, self.ends, batch):
            self.asked.append(at)
            yield IMAGES[at : min(at + batch, self.ends)]


def names(folder):
    return sorted(path.name for path in folder.glob("*.npz"))


def test_what_is_missing_is_measured_and_nothing_else(tmp_path):
    source, told = Source(), []
    more = dict(batch=4, rows=8, part=10)
    measure_in(tmp_path, source, net, **more, seen=lambda *said: told.append(said))
    ranges = [*range(0, 47, 8), 47]
    pairs = zip(ranges, ranges[1:], strict=False)
    assert names(tmp_path) == [f"{a:08d}-{b:08d}.npz" for a, b in pairs]
    assert told[0] == (0, 47) and told[-1] == (47, 47)
    whole = joined(tmp_path, 47)
    want = measure(IMAGES, net)
    np.testing.assert_array_equal(whole.features, want.features)
    np.testing.assert_allclose(whole.pool.sigma, want.pool.sigma, rtol=1e-9)

    for name in (names(tmp_path)[2], names(tmp_path)[5]):
        (tmp_path / name).unlink()
    source.asked.clear()
    measure_in(tmp_path, source, net, **more)
    assert source.asked == [16, 20, 40, 44]
    again = joined(tmp_path, 47)
    np.testing.assert_array_equal(again.pool.sigma, whole.pool.sigma)
    np.testing.assert_array_equal(again.features, whole.features)


def test_shares_of_processes_are_disjoint_and_whole(tmp_path, monkeypatch):
    """Three of them, one after the other; one is lost, and two do what it left."""
    one = measure(IMAGES, net)

    def run(index, count):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr("jdit.evals.parts._of_first", lambda covered: before)
        source = Source()
        measure_in(tmp_path, source, net, batch=4, rows=4)
        return len(source.asked)

    before = np.zeros(47, bool)
    work = [run(0, 3), run(2, 3)]
    assert max(work) <= 4
    for name in names(tmp_path):
        start, stop = map(int, name.removesuffix(".npz").split("-"))
        assert not before[start:stop].any()
        before = before.copy()
        before[start:stop] = True
    assert 0 < before.sum() < 47
    with pytest.raises(ValueError, match="has no part that begins at image"):
        joined(tmp_path, 47)
    assert run(0, 2) + run(1, 2) > 0
    found = joined(tmp_path, 47)
    np.testing.assert_array_equal(found.features, one.features)
    np.testing.assert_allclose(found.pool.sigma, one.pool.sigma, rtol=1e-9)


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="the stream ends at image 30 of 47"):
        measure_in(tmp_path, Source(ends=30), net, batch=5, part=20)
    assert names(tmp_path) == ["00000000-00000020.npz"]
    with pytest.raises(ValueError, match="holds parts of 20 images, not 47"):
        joined(tmp_path, 47)
    path = tmp_path / "00000000-00000020.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged .*: delete it to go on"):
        joined(tmp_path, 20)
