"""Settings in messages, as they are typed in a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def setting(key: str, value: str) -> str:
    """KEY=VALUE, with the quotes that Hydra and the shell need.

    >>> print(setting("data.columns.query", "title"), setting("data.columns.query", "the title"))
    data.columns.query=title 'data.columns.query="the title"'
    """
    return shlex.quote(f"{key}={quoted(value)}")


def ignoring(columns: Iterable[str]) -> str:
    """The setting that leaves columns out.

    >>> print(ignoring(["language", "no."]))
    'data.ignore=[language,"no."]'
    """
    return shlex.quote(f"data.ignore=[{','.join(map(quoted, columns))}]")


def quoted(name: str) -> str:
    """A name as Hydra reads it back: in quotes unless it is plain."""
    if PLAIN.fullmatch(name) and name.lower() not in ("null", "true", "false", "nan", "inf"):
        return name
    escaped = re.sub(r'(\\*)"', r"\1\1\\" + '"', re.sub(r"(\\+)$", r"\1\1", name))
    return f'"{escaped}"'
