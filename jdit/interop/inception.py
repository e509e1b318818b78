# SPDX-License-Identifier: Apache-2.0
"""Published weights of FID's InceptionV3: downloaded once, checked, not unpickled."""

from pathlib import Path

from jdit.encoders.inception import InceptionV3
from jdit.interop.download import published
from jdit.interop.files import open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, batch_norm, linear, pack, same, unpack
from jdit.typing import Params

NAME = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of pytorch-fid's file, which is torch-fidelity's too (95,628,359 bytes)."""


def _rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours, _ in InceptionV3.convolutions():
        theirs = ours.replace("/", ".")
        kernel = same(f"{theirs}.conv.weight", f"{ours}/kernel", "o i h w -> h w i o")
        rules += (kernel, *batch_norm(f"{theirs}.bn", ours))
    return (*rules, *linear("fc", "logits"))


_LAYOUT = Layout("FID's InceptionV3", _rules())


def load_inception(
    path: str | Path, sha256: str | None = SHA256
) -> tuple[InceptionV3, Params]:
    """The network and its parameters from a file in pytorch-fid's layout.

    path: pytorch-fid's or torch-fidelity's file, which is the same (reading it needs
        torch, and executes nothing in it), or a .safetensors by `save_inception`.
        A .pth that is not there is downloaded to that place.
    sha256: what a .pth must have; None takes any, whose scores are no FIDs.

    Raises ValueError for a .pth of another checksum and for tensors that are missing,
    unknown or of another shape; FileNotFoundError for a .safetensors that is not there.
    """
    path = Path(path)
    if path.suffix != ".safetensors" and sha256 is not None:
        published(path, sha256, URL)
    source = open_tensors(path)
    counts = [key for key in source.shapes if key.endswith("num_batches_tracked")]
    source = source.without(counts)  # of training; some writers of the layout add them
    classes = source.shape("fc.weight", 2)[0]
    model = InceptionV3(classes)
    return model, unpack(_LAYOUT, model, source)


def save_inception(path: str | Path, model: InceptionV3, params: Params) -> None:
    """Write pytorch-fid's layout; a .safetensors is read without torch."""
    write_tensors(path, pack(_LAYOUT, model, params))
