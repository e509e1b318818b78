# SPDX-License-Identifier: Apache-2.0
"""ADM's scores over one pass, and its files, with a small network for Inception."""

import numpy as np
import pytest

from jdit.encoders.inception import InceptionFeatures
from jdit.evals import (
    Statistics,
    adm_scores,
    frechet_distance,
    inception_score,
    measure,
    precision_recall,
    read_reference,
)
from jdit.evals.adm import npz_images
from jdit.evals.meter import Meter, Values


class Small:
    """Pooled, spatial and class features of images in [-1, 1]."""

    def __init__(self):
        self.kernel = np.random.default_rng(5).normal(size=(48, 18)).astype(np.float32)

    def all(self, images):
        y = np.tanh(np.asarray(images).reshape(len(images), -1) @ self.kernel)
        return InceptionFeatures(y[:, :6], y[:, 6:13], 3 * y[:, 13:])


def images(seed, n, low=0):
    generator = np.random.default_rng(seed)
    return generator.integers(low, 256, (n, 4, 4, 3), np.uint8)


REAL, FAKE = images(0, 90), images(1, 70, 30)


@pytest.fixture(scope="module")
def measured():
    return [measure(x, Small(), batch=32) for x in (REAL, FAKE)]


def test_each_score_is_that_of_its_features(measured):
    real, fake = measured
    scores = adm_scores(fake, real)
    wanted = [Small().all(x / np.float32(127.5) - 1) for x in (REAL, FAKE)]
    moments = [[Statistics.of(y) for y in x[:2]] for x in wanted]
    fid, sfid = (frechet_distance(a, b) for a, b in zip(*moments, strict=True))
    shares = np.exp(wanted[1].logits)
    shares = shares / shares.sum(1, keepdims=True)
    precision, recall = precision_recall(wanted[0].pool, wanted[1].pool)
    assert scores == pytest.approx(
        {
            "fid": fid,
            "sfid": sfid,
            "inception_score": inception_score(shares, 1)[0],
            "precision": precision,
            "recall": recall,
        },
        rel=1e-4,
    )


def test_a_set_against_itself(measured):
    scores = adm_scores(measured[0], measured[0])
    assert scores["fid"] < 1e-9 and scores["sfid"] < 1e-9
    assert scores["precision"] == scores["recall"] == 1


def test_missing_classes_show_up(measured):
    """Half of the images, twice: every score but precision says so."""
    half = measure(np.concatenate([REAL[:45]] * 2), Small())
    scores, whole = adm_scores(half, measured[0]), adm_scores(*measured[:1] * 2)
    assert scores["fid"] > 0.01 and scores["sfid"] > 0.01
    assert scores["precision"] == 1 and scores["recall"] < whole["recall"]


def test_adms_parts_of_the_inception_score():
    """Consecutive rows, the last part as it comes; shuffled only if asked."""
    p = np.random.default_rng(0).dirichlet(np.ones(5), 23)
    parts = [inception_score(p[i : i + 10], 1)[0] for i in (0, 10, 20)]
    assert inception_score(p, size=10)[0] == pytest.approx(np.mean(parts))
    order = np.random.RandomState(7).permutation(23)
    assert inception_score(p, 2, shuffle=7) == inception_score(p[order], 2)
    with pytest.raises(ValueError, match="size is 0"):
        inception_score(p, size=0)


def test_moments_come_back_from_a_file(measured, tmp_path):
    real, fake = measured
    path = tmp_path / "moments.npz"
    real.save(path)
    again = read_reference(path)
    assert again.features is None and again.pool.count == again.spatial.count == 90
    names = ("fid", "sfid", "inception_score")
    expected = {name: adm_scores(fake, real)[name] for name in names}
    assert adm_scores(fake, again) == expected
    np.testing.assert_array_equal(Statistics.load(path).sigma, real.pool.sigma)
    foreign = tmp_path / "pytorch_fid.npz"
    np.savez_compressed(foreign, mu=real.pool.mu, sigma=real.pool.sigma)
    assert adm_scores(fake, read_reference(foreign)) == {
        name: expected[name] for name in ("fid", "inception_score")
    }


def test_adms_virtual_files_have_moments_and_images(measured, tmp_path):
    """The moments are of more images than those that are there."""
    real, fake = measured
    path = tmp_path / "virtual.npz"
    np.savez(path, arr_0=REAL[:40], arr_1=np.arange(40), **real.pool.fields())
    both = read_reference(path, Small())
    assert both.pool.count == 90 and len(both.features) == 40 and both.spatial is None
    np.savez(path, arr_0=REAL)
    whole = read_reference(path, Small(), batch=7)
    assert adm_scores(fake, whole) == pytest.approx(adm_scores(fake, real), rel=1e-5)


def test_images_of_a_file_are_read_in_parts(tmp_path):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, arr_0=REAL)
    parts = list(npz_images(path, 32))
    assert [len(part) for part in parts] == [32, 32, 26]
    np.testing.assert_array_equal(np.concatenate(parts), REAL)


def test_parts_are_joined_without_a_second_copy():
    """They are views of the whole then, so that the meter can go on."""
    meter, x = Meter(), np.random.default_rng(0).normal(size=(9, 5))
    for part in np.split(x, [4, 6]):
        meter.add(Values(part))
    whole = meter.measured().features
    np.testing.assert_array_equal(whole, x.astype(np.float32))
    assert all(np.shares_memory(part, whole) for part in meter.features)
    meter.add(Values(x))
    np.testing.assert_array_equal(meter.measured().features[:9], whole)
    assert meter.measured().features.shape == (18, 5)


def test_errors(tmp_path, measured):
    path = tmp_path / "bad.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="has the fields other"):
        read_reference(path)
    with pytest.raises(ValueError, match="no field 'arr_0'"):
        list(npz_images(path))
    np.savez(path, arr_0=REAL)
    with pytest.raises(ValueError, match="an inception is needed"):
        read_reference(path)
    np.savez(path, arr_0=REAL.astype(np.float32))
    with pytest.raises(ValueError, match="uint8 images"):
        read_reference(path, Small())
    with pytest.raises(ValueError, match="empty"):
        measure(REAL[:0], Small())
    other = Statistics.of(np.random.default_rng(0).normal(size=(9, 7)))
    with pytest.raises(ValueError, match="dimension"):
        adm_scores(measured[0], type(measured[0])(other))
