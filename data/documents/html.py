"""HTML, by Beautiful Soup and lxml: headings and blocks of text, without navigation and scripts."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from data.documents.decode import MARKS, Decoded, check_is_text, decoded
from data.documents.document import Document, Section, one_line, with_text
from data.documents.needed import needed

LEFT_OUT = (
    *("script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "button", "svg"),
    *("iframe", "head"),
)
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BLOCKS = frozenset({
    *HEADINGS, "p", "li", "pre", "blockquote", "tr", "dt", "dd", "div", "section", "article", "main", "body", "td",
    "figcaption", "caption", "ul", "ol", "dl", "table", "details", "summary", "html", "[document]",
})  # fmt: skip
CELLS = ("td", "th")
AS_BROWSERS = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "iso8859-9": "cp1254"}


def read_html(path: Path) -> Document:
    """An HTML page. Its title is its first heading of the first level, else that of its head."""
    needed("lxml")
    markup, guessed = _markup(path.read_bytes())
    soup = needed("bs4").BeautifulSoup(markup, "lxml")
    named = one_line(soup.title.get_text()) if soup.title is not None else ""
    first = soup.find("h1")
    title = (one_line(first.get_text(" ")) if first is not None else "") or named
    for tag in soup.find_all(LEFT_OUT):
        if tag.name != "header" or tag.find(HEADINGS) is None:  # of an article: it has its headings
            tag.extract()
    sections = [Section()]
    for block, text in _blocks(soup):
        if block.name in HEADINGS:
            if text != title:
                sections.append(Section(text))
        else:
            sections[-1].add(text)
    return Document(title, with_text(sections), guessed_encoding=guessed)


def _markup(content: bytes) -> Decoded:
    """The text of a page, in the encoding that it names (as browsers read that name) unless it has a byte order mark;
    if it names none that is known, as that of other texts."""
    named = needed("bs4").dammit.EncodingDetector.find_declared_encoding(content, is_html=True)
    if named is None or content.startswith(tuple(mark for mark, _ in MARKS)):
        return decoded(content)
    check_is_text(content)
    try:
        name = codecs.lookup(named).name
        if name.startswith(("utf-16", "utf-32")):  # the page could not say so in bytes of ASCII
            return decoded(content)
        return Decoded(content.decode(AS_BROWSERS.get(name, name), errors="replace"))
    except LookupError:
        return decoded(content)


def _blocks(soup: Any) -> list[tuple[Any, str]]:
    """The blocks and their texts. The text of a block ends where another one begins inside it."""
    found: list[tuple[Any, list[str]]] = []
    bs4 = needed("bs4")
    for string in soup.find_all(string=True):
        if type(string) is not bs4.NavigableString:  # a comment, a declaration
            continue
        if (block := _block_of(string)) is None:
            continue
        if not found or found[-1][0] is not block:
            found.append((block, []))
        found[-1][1].append(str(string))
    return [(block, _text(block, parts)) for block, parts in found if "".join(parts).strip()]


def _block_of(string: Any) -> Any:
    """The block that a string belongs to. The cells of a table's row are one block, the row."""
    for parent in string.parents:
        if parent.name in BLOCKS and parent.name not in CELLS:
            return parent
    return None


def _text(block: Any, parts: list[str]) -> str:
    if block.name == "pre":
        return "".join(parts).strip("\n")
    return one_line((" " if block.name == "tr" else "").join(parts))
