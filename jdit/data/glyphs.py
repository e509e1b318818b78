# SPDX-License-Identifier: Apache-2.0
"""The emoji of an installed colour font: a captioned set of about 3,900 images."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jdit.data import emoji
from jdit.data.base import ArraySource
from jdit.data.bitmaps import Bitmap, bitmaps
from jdit.data.images import flatten

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's and Ubuntu's fonts-noto-color-emoji puts the font."""

_BORROWED = {"AC", "BV", "CP", "DG", "EA", "HM", "MF", "SJ", "TA", "UM"}
"""Regions that fly another one's flag: their names come last for a shared glyph."""


@dataclass(frozen=True)
class Glyphs:
    """Emoji as RGB images on white, with Unicode's groups and names.

    size: height and width. The PNG (136 x 128 in Noto) is put on white, padded with
        white to a centred square (136 x 136) and resized by PIL's Lanczos filter.
    classes_by: "group" (10 classes, such as "Food & Drink") or "subgroup" (101, such as
        "food-fruit"), of the groups that are kept, numbered in Unicode's order.
    groups: keep only these groups; None keeps all.
    tones: keep the skin-toned variants, half of all glyphs. Without, the set is even.
    font: path of a font with a CBDT table.
    cache: a folder in which the decoded images are kept as .npz; None decodes them once
        in each process (2 s).

    Captions are Unicode's (CLDR) short names: "grinning cat", "flag: Spain",
    "woman running: dark skin tone". Left out are the parts of emoji that are none by
    themselves: digits, # and *, the keycap, letters of flags. In the order of Unicode's
    list, then of the code points.

    Raises FileNotFoundError if the font is not installed, ValueError for values that
    are not accepted.
    """

    size: int = 64
    classes_by: str = "group"
    groups: tuple[str, ...] | None = None
    tones: bool = True
    font: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}, but it must be at least 1")
        if self.classes_by not in ("group", "subgroup"):
            raise ValueError(
                f"classes_by is {self.classes_by!r}, not 'group' or 'subgroup'"
            )
        unknown = set(self.groups or ()) - set(emoji.groups())
        if unknown:
            raise ValueError(
                f"groups has {sorted(unknown)}, but Unicode's groups are "
                f"{', '.join(emoji.groups())}"
            )

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    @property
    def classes(self) -> tuple[str, ...]:
        if self.classes_by == "subgroup":
            return emoji.subgroups(self.groups)
        return tuple(g for g in emoji.groups() if g in (self.groups or emoji.groups()))

    def source(self) -> ArraySource:
        path = Path(self.font) if self.font else NOTO
        if not path.is_file():
            raise FileNotFoundError(
                f"the font {str(path)!r} is not there; install it with "
                "`apt-get install fonts-noto-color-emoji`, or give font= a path"
            )
        images, captions, labels = _load(path, self.size, self.cache)
        groups = np.array([emoji.groups()[label[0]] for label in labels])
        chosen = np.ones(len(captions), bool)
        if self.groups is not None:
            chosen &= np.isin(groups, self.groups)
        if not self.tones:
            chosen &= [
                "skin tone" not in caption or group == "Component"
                for caption, group in zip(captions, groups, strict=True)
            ]
        column = ("group", "subgroup").index(self.classes_by)
        names = (emoji.groups(), emoji.subgroups())[column]
        number = {name: i for i, name in enumerate(self.classes)}
        columns = {
            "x_0": images[chosen],
            "label": np.array(
                [number[names[label]] for label in labels[chosen, column]], np.int32
            ),
            "caption": captions[chosen],
        }
        name = (
            f"Glyphs(size={self.size}, classes_by={self.classes_by!r}, "
            f"groups={self.groups}, tones={self.tones})"
        )
        return ArraySource(name, columns)


@functools.lru_cache(maxsize=4)
def _load(path: Path, size: int, cache: str | None) -> tuple[NDArray[Any], ...]:
    """Images, captions and (group, subgroup) of every emoji of a font."""
    place = None
    if cache is not None:
        stat = path.stat()
        name = f"glyphs-{path.stem}-{stat.st_size}-{int(stat.st_mtime)}-{size}.npz"
        place = Path(cache) / name
        if place.is_file():
            with np.load(place, allow_pickle=False) as file:
                return file["images"], file["captions"], file["labels"]
    rank = {sequence: i for i, sequence in enumerate(emoji.table())}
    groups, subgroups = emoji.groups(), emoji.subgroups()
    rows = []
    for bitmap in bitmaps(path):
        found = _best(bitmap)
        if found is None:
            continue
        sequence, entry = found
        plain, tones = emoji.strip(sequence)
        label = (groups.index(entry.group), subgroups.index(entry.subgroup))
        key = (rank.get(plain, len(rank)), plain, tones)
        rows.append((key, label, entry.name, bitmap))
    if not rows:
        raise ValueError(f"font {str(path)!r} has no bitmap of an emoji")
    rows.sort(key=lambda row: row[0])
    images = np.stack([square(row[3].image(), size) for row in rows])
    captions = np.array([row[2] for row in rows])
    labels = np.array([row[1] for row in rows], np.int32)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part.npz")
        np.savez(part, images=images, captions=captions, labels=labels)
        part.replace(place)
    return images, captions, labels


def _best(bitmap: Bitmap) -> tuple[tuple[int, ...], emoji.Emoji] | None:
    """What a glyph shows, when several sequences show it: a region's own flag first."""
    found = [(s, e) for s in bitmap.sequences if (e := emoji.find(s)) is not None]
    return min(found, key=lambda pair: _borrowed(pair[0]), default=None)


def _borrowed(sequence: tuple[int, ...]) -> bool:
    if not all(0x1F1E6 <= c <= 0x1F1FF for c in sequence):
        return False
    return "".join(chr(c - 0x1F1E6 + ord("A")) for c in sequence) in _BORROWED


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """A picture on white, padded with white to a centred square, then resized."""
    image = flatten(image)
    side = max(image.size)
    page = Image.new("RGB", (side, side), (255, 255, 255))
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(page.resize((size, size), Image.Resampling.LANCZOS))
