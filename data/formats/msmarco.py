"""Read the tables of MS MARCO, which have no header: triples, as texts or as ids, and collections and queries by id."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from data.formats.file_format import FileFormat, Record
from data.formats.jsonl import read_lines
from data.formats.layouts import is_known
from data.formats.row_error import RowError
from data.formats.text_file import with_compressions

PROBED = 20  # lines by which the table is recognised
MIN_WORDS = 4  # of a text in the first line: a name of a column has fewer
NAMES = {
    "triples of texts": ("query", "positive", "negative"),
    "triples of ids": ("query_id", "positive_id", "negative_id"),
    "texts by id": ("_id", "text"),
}


def read_msmarco(file: Path) -> Iterator[Record]:
    """The (where, {column: text}) of every line, with the names of its table. Raises RowError for a line with another
    number of cells."""
    table = table_of(file)
    assert table is not None, f"{file} is no table of MS MARCO"
    return map(partial(_row, NAMES[table]), read_lines(file))


def is_msmarco(file: Path) -> bool:
    return table_of(file) is not None


def table_of(file: Path) -> str | None:
    """Which of the tables a file is, by its first lines; None if it is none of them, as one with a header."""
    try:
        lines = [line.split("\t") for _, line in islice(read_lines(file), PROBED)]
    except ValueError:  # the reader of the other formats says what is wrong
        return None
    if not lines or any(map(is_known, lines[0])) or len({len(cells) for cells in lines}) != 1:
        return None
    if len(lines[0]) == 3 and all(_is_number(cell) for cells in lines for cell in cells):
        return None if _are_ranks([cells[2] for cells in lines]) else "triples of ids"
    words = [len(cell.split()) for cell in lines[0]]
    if len(words) == 3 and sum(number >= MIN_WORDS for number in words) >= 2:
        return "triples of texts"
    have_ids = all(len(cells[0].split()) == 1 for cells in lines)
    if len(words) == 2 and have_ids and (_is_number(lines[0][0]) or words[1] >= MIN_WORDS):
        return "texts by id"
    return None


def _row(names: tuple[str, ...], numbered: tuple[str, str]) -> Record:
    where, line = numbered
    cells = line.split("\t")
    if len(cells) != len(names):
        raise RowError(
            where, f"{where}: expected {len(names)} tab-separated cells ({', '.join(names)}), got {len(cells)}"
        )
    return where, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _is_number(cell: str) -> bool:
    return cell.strip().isdecimal()


def _are_ranks(cells: list[str]) -> bool:
    """Whether a column counts 1, 2, 3: the lines are then ranked documents (qid pid rank), and no triples."""
    return len(cells) > 1 and [int(cell) for cell in cells[:3]] == list(range(1, min(len(cells), 3) + 1))


FORMAT = FileFormat(
    with_compressions(".tsv", ".txt"),
    read_msmarco,
    is_msmarco,
    layouts=((NAMES["triples of texts"], "MS MARCO triples"),),
)
