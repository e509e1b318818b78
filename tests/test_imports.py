# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and importing the library brings in nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "jdit").rglob("*.py"))

# Lower layers first. A module may import its own layer and those below it.
LAYERS = [
    {"typing"},
    {"linear", "norms", "conv"},
    {"ops"},
    {"tokens", "conditioning"},
    {"attention"},
    {"stack"},
    {"blocks"},
    {"models"},
    {"recipe"},
]
ALLOWED = {  # what else an axis may know of jdit
    "policies": {"stack", "typing"},
    "surgery": {"linear", "typing"},
    "processes": {"typing"},
    "solvers": {"denoise", "processes", "typing"},
    "denoise": {"processes", "stack", "typing"},
    "guidance": {"denoise", "processes", "typing"},
}
FOREIGN = {"torch", "tensorflow", "diffusers", "transformers", "timm"}


def part_of(path: Path) -> str:
    """The folder or file right below jdit/, e.g. "solvers" or "stack"."""
    return path.relative_to(ROOT / "jdit").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_used(path: Path) -> set[str]:
    known = {part_of(file) for file in FILES} - {"__init__"}
    used = {name.split(".")[1] for name in imported(path) if name.startswith("jdit.")}
    return used & known


def test_layers_import_downwards():
    height = {part: i for i, layer in enumerate(LAYERS) for part in layer}
    for path in FILES:
        for used in parts_used(path):
            own = part_of(path)
            if own in height and used in height:
                assert height[used] <= height[own], f"{path} imports jdit.{used}"


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_axes_know_their_seams_only(part):
    for path in FILES:
        if part_of(path) == part:
            strangers = parts_used(path) - ALLOWED[part] - {part}
            assert not strangers, f"{path} imports {sorted(strangers)}"


def test_nothing_imports_experiments_or_another_framework():
    for path in FILES:
        heads = {name.split(".")[0] for name in imported(path)}
        assert "experiments" not in heads, path
        if part_of(path) != "interop":
            assert not heads & FOREIGN, f"{path} imports {heads & FOREIGN}"


def test_importing_jdit_is_light():
    heavy = ["torch", "tensorflow", "sklearn", "matplotlib", "scipy.stats", "grain"]
    code = f"import sys, jdit; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    assert out.stdout.strip() == "[]"
