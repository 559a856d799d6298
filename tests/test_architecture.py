"""Imports point down the table of docs/architecture.md only."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"


def read_table() -> dict[str, set[str]]:
    """{folder: folders it may import} of the table, from "everything", "all below" and the named ones."""
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    folders = [folder for folder, _ in rows if list((ROOT / folder).glob("*.py"))]
    allowed = {}
    for folder, may_import in rows:
        if folder not in folders:
            continue
        below = folders[folders.index(folder) + 1 :]
        named = {name for name in re.findall(r"`?(\w+)`?", may_import) if name in folders}
        wide = "everything" in may_import or "all below" in may_import
        allowed[folder] = {folder} | (set(below) if wide else named)
    return allowed


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


TABLE = read_table()
FILES = [file for folder in TABLE for file in sorted((ROOT / folder).rglob("*.py"))]


def test_the_table_names_the_house():
    assert list(TABLE) == ["launch", "trainers", "evaluation", "models", "data", "engines", "losses"]
    assert TABLE["losses"] == {"losses"}
    assert TABLE["evaluation"] == {"evaluation", "models", "data", "engines"}
    assert TABLE["launch"] == set(TABLE)
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_the_table(file):
    folder = file.relative_to(ROOT).parts[0]
    forbidden = (imported(file) & set(TABLE)) - TABLE[folder]
    assert not forbidden, f"{folder}/ may not import {sorted(forbidden)}: see docs/architecture.md"


def test_losses_import_torch_and_the_standard_library_alone():
    names = {name for file in (ROOT / "losses").glob("*.py") for name in imported(file)}
    assert names <= {"torch", "losses"} | set(sys.stdlib_module_names)
