# SPDX-License-Identifier: Apache-2.0
"""One layer, as named residual branches."""

from jdit.blocks.adaln import AdaLNZero, final_layer

__all__ = ["AdaLNZero", "final_layer"]
