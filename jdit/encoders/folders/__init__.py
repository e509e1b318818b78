# SPDX-License-Identifier: Apache-2.0
"""Folders of transformers' text and image encoders, in both directions."""

from jdit.encoders.folders.load import load_encoder, save_encoder

__all__ = ["load_encoder", "save_encoder"]
