# SPDX-License-Identifier: Apache-2.0
"""How time and labels enter, and how they are dropped for guidance."""

from jdit.conditioning.label import Labels
from jdit.conditioning.pooled import PooledText
from jdit.conditioning.text import Text
from jdit.conditioning.time import (
    Clock,
    LinearClock,
    LogSigmaClock,
    Sinusoids,
    TimeEmbedding,
    frequencies,
)

__all__ = [
    "Clock",
    "Labels",
    "LinearClock",
    "LogSigmaClock",
    "PooledText",
    "Sinusoids",
    "Text",
    "TimeEmbedding",
    "frequencies",
]
