# SPDX-License-Identifier: Apache-2.0
"""Published weights of LPIPS: torchvision's trunk, and heads from PyPI's lpips."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from jdit.evals.lpips import LPIPS, lpips_alex, lpips_vgg
from jdit.interop.download import published
from jdit.interop.files import Source, open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, linear, pack, same, unpack
from jdit.typing import Params


class Published(NamedTuple):
    """One trunk: its file, where it is, and what the two files must hash to."""

    model: LPIPS
    url: str
    sha256: str
    heads: str
    heads_sha256: str


_URL = "https://download.pytorch.org/models/"
ALEX = Published(
    lpips_alex(),
    f"{_URL}alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "weights/v0.1/alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
)
VGG = Published(
    lpips_vgg(),
    f"{_URL}vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "weights/v0.1/vgg.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
)


def _layout(model: LPIPS) -> Layout:
    """torchvision numbers convolutions, ReLUs and poolings alike."""
    rules: list[Rule] = []
    place = 0
    for i, stage in enumerate(model.stages):
        place += stage.pool is not None
        for j in range(len(stage.convs)):
            pattern = "o i h w -> h w i o"
            rules += linear(f"features.{place}", f"trunk/{i}_{j}", pattern)
            place += 2
        rules.append(same(f"lin{i}.model.1.weight", f"heads/{i}", "1 c 1 1 -> c"))
    return Layout("LPIPS", tuple(rules))


def load_lpips(
    trunk: str | Path,
    heads: str | Path | None = None,
    which: Published = ALEX,
    check: bool = True,
) -> tuple[LPIPS, Params]:
    """LPIPS and its parameters, from the two published files or one of `save_lpips`.

    trunk: torchvision's .pth of AlexNet or VGG-16 (reading it needs torch, and executes
        nothing in it; it is downloaded to that place if it is not there), or a
        .safetensors by `save_lpips`, which holds the heads too.
    heads: alex.pth or vgg.pth of PyPI's lpips, version 0.1 of the weights; found in the
        installed package if None, which is not imported.
    which: `ALEX` or `VGG`.
    check: whether both files must have the published checksums.

    Raises ValueError for other files, and FileNotFoundError for missing ones.
    """
    trunk = Path(trunk)
    if trunk.suffix == ".safetensors":
        return which.model, unpack(
            _layout(which.model), which.model, open_tensors(trunk)
        )
    heads = Path(heads) if heads is not None else _installed(which.heads)
    if check:
        published(trunk, which.sha256, which.url)
        published(heads, which.heads_sha256)
    one, other = open_tensors(trunk), open_tensors(heads)
    one = one.without(k for k in one.shapes if k.startswith("classifier."))
    other = other.without(one.shapes)

    def load(key: str):  # type: ignore[no-untyped-def]
        return (one if key in one.shapes else other).load(key)

    both = Source(f"{trunk} with {heads}", {**one.shapes, **other.shapes}, load)
    return which.model, unpack(_layout(which.model), which.model, both)


def save_lpips(path: str | Path, model: LPIPS, params: Params) -> None:
    """Write trunk and heads to one file; a .safetensors is read without torch."""
    write_tensors(path, pack(_layout(model), model, params))


def _installed(name: str) -> Path:
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"heads are not given, and lpips is not installed: give the path of {name} "
            "of PyPI's lpips (`pip download --no-deps lpips`)"
        )
    return Path(spec.submodule_search_locations[0]) / name
