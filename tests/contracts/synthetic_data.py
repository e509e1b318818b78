# SPDX-License-Identifier: Apache-2.0
"""Small data in foreign formats: a font of bitmaps, a TFDS data set, an encoder."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

GRIN, CAT, WAVE, APPLE, DARK = 0x1F600, 0x1F431, 0x1F44B, 0x1F34E, 0x1F3FF
F, M, R = 0x1F1EB, 0x1F1F2, 0x1F1F7

FONT: dict[str, list[tuple[int, ...]]] = {
    "grin": [(GRIN,)],
    "cat": [(CAT,)],
    "wave": [(WAVE,)],
    "dark": [(DARK,)],
    "wave.dark": [(WAVE, DARK)],
    "flag": [(M, F), (F, R)],  # Saint Martin flies the flag of France
    "apple": [(APPLE,)],
    "one": [(ord("1"),)],  # no emoji by itself
    "lost": [],
}
"""Glyph name -> the sequences of code points that show it."""


def colour(index: int) -> tuple[int, int, int, int]:
    """What the index-th glyph of the font is filled with."""
    return (25 * index, 255 - 20 * index, 40, 255)


def png(index: int) -> bytes:
    """10 x 6, transparent but for a filled middle 6 x 6."""
    image = Image.new("RGBA", (10, 6))
    image.paste(colour(index), (2, 0, 8, 6))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def emoji_font(folder: Path) -> Path:
    """Write a font with tables cmap, GSUB (ligatures), CBLC and CBDT (format 17)."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables import C_B_D_T_, E_B_L_C_, BitmapGlyphMetrics

    points = {q[0] for sequences in FONT.values() for q in sequences if len(q) == 1}
    letters = {f"letter.{c:X}": c for c in (F, M, R)}
    cmap = {q[0]: n for n, qs in FONT.items() for q in qs if len(q) == 1}
    cmap |= {c: n for n, c in letters.items()}
    assert len(cmap) == len(points) + len(letters)
    names = [".notdef", *FONT, *letters]
    builder = FontBuilder(2048, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(cmap)
    builder.setupHorizontalMetrics({name: (2048, 0) for name in names})
    builder.setupHorizontalHeader(ascent=1900, descent=-500)
    builder.setupPost()
    rules = "".join(
        f"sub {' '.join(cmap[c] for c in q)} by {name};\n"
        for name, sequences in FONT.items()
        for q in sequences
        if len(q) > 1
    )
    builder.addOpenTypeFeatures(f"feature ccmp {{\n{rules}}} ccmp;")

    locations = builder.font["CBLC"] = newTable("CBLC")
    bitmaps = builder.font["CBDT"] = newTable("CBDT")
    locations.version = bitmaps.version = 3.0
    data = {}
    for index, name in enumerate(FONT):
        glyph = C_B_D_T_.cbdt_bitmap_format_17(b"", builder.font)
        glyph.metrics = BitmapGlyphMetrics.SmallGlyphMetrics()
        glyph.metrics.height, glyph.metrics.width = 6, 10
        glyph.metrics.BearingX = glyph.metrics.BearingY = 0
        glyph.metrics.Advance = 10
        glyph.imageData = png(index)
        data[name] = glyph
    bitmaps.strikeData = [data]
    strike = E_B_L_C_.Strike()
    size = strike.bitmapSizeTable
    size.colorRef = size.flags = 0
    size.ppemX = size.ppemY = 10
    size.bitDepth = 32
    for name in ("hori", "vert"):
        line = E_B_L_C_.SbitLineMetrics()
        for field in (
            "ascender descender widthMax caretSlopeNumerator caretSlopeDenominator "
            "caretOffset minOriginSB minAdvanceSB maxBeforeBL minAfterBL pad1 pad2"
        ).split():
            setattr(line, field, 0)
        setattr(size, name, line)
    table = E_B_L_C_.eblc_index_sub_table_1(b"", builder.font)
    table.indexFormat, table.imageFormat, table.names = 1, 17, list(FONT)
    strike.indexSubTables = [table]
    locations.strikes = [strike]
    path = folder / "emoji.ttf"
    builder.save(path)
    return path


def numbered_tfds(folder: Path) -> Path:
    """Prepare a TFDS data set of 12 images as array_record; returns its folder."""
    import numbered

    builder = numbered.Numbered(data_dir=os.fspath(folder), file_format="array_record")
    builder.download_and_prepare(download_config=numbered.offline())
    return Path(builder.data_dir)


def numbered_image(index: int) -> np.ndarray:
    """The index-th image of `numbered_tfds`."""
    return np.full((6, 5, 3), (10 * index, 100, 255 - index), np.uint8)


def text_encoder(folder: Path) -> Path:
    """A tiny BERT with random weights and its tokeniser, as a folder; returns it."""
    from tiny_dit import start
    from tokenizers import Tokenizer, models, pre_tokenizers

    from jdit.encoders import Bert, save_encoder

    encoder = Bert(vocab=16, positions=8, dim=8, depth=1, heads=2, hidden=8)
    save_encoder(folder, encoder, start(encoder))
    words = ["[PAD]", "[UNK]", "a", "grey", *"0123456789"]
    kind = models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(os.fspath(folder / "tokenizer.json"))
    config = '{"model_max_length": 8, "pad_token": "[PAD]"}'
    (folder / "tokenizer_config.json").write_text(config)
    return folder


def encoded_folder(folder: Path, mirrored: bool = True, **columns: np.ndarray) -> Path:
    """Write moments "x_0" and what comes with them as `jdit encode` does; returns it.

    x_0: `n [2] *g 2c`. The codec's scaling is by 2.
    """
    from jdit.data import shards

    folder.mkdir(parents=True, exist_ok=True)
    count, (*grid, moments) = len(columns["x_0"]), columns["x_0"].shape[1 + mirrored :]
    channels = moments // 2
    index = {
        "format": shards.FORMAT,
        "shift": [0.0] * channels,
        "scale": [2.0] * channels,
        "mirrored": mirrored,
        "count": count,
        "shards": 2,
        "classes": [str(i) for i in range(1 + columns["label"].max())],
        "latent": [*grid, channels],
        "moments": True,
    }
    for i in range(2):
        at = shards.share(i, 2, count)
        rows = {name: column[at.start : at.stop] for name, column in columns.items()}
        shards.write_shard(folder / shards.shard(i, 2), [rows], True)
    statistics = shards.statistics(folder, 2)
    shards.write_json(folder / shards.INDEX, index | statistics)
    return folder
