# SPDX-License-Identifier: Apache-2.0
"""torch-fidelity, pytorch-fid and lpips, imported without torchvision.

All import it at the top, but the networks and metrics compared here need nothing of
it; its wheels are tied to one build of torch. What stands in is taken away at once,
so that other libraries do not take it for the real one.
"""

import importlib
import importlib.machinery
import sys
import types
from contextlib import contextmanager

import pytest

NAMES = ["", ".datasets", ".models", ".models.inception", ".models.utils"]
NAMES += [".transforms", ".transforms.functional"]


class StandIn(types.ModuleType):
    """A module that has every name, as an empty class."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _standing_in(**real):
    modules = {f"torchvision{name}": StandIn(f"torchvision{name}") for name in NAMES}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    modules["torchvision"].__version__ = "0.20"
    for name, value in real.items():
        setattr(modules["torchvision.models.inception"], name, value)
        setattr(modules["torchvision.models"], name, value)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def torch_fidelity(part):
    """A module of torch-fidelity; the test is skipped where it is not installed."""
    with _standing_in():
        pytest.importorskip("torch_fidelity")
        return importlib.import_module(f"torch_fidelity.{part}")


@contextmanager
def pytorch_fid(state, network):
    """pytorch-fid's InceptionV3 module, with torchvision's unpatched blocks.

    state: what it downloads otherwise. network: makes what torchvision's
    `inception_v3` makes: the unpatched network, of the same names.
    """
    blocks = torch_fidelity("feature_extractor_inceptionv3")
    names = {"InceptionA": "InceptionA", "InceptionC": "InceptionC"}
    names["InceptionE"] = "InceptionE_1"
    real = {name: getattr(blocks, other) for name, other in names.items()}
    with _standing_in(inception_v3=lambda *_, **__: network(), **real):
        pytest.importorskip("pytorch_fid")
        module = importlib.import_module("pytorch_fid.inception")
        module.load_state_dict_from_url = lambda *_, **__: state
        yield module


@contextmanager
def lpips(features):
    """PyPI's lpips; features: of torchvision's `alexnet` and `vgg16`."""
    network = types.SimpleNamespace(features=features)
    make = dict.fromkeys(("alexnet", "vgg16"), lambda *_, **__: network)
    with _standing_in(**make):
        module = pytest.importorskip("lpips")
        trunks = importlib.import_module("lpips.pretrained_networks")
        trunks.tv = types.SimpleNamespace(**make)
        yield module
