"""What a choice leaves on disk beside the measurements: choose.json, and choose.html, which shows what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.choose.page import page
from runs.files import json_safe, write_atomic, write_json

JSON, PAGE = "choose.json", "choose.html"


def write_output(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json_safe(summary)
    write_json(folder / JSON, content)
    write_atomic(folder / PAGE, page(content))
