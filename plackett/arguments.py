"""Check what callers give, so that an error names the argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def checked_text(name: str, text: Any) -> str:
    """Return the text. Raises ValueError if it is none, or holds a lone surrogate, which no tokenizer reads."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: no text, it has a lone surrogate at character {error.start + 1}") from None
    return text


def checked_texts(name: str, texts: Iterable[Any]) -> list[str]:
    """Return the texts as a list. Raises ValueError, naming the text, if one is none or if they are one text."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name} is one text: give a list of texts")
    return [checked_text(f"{name}[{index}]", text) for index, text in enumerate(texts)]


def checked_pairs(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the (query, document) pairs. Raises ValueError, naming the pair, if one is none."""
    found = []
    for index, pair in enumerate(pairs):
        if isinstance(pair, str | bytes) or len(pair) != 2:
            raise ValueError(f"pairs[{index}] must be a query and a document, got {type(pair).__name__}")
        query, document = (checked_text(f"pairs[{index}][{side}]", text) for side, text in enumerate(pair))
        found.append((query, document))
    return found


def check_count(name: str, count: int | None) -> None:
    """Raise ValueError if a count is neither None nor at least 1."""
    if count is not None and count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
