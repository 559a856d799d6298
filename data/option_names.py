"""The names of a data set's options in messages: data.KEY, inside a mixture data.sources.NAME.KEY.

Messages are written as for a data set that is the whole data of a run; `in_node` gives them the names that exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields

ROOT = "data"  # the node of a run's data
_node: ContextVar[tuple[str, tuple[str, ...]]] = ContextVar("node", default=(ROOT, ()))


def current_node() -> str:
    """The node of the data set that is being built."""
    return _node.get()[0]


@contextmanager
def building(node: str, options: object) -> Iterator[None]:
    """Name the `options` of a data set as they are named in `node` while it is built, in errors too."""
    names = tuple(field.name for field in fields(options))  # type: ignore[arg-type]
    token = _node.set((node, names))
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = in_node(str(error))
        raise type(error)(message if node in message else f"{node}: {message}") from error
    finally:
        _node.reset(token)


def in_node(message: str) -> str:
    """The message with its options named as in the current node."""
    node, names = _node.get()
    return rename_options(message, node, names)


def rename_options(message: str, node: str, names: tuple[str, ...] = ()) -> str:
    """The message with data.KEY as NODE.KEY, for each KEY of `names`, and data/GROUP= as data/GROUP@NODE.GROUP=.

    >>> rename_options("set data.lists.positives or data/lists=graded", "data.sources.a", ("lists", "path"))
    'set data.sources.a.lists.positives or data/lists@data.sources.a.lists=graded'
    """
    if node == ROOT:
        return message
    before = r"(?<![\w./@-])"
    message = re.sub(rf"{before}data/(\w+)=", rf"data/\1@{node}.\1=", message)
    return re.sub(rf"{before}data\.({'|'.join(names)})\b", rf"{node}.\1", message) if names else message
