# SPDX-License-Identifier: Apache-2.0
"""Emoji as Unicode sorts and names them: sequence of code points -> group and name.

`emoji.tsv` beside this file holds what Unicode's emoji-test.txt says, without skin
tones and variation selectors, so that classes and captions do not depend on the version
of Python or on an optional package. It is written by

    apt-get install unicode-data
    python -m jdit.data.emoji /usr/share/unicode/emoji/emoji-test.txt > emoji.tsv

Source: Unicode Technical Standard 51, Unicode Emoji, version 15.0, under the Unicode
License (emoji.LICENSE beside this file).
"""

import functools
import importlib.resources
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TONES = {
    0x1F3FB: "light skin tone",
    0x1F3FC: "medium-light skin tone",
    0x1F3FD: "medium skin tone",
    0x1F3FE: "medium-dark skin tone",
    0x1F3FF: "dark skin tone",
}
_SELECTOR, _JOINER, _RIGHT = 0xFE0F, 0x200D, 0x27A1
_TAGS, _END = range(0xE0020, 0xE007F), 0xE007F
_PEOPLE = {"person", "man", "woman"}

Sequence = tuple[int, ...]


class Emoji(NamedTuple):
    """Where an emoji stands in Unicode's list, and what it is called there."""

    group: str
    subgroup: str
    name: str


# Emoji 15.1, which fonts have before Debian's list does: sequence, like, name.
_NEWER = (
    ("1F642 200D 2194", "1F642", "head shaking horizontally"),
    ("1F642 200D 2195", "1F642", "head shaking vertically"),
    ("26D3 200D 1F4A5", "26D3", "broken chain"),
    ("1F34B 200D 1F7E9", "1F34B", "lime"),
    ("1F344 200D 1F7EB", "1F344", "brown mushroom"),
    ("1F426 200D 1F525", "1F426", "phoenix"),
    ("1F9D1 200D 1F9D1 200D 1F9D2", "1F46A", "family: adult, adult, child"),
    (
        "1F9D1 200D 1F9D1 200D 1F9D2 200D 1F9D2",
        "1F46A",
        "family: adult, adult, child, child",
    ),
    ("1F9D1 200D 1F9D2", "1F46A", "family: adult, child"),
    ("1F9D1 200D 1F9D2 200D 1F9D2", "1F46A", "family: adult, child, child"),
)


def find(sequence: Sequence) -> Emoji | None:
    """The emoji of a sequence of code points; None if it is none.

    Skin tones are put into the name. Beyond the table: the flag of a subdivision, which
    is named by its code ("flag: US-CA"), and "facing right" (Emoji 15.1).
    """
    plain, tones = strip(sequence)
    if plain in TONES_ALONE and not tones:
        return table()[plain]
    found = table().get(plain)
    if found is None and plain[-2:] == (_JOINER, _RIGHT):
        found = table().get(plain[:-2])
        if found is not None:
            base, *rest = found.name.split(": ", 1)
            name = ": ".join([f"{base} facing right", *rest])
            found = found._replace(name=name)
    if found is None and plain[-1:] == (_END,) and plain[0] == 0x1F3F4:
        code = "".join(chr(c - 0xE0000) for c in plain[1:-1] if c in _TAGS).upper()
        return Emoji("Flags", "subdivision-flag", f"flag: {code[:2]}-{code[2:]}")
    return found and found._replace(name=_toned(found.name, tones))


TONES_ALONE = frozenset((tone,) for tone in TONES)


def strip(sequence: Iterable[int]) -> tuple[Sequence, tuple[int, ...]]:
    """A sequence without variation selectors and skin tones, and the tones."""
    plain = tuple(c for c in sequence if c != _SELECTOR)
    if plain in TONES_ALONE:
        return plain, ()
    return (
        tuple(c for c in plain if c not in TONES),
        tuple(c for c in plain if c in TONES),
    )


def _toned(name: str, tones: tuple[int, ...]) -> str:
    """A name with skin tones in it: after the people, before the hair."""
    if not tones:
        return name
    base, _, rest = name.partition(": ")
    details = rest.split(", ") if rest else []
    people = [detail for detail in details if detail in _PEOPLE]
    others = [detail for detail in details if detail not in _PEOPLE]
    names = [TONES[tone] for tone in dict.fromkeys(tones)]
    return f"{base}: {', '.join([*people, *names, *others])}"


@functools.cache
def table() -> dict[Sequence, Emoji]:
    """All emoji without skin tones, in Unicode's order."""
    text = importlib.resources.files("jdit.data").joinpath("emoji.tsv")
    found: dict[Sequence, Emoji] = {}
    group = subgroup = ""
    for line in text.read_text(encoding="utf-8").splitlines():
        head, _, tail = line.partition("\t")
        if head == "@":
            group, subgroup = tail.split("\t")
        elif not line.startswith("#"):
            found[_parse(head)] = Emoji(group, subgroup, tail)
    for sequence, like, name in _NEWER:
        found.setdefault(_parse(sequence), found[_parse(like)]._replace(name=name))
    return found


def groups() -> tuple[str, ...]:
    """The names of the groups, in Unicode's order."""
    return tuple(dict.fromkeys(emoji.group for emoji in table().values()))


def subgroups(of: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The names of the subgroups (of some groups), in Unicode's order."""
    kept = (emoji for emoji in table().values() if of is None or emoji.group in of)
    return tuple(dict.fromkeys(emoji.subgroup for emoji in kept))


def _parse(text: str) -> Sequence:
    return tuple(int(c, 16) for c in text.split())


def read_test(lines: Iterable[str]) -> Iterator[tuple[Sequence, Emoji]]:
    """The entries of an emoji-test.txt: sequences with selectors, tones and all."""
    group = subgroup = ""
    for line in lines:
        if line.startswith("# group:"):
            group = line[8:].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line[11:].strip()
        elif ";" in line and not line.startswith("#"):
            # `1F600 ; fully-qualified # <emoji> E1.0 grinning face`
            name = line.split("#", 1)[1].split(maxsplit=2)[2].strip()
            yield _parse(line.split(";")[0]), Emoji(group, subgroup, name)


def write_table(lines: Iterable[str]) -> str:
    """The text of emoji.tsv, from that of emoji-test.txt."""
    out = [
        "# Emoji 15.0 without skin tones and variation selectors, from Unicode's",
        "# emoji-test.txt by `python -m jdit.data.emoji`: modified, so not that file.",
        "# Copyright 1991-2022 Unicode, Inc. All rights reserved. Unicode License",
        "# Agreement - Data Files and Software: see emoji.LICENSE.",
    ]
    seen: set[Sequence] = set()
    section = ("", "")
    for sequence, (group, subgroup, name) in read_test(lines):
        plain, _ = strip(sequence)
        if plain in seen:
            continue
        seen.add(plain)
        if (group, subgroup) != section:
            section = (group, subgroup)
            out.append(f"@\t{group}\t{subgroup}")
        base, _, rest = name.partition(": ")
        details = [d for d in rest.split(", ") if d and d not in TONES.values()]
        plain_name = f"{base}: {', '.join(details)}" if details else base
        out.append(" ".join(f"{c:X}" for c in plain) + "\t" + plain_name)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(write_table(file))
