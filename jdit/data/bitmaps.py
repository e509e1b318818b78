# SPDX-License-Identifier: Apache-2.0
"""The coloured bitmaps of a font, and the sequences of code points that show them."""

import io
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

Sequence = tuple[int, ...]


class Bitmap(NamedTuple):
    """One glyph: its PNG, and every sequence of code points that it stands for."""

    glyph: str
    png: bytes
    sequences: tuple[Sequence, ...]

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png)).convert("RGBA")


def bitmaps(path: str | Path) -> list[Bitmap]:
    """Read the largest set of PNGs in a font's CBDT table, in glyph order.

    A sequence is one code point (table cmap) or several (the ligatures of table GSUB:
    flags, skin tones, joined emoji). A glyph that nothing maps to has none.

    Raises FileNotFoundError if there is no file, ValueError if it is no such font.
    Source: OpenType 1.9, chapters CBDT, CBLC, cmap and GSUB (lookup type 4).
    """
    from fontTools.ttLib import TTFont, TTLibError

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"font is {str(path)!r}, but there is no such file")
    try:
        with TTFont(path, lazy=True) as font:
            return _read(font, path)
    except TTLibError as error:
        raise ValueError(f"font {str(path)!r} cannot be read: {error}") from error


def _read(font: Any, path: Path) -> list[Bitmap]:
    if "CBDT" not in font:
        raise ValueError(
            f"font {str(path)!r} has no table CBDT; take a font of coloured bitmaps "
            "such as Debian's fonts-noto-color-emoji"
        )
    sizes = [strike.bitmapSizeTable.ppemY for strike in font["CBLC"].strikes]
    strike: dict[str, Any] = font["CBDT"].strikeData[sizes.index(max(sizes))]
    sequences = _sequences(font)
    return [
        Bitmap(name, strike[name].imageData, tuple(sequences[name]))
        for name in font.getGlyphOrder()
        if hasattr(strike.get(name), "imageData")
    ]


def _sequences(font: Any) -> dict[str, list[Sequence]]:
    """Glyph name -> sequences: the cmap first, then ligatures in their order."""
    found: dict[str, list[Sequence]] = defaultdict(list)
    code: dict[str, int] = {}
    for point, name in sorted(font.getBestCmap().items()):
        found[name].append((point,))
        code.setdefault(name, point)
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else []:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            if table.LookupType != 4:
                continue
            for first, ligatures in table.ligatures.items():
                for ligature in ligatures:
                    names = [first, *ligature.Component]
                    if all(name in code for name in names):
                        sequence = tuple(code[name] for name in names)
                        found[ligature.LigGlyph].append(sequence)
    return found
