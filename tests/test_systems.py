# SPDX-License-Identifier: Apache-2.0
"""The list of systems claims nothing that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "systems.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| system")
]


def test_every_row_has_an_honest_status():
    assert len(ROWS) == 177 and len({row[0] for row in ROWS}) == 177
    counts = {s: sum(row[1] == s for row in ROWS) for s in ("works", "partial")}
    assert {row[1] for row in ROWS} <= {"works", "partial", "not yet"}
    want = f"177 systems: {counts['works']} work, {counts['partial']} are partial."
    assert want in TEXT


def test_what_works_has_a_recipe_a_test_and_a_number():
    for name, status, recipe, test, number in ROWS:
        if status != "not yet":
            assert (ROOT / test.split("::")[0]).is_file(), f"{name}: no test {test}"
            assert number, f"{name}: nothing measured or left"
        if status == "works":
            assert (ROOT / recipe).is_file(), f"{name}: no recipe {recipe}"
            assert re.search(r"\d", number), f"{name}: no figure in {number!r}"
