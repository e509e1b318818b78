# SPDX-License-Identifier: Apache-2.0
"""Glyphs: the font reader on a font made here, Unicode's table, and the real font."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_data import (
    APPLE,
    CAT,
    DARK,
    FONT,
    GRIN,
    WAVE,
    F,
    M,
    R,
    colour,
    emoji_font,
)

from jdit.data import Glyphs, emoji
from jdit.data.bitmaps import bitmaps
from jdit.data.glyphs import NOTO

TEST_FILE = Path("/usr/share/unicode/emoji/emoji-test.txt")


@pytest.fixture(scope="module")
def font(tmp_path_factory) -> str:
    return str(emoji_font(tmp_path_factory.mktemp("font")))


def test_the_reader_finds_each_bitmap_and_its_sequences(font):
    read = {bitmap.glyph: bitmap for bitmap in bitmaps(font)}
    assert read.keys() == FONT.keys()
    for index, (name, sequences) in enumerate(FONT.items()):
        assert set(read[name].sequences) == set(sequences)
        image = read[name].image()
        assert image.size == (10, 6)
        assert image.getpixel((5, 3)) == colour(index)
        assert image.getpixel((0, 0))[3] == 0


def test_glyphs_are_sorted_named_and_put_on_white(font):
    data = Glyphs(size=10, font=font)
    columns = data.source().columns
    assert columns["caption"].tolist() == [
        "grinning face",
        "waving hand",
        "waving hand: dark skin tone",
        "dark skin tone",
        "cat face",
        "red apple",
        "flag: France",
    ]
    assert [data.classes[i] for i in columns["label"]] == [
        "Smileys & Emotion",
        "People & Body",
        "People & Body",
        "Component",
        "Animals & Nature",
        "Food & Drink",
        "Flags",
    ]
    for x, name in zip(
        columns["x_0"],
        ["grin", "wave", "wave.dark", "dark", "cat", "apple", "flag"],
        strict=True,
    ):
        inside = np.zeros((10, 10), bool)
        inside[2:8, 2:8] = True
        assert (x[inside] == colour(list(FONT).index(name))[:3]).all()
        assert (x[~inside] == 255).all()


def test_glyphs_can_be_chosen(font):
    plain = Glyphs(size=4, font=font, tones=False).source()
    assert "waving hand: dark skin tone" not in plain.columns["caption"]
    assert "dark skin tone" in plain.columns["caption"]
    data = Glyphs(
        size=4, font=font, groups=("Food & Drink", "Flags"), classes_by="subgroup"
    )
    source = data.source()
    names = [data.classes[i] for i in source.columns["label"]]
    assert names == ["food-fruit", "country-flag"]
    assert data.classes[0] == "food-fruit" and len(data.classes) == 8 + 3
    assert Glyphs(groups=("Flags", "Symbols")).classes == ("Symbols", "Flags")
    assert repr(source) != repr(plain)


def test_glyphs_are_cached_where_asked(font, tmp_path):
    from jdit.data.glyphs import _load

    data = Glyphs(size=5, font=font, cache=str(tmp_path / "cache"))
    first = data.source()
    _load.cache_clear()
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    again = data.source()
    assert repr(first) == repr(again)
    for key in first.columns:
        assert np.array_equal(first.columns[key], again.columns[key])


def test_glyphs_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-color-emo"):
        Glyphs(font=str(tmp_path / "none.ttf")).source()
    (tmp_path / "broken.ttf").write_bytes(b"nothing at all")
    with pytest.raises(ValueError, match="cannot be read"):
        Glyphs(font=str(tmp_path / "broken.ttf")).source()
    with pytest.raises(ValueError, match="classes_by is 'kind'"):
        Glyphs(classes_by="kind")
    with pytest.raises(ValueError, match=r"groups has \['Food'\]"):
        Glyphs(groups=("Food",))
    with pytest.raises(ValueError, match="size is 0"):
        Glyphs(size=0)


def test_a_font_without_bitmaps_is_refused(tmp_path):
    import matplotlib

    plain = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    with pytest.raises(ValueError, match="has no table CBDT"):
        bitmaps(plain)


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        ((GRIN,), "grinning face"),
        ((CAT,), "cat face"),
        ((APPLE,), "red apple"),
        ((WAVE, DARK), "waving hand: dark skin tone"),
        ((F, R), "flag: France"),
        ((M, F), "flag: St. Martin"),
        ((0x31, 0xFE0F, 0x20E3), "keycap: 1"),
        ((0x1F468, DARK, 0x200D, 0x1F9B0), "man: dark skin tone, red hair"),
        (
            (0x1F6B6, DARK, 0x200D, 0x27A1),
            "person walking facing right: dark skin tone",
        ),
        ((0x1F426, 0x200D, 0x1F525), "phoenix"),
        ((0x1F3F4, 0xE0075, 0xE0073, 0xE0063, 0xE0061, 0xE007F), "flag: US-CA"),
    ],
)
def test_emoji_names(sequence, name):
    assert emoji.find(sequence).name == name


def test_what_is_no_emoji_has_no_name():
    for sequence in ((0x31,), (0x20E3,), (F,), (ord("a"), ord("b"))):
        assert emoji.find(sequence) is None


def test_groups_are_unicodes():
    assert len(emoji.groups()) == 10 and len(emoji.subgroups()) == 101


@pytest.mark.skipif(not TEST_FILE.is_file(), reason="unicode-data is not installed")
def test_the_table_says_what_unicode_says():
    """Each sequence, tones and selectors and all, gets group and name back."""
    lines = TEST_FILE.read_text(encoding="utf-8").splitlines()
    if "# Version: 15.0" not in lines:
        pytest.skip("emoji.tsv is of version 15.0")
    entries = list(emoji.read_test(lines))
    assert len(entries) == 4733
    wrong = [entry for sequence, entry in entries if emoji.find(sequence) != entry]
    assert wrong == []


@pytest.mark.skipif(not NOTO.is_file(), reason="Noto Color Emoji is not installed")
def test_the_real_font():
    data = Glyphs(size=16)
    columns = data.source().columns
    captions = columns["caption"].tolist()
    assert len(captions) > 3000 and len(set(captions)) == len(captions)
    assert set(columns["label"]) == set(range(10))

    def middle(caption: str) -> np.ndarray:
        return columns["x_0"][captions.index(caption)][5:11, 5:11].mean((0, 1))

    red, green, blue = middle("red heart")
    assert red > 150 and red > 2 * max(green, blue)
    red, green, blue = middle("green circle")
    assert green > 1.3 * max(red, blue)
    red, green, blue = middle("blue circle")
    assert blue > 1.3 * max(red, green)
