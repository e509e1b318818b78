# SPDX-License-Identifier: Apache-2.0
"""Scores of the same features, against torch-fidelity's and scipy's."""

import numpy as np
import pytest
import scipy.linalg

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from without_torchvision import torch_fidelity  # noqa: E402

from jdit.evals import (  # noqa: E402
    Statistics,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


def features(seed, n, d, shift=0.0):
    """Positive, correlated and uneven, as those of a network are."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    scale = np.linspace(0.2, 2, d)
    return np.maximum(generator.normal(shift, 1, (n, d)) @ mixing * scale + 0.3, 0)


SETS = {  # samples of each set, and features
    "more": (500, 700, 96),
    "as many": (96, 97, 96),
    "fewer": (60, 40, 96),
    "few and many": (40, 700, 96),
}


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
def test_frechet_distance_is_torch_fidelitys(sizes):
    n, m, d = sizes
    module = torch_fidelity("metric_fid")
    a, b = features(0, n, d), features(1, m, d, 0.2)
    theirs = [module.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    want = module.fid_statistics_to_metric(*theirs, False)[module.KEY_METRIC_FID]
    ours = [Statistics.of(x) for x in (a, b)]
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own.mu, other["mu"], rtol=1e-12)
        np.testing.assert_allclose(own.sigma, other["sigma"], atol=1e-14)
    assert frechet_distance(*ours) == pytest.approx(want, rel=1e-6)


def test_frechet_distance_is_scipys():
    """The form of the TensorFlow FID, ADM and pytorch-fid: sqrtm of the product."""
    a, b = (Statistics.of(features(i, 800, 96, 0.1 * i)) for i in range(2))
    root = scipy.linalg.sqrtm(a.sigma @ b.sigma)
    delta = a.mu - b.mu
    want = delta @ delta + np.trace(a.sigma + b.sigma) - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)


def test_kernel_distance_is_torch_fidelitys():
    module = torch_fidelity("metric_kid")
    a, b = features(0, 150, 32), features(1, 200, 32, 0.3)
    want = module.kid_features_to_metric(
        torch.from_numpy(a),
        torch.from_numpy(b),
        kid_subsets=7,
        kid_subset_size=60,
        verbose=False,
    )
    ours = kernel_distance(a, b, subsets=7, size=60)
    names = module.KEY_METRIC_KID_MEAN, module.KEY_METRIC_KID_STD
    assert ours == pytest.approx([want[name] for name in names], rel=1e-9)


def test_inception_score_is_torch_fidelitys():
    module = torch_fidelity("metric_isc")
    logits = 3 * np.random.default_rng(0).normal(size=(203, 20))
    names = module.KEY_METRIC_ISC_MEAN, module.KEY_METRIC_ISC_STD
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    for shuffle in (2020, None):
        want = module.isc_features_to_metric(
            torch.from_numpy(logits), 10, shuffle is not None, 2020
        )
        ours = inception_score(probabilities, 10, shuffle=shuffle)
        assert ours == pytest.approx([want[name] for name in names], rel=1e-12)


@pytest.mark.parametrize("part", [True, False], ids=["parts", "whole"])
def test_precision_and_recall_are_torch_fidelitys(part):
    module = torch_fidelity("metric_prc")
    real, fake = features(0, 300, 16), 0.8 * features(1, 200, 16, 0.3)
    want = module.prc_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        prc_neighborhood=3,
        prc_batch_size=70,
        save_cpu_ram=part,
        verbose=False,
    )
    precision, recall = precision_recall(real, fake)
    assert 0.1 < precision < 1 and 0.1 < recall < 1
    assert precision == pytest.approx(want[module.KEY_METRIC_PRECISION], abs=1e-7)
    assert recall == pytest.approx(want[module.KEY_METRIC_RECALL], abs=1e-7)


def adms_precision_recall(real, fake, k=3):
    """ADM's `ManifoldEstimator` as its docstrings say it, pair by pair, in float64."""

    def squared(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    radii = [np.sort(squared(x, x), 1)[:, k] for x in (real, fake)]
    between = squared(real, fake)
    recall = (between <= radii[1]).any(1).mean()
    return (between <= radii[0][:, None]).any(0).mean(), recall


def test_precision_and_recall_are_adms():
    real, fake = features(0, 300, 16), 0.8 * features(1, 200, 16, 0.3)
    assert precision_recall(real, fake) == adms_precision_recall(real, fake)


def test_density_and_coverage_are_prdcs():
    """clovaai/generative-evaluation-prdc at e320c1d, as its docstrings say it."""
    from sklearn.metrics import pairwise_distances

    real, fake = features(0, 300, 16), 0.8 * features(1, 200, 16, 0.3)
    radii = np.sort(pairwise_distances(real), 1)[:, 5]  # the nearest is itself
    inside = pairwise_distances(real, fake) < radii[:, None]
    density, coverage = density_coverage(real, fake)
    assert density == pytest.approx(inside.sum(0).mean() / 5, rel=1e-12)
    assert coverage == inside.any(1).mean() and 0.1 < coverage < 1


def test_torch_fidelitys_moments_are_read_and_written(tmp_path):
    """Also those that its cache keeps, through its own functions."""
    from jdit.interop.torch_fidelity import load_moments, save_moments

    module, x = torch_fidelity("utils"), features(0, 40, 12)
    want = torch_fidelity("metric_fid").fid_features_to_statistics(torch.from_numpy(x))
    kept = dict(cache=True, cache_root=str(tmp_path), verbose=False)
    module.cache_lookup_one_recompute_on_miss("a-stat-fid-12", lambda: want, **kept)
    ours = load_moments(tmp_path / "a-stat-fid-12.pt")
    np.testing.assert_array_equal(ours.mu, want["mu"])
    np.testing.assert_array_equal(ours.sigma, want["sigma"])
    save_moments(tmp_path / "b-stat-fid-12.pt", Statistics.of(x))
    again = module.cache_lookup_one_recompute_on_miss("b-stat-fid-12", None, **kept)
    np.testing.assert_allclose(again["sigma"], want["sigma"], atol=1e-14)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_moments(tmp_path / "none.pt")
    torch.save({"mu": torch.zeros(2)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="holds no mu and sigma"):
        load_moments(tmp_path / "bad.pt")
    torch.save({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match="NaN"):
        load_moments(tmp_path / "n.pt")
    torch.save(Statistics(), tmp_path / "object.pt")
    with pytest.raises(ValueError, match="no torch file of plain arrays"):
        load_moments(tmp_path / "object.pt")
