# SPDX-License-Identifier: Apache-2.0
"""Images to latents, once: what `jdit encode` does."""

from jdit.encode.options import Encode
from jdit.encode.run import encode

__all__ = ["Encode", "encode"]
