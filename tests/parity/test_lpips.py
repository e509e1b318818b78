# SPDX-License-Identifier: Apache-2.0
"""LPIPS against PyPI's lpips: its own heads, a trunk of random weights."""

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from without_torchvision import lpips as import_lpips  # noqa: E402

from jdit.interop.lpips import ALEX, VGG, load_lpips, save_lpips  # noqa: E402

ALEXNET = [(3, 64, 11, 4, 2), "P", (64, 192, 5, 1, 2), "P", (192, 384, 3, 1, 1)]
ALEXNET += [(384, 256, 3, 1, 1), (256, 256, 3, 1, 1), "P"]
WIDTHS = [3, 64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512]
WIDTHS += ["M", 512, 512, 512, "M"]


def trunk(which):
    """torchvision's features, from its published layout."""
    layers = []
    if which == "alex":
        for part in ALEXNET:
            pooled = part == "P"
            layers += (
                [torch.nn.MaxPool2d(3, 2)]
                if pooled
                else [torch.nn.Conv2d(*part), torch.nn.ReLU(inplace=True)]
            )
    else:
        width = WIDTHS[0]
        for part in WIDTHS[1:]:
            if part == "M":
                layers.append(torch.nn.MaxPool2d(2, 2))
            else:
                layers += [torch.nn.Conv2d(width, part, 3, padding=1)]
                layers += [torch.nn.ReLU(inplace=True)]
                width = part
    features = torch.nn.Sequential(*layers)
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return features


@pytest.mark.parametrize("which,published", [("alex", ALEX), ("vgg", VGG)])
def test_every_stage_is_that_of_the_package(which, published, tmp_path):
    torch.manual_seed(0)
    features = trunk(which)
    with import_lpips(features) as module:
        reference = module.LPIPS(net=which, verbose=False)
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    state |= {"classifier.1.weight": torch.zeros(2, 2)}  # which is left out
    torch.save(state, tmp_path / "trunk.pth")
    model, params = load_lpips(tmp_path / "trunk.pth", which=published, check=False)

    generator = np.random.default_rng(0)
    a = generator.uniform(-1, 1, (2, 64, 80, 3)).astype(np.float32)
    b = np.clip(a + generator.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)
    with torch.no_grad():
        pair = (torch.from_numpy(np.moveaxis(x, -1, 1)) for x in (a, b))
        want, parts = reference(*pair, retPerLayer=True)
    total, stages = jax.jit(model.apply)(params, a, b)
    assert want.min() > 1e-2
    np.testing.assert_allclose(total, want[:, 0, 0, 0], atol=1e-5)
    for stage, part in zip(stages, parts, strict=True):
        np.testing.assert_allclose(stage, part[:, 0, 0, 0], atol=1e-5)

    path = tmp_path / "both.safetensors"
    save_lpips(path, model, params)
    _, again = load_lpips(path, which=published)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, again)))


def test_the_packages_heads_are_the_published_ones():
    from jdit.interop import lpips as ours
    from jdit.interop.download import published

    if ours.find_spec("lpips") is None:
        pytest.skip("lpips is not installed")
    for which in (ALEX, VGG):
        published(ours._installed(which.heads), which.heads_sha256)
