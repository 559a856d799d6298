"""Markdown, by markdown-it-py: headings, paragraphs, lists, tables, code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data.documents.document import Document, Section, one_line, with_text
from data.documents.needed import needed

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
TITLE_LINE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^>]*>", re.DOTALL)
SPACED = ("softbreak", "hardbreak")
CODE = ("fence", "code_block")


def read_markdown(text: str) -> Document:
    """A Markdown text. Its title is that of its front matter, or its first heading of the first level."""
    front = FRONT_MATTER.match(text)
    title = ""
    if front is not None:
        named = TITLE_LINE.search(front[1])
        title = named[1].strip("\"'") if named else ""
        text = text[front.end() :]
    sections = [Section()]
    for kind, content in _blocks(needed("markdown_it").MarkdownIt("commonmark").enable("table").parse(text)):
        if kind == "h1" and not title:
            title = content
        elif kind.startswith("h"):
            sections.append(Section(content))
        else:
            sections[-1].add(content)
    return Document(title, with_text(sections))


def _blocks(tokens: list[Any]) -> Iterator[tuple[str, str]]:
    """The blocks of a text, each as ("h1" to "h6", heading), ("p", paragraph). The cells of a table's row and the parts
    of a list's item are one paragraph."""
    heading, joined, depth = "", list[str](), 0
    for token in tokens:
        if token.type == "heading_open":
            heading = token.tag
        elif token.type in ("tr_open", "list_item_open"):
            if token.type == "list_item_open" and joined:  # what stands before a list inside a list
                yield "p", " ".join(joined)
                joined = []
            depth += 1
        elif token.type in ("tr_close", "list_item_close"):
            depth -= 1
            if joined:
                yield "p", " ".join(joined)
            joined = []
        elif token.type == "inline":
            content = one_line(_words(token))
            if heading:
                yield heading, content
            elif depth:
                joined.append(content)
            else:
                yield "p", content
            heading = ""
        elif token.type in CODE:
            yield "p", token.content.rstrip("\n")
        elif token.type == "html_block":
            yield "p", one_line(TAG.sub(" ", token.content))


def _words(inline: Any) -> str:
    """The text of an inline token, without marks and addresses."""
    parts = []
    for child in inline.children:
        if child.type in SPACED:
            parts.append(" ")
        elif child.type == "image":
            parts.append(_words(child) if child.children else "")
        elif child.type != "html_inline":
            parts.append(child.content)
    return "".join(parts)
