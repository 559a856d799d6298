"""The libraries that read documents, which an installation has with the extra `documents`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PACKAGES = {
    "pypdf": "pypdf",
    "bs4": "beautifulsoup4",
    "lxml": "lxml",
    "markdown_it": "markdown-it-py",
    "charset_normalizer": "charset-normalizer",
}


class MissingLibrary(ValueError):
    """A library is not installed. No file is skipped for that: all of its kind would be."""


def needed(module: str) -> Any:
    """The module. Raises MissingLibrary, which says what to install, if there is none."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise MissingLibrary(
            f"data=documents: {PACKAGES[module]} is not installed: pip install -c constraints.txt -e '.[documents]'"
        ) from None
