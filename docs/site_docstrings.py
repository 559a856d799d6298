"""What the API page changes in docstrings, which are written to be read as text (mkdocs.yml, griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^[ ]*>>>.*\n?(?:^(?![ ]*$).*\n?)*)+", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts the examples of a docstring into fenced blocks: as Markdown, >>> is a quotation."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(match: re.Match[str]) -> str:
    """An example between blank lines, as a block of code."""
    return f"\n```pycon\n{match.group().rstrip()}\n```\n"
