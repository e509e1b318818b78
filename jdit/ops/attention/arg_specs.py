# SPDX-License-Identifier: Apache-2.0
"""The real shapes of attention, to test (scaled down) and to time on."""

from typing import NamedTuple


class Spec(NamedTuple):
    """Sizes of `b h n k` queries and `b g m k` keys.

    masked: whether some keys are padding. groups: heads of keys, `heads` if None.
    segmented: whether each row packs several images.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    masked: bool = False
    groups: int | None = None
    segmented: bool = False

    def smaller(self) -> "Spec":
        """The same kind of shape, in numbers that a test can afford.

        Widths stay. Token counts shrink by 16 and lose one, so that they are odd.
        """
        queries, keys = (max(1, n // 16 - 1) for n in (self.queries, self.keys))
        shared = self.heads // (self.groups or self.heads)
        return self._replace(
            batch=min(2, self.batch),
            heads=2 * shared if self.groups else min(2, self.heads),
            queries=queries,
            keys=keys,
            groups=2 if self.groups else None,
        )


SPECS = {
    "DiT-S/2, 256 px": Spec(8, 6, 256, 256, 64),
    "DiT-B/2, 256 px": Spec(8, 12, 256, 256, 64),
    "DiT-XL/2, 256 px": Spec(8, 16, 256, 256, 72),
    "DiT-XL/2, 512 px": Spec(2, 16, 1024, 1024, 72),
    "4,096 tokens": Spec(1, 6, 4096, 4096, 64),
    "text, 77 tokens": Spec(4, 16, 1024, 77, 72, masked=True),
    "text, 512 tokens beside 4,096": Spec(1, 24, 4608, 4608, 128, masked=True),
    "1,024 tokens, wide heads": Spec(4, 16, 1024, 1024, 128),
    "Lumina-Next, 512 px": Spec(2, 24, 1024, 1024, 96, groups=8),
    "packed images": Spec(2, 16, 1024, 1024, 72, segmented=True),
}
