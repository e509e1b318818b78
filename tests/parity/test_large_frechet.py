# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance at the size that published numbers are made of."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from without_torchvision import torch_fidelity  # noqa: E402

from jdit.evals import Statistics, frechet_distance  # noqa: E402


@pytest.mark.slow
def test_frechet_distance_of_50_000_by_2_048():
    """torch-fidelity's, of whole arrays; ours streamed in parts. A minute or two."""
    module = torch_fidelity("metric_fid")
    mixing = np.random.default_rng(99).normal(size=(2048, 2048)) / np.sqrt(2048)
    theirs, ours = [], []
    for seed, shift in ((0, 0.0), (1, 0.05)):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal((50_000, 2048), np.float32)
        x = np.maximum(x @ mixing.astype(np.float32) + np.float32(0.3 + shift), 0)
        given = torch.from_numpy(x.astype(np.float64))
        theirs.append(module.fid_features_to_statistics(given))
        statistics = Statistics()
        for part in np.array_split(x, 25):
            statistics = statistics.update(part)
        ours.append(statistics)
    want = module.fid_statistics_to_metric(*theirs, False)[module.KEY_METRIC_FID]
    assert want > 1 and frechet_distance(*ours) == pytest.approx(want, rel=1e-6)
