"""The index of BM25, made in pieces and memory-mapped, so that a corpus of any size has one."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import bm25s
import numpy as np

from data.pool import map_in_processes
from data.progress import Progress, show_progress
from data.words import TextAnalyzer

AT_ONCE = 20_000  # documents that are Python objects at once

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows of documents, terms, how often; sorted by document and term


def write_index(
    folder: Path,
    documents: Sequence[str],
    *,
    analyzer: TextAnalyzer,
    k1: float,
    b: float,
    in_processes: bool = False,
) -> None:
    """Write the index of documents: the scores of Lucene's BM25 as bm25s computes them, to the last bit.

    score(t, d) = ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) tf / (k1 (1 - b + b |d| / avg |d|) + tf)

    Raises ValueError if no document has a word.
    """
    folder.mkdir(parents=True)
    total = len(documents)
    vocabulary, lengths, num_pieces = _count(folder, documents, analyzer, in_processes)
    if not vocabulary:
        raise ValueError(f"BM25: none of the {total} documents has a word to index (all empty or stop words)")
    frequencies = np.zeros(len(vocabulary), dtype=np.int64)
    for number in range(num_pieces):
        frequencies += np.bincount(_read(folder, number)[1], minlength=len(vocabulary))
    ends = np.concatenate([[0], np.cumsum(frequencies)])
    np.save(folder / "indptr.npy", ends)
    data = np.lib.format.open_memmap(folder / "data.npy", "w+", np.float32, (int(ends[-1]),))
    indices = np.lib.format.open_memmap(folder / "indices.npy", "w+", np.int32, (int(ends[-1]),))
    idf = np.array([math.log(1 + (total - n + 0.5) / (n + 0.5)) for n in frequencies.tolist()], dtype=np.float32)
    mean = lengths.mean()
    next_places = ends[:-1].copy()
    for number in show_progress(range(num_pieces), "BM25, joining the index", num_pieces, "pieces"):
        rows, terms, counts = _read(folder, number)
        tf = counts.astype(np.float32)
        scores = idf[terms] * (tf / (k1 * ((1 - b) + b * lengths[rows] / mean) + tf))
        order = np.argsort(terms, kind="stable")  # by term, then by document
        sorted_terms = terms[order]
        starts = np.searchsorted(sorted_terms, sorted_terms, side="left")
        places = next_places[sorted_terms] + np.arange(len(order)) - starts
        data[places], indices[places] = scores[order].astype(np.float32), rows[order]
        next_places += np.bincount(terms, minlength=len(vocabulary))
        _piece(folder, number).unlink()
    data.flush()
    indices.flush()
    (folder / "vocabulary.json").write_text(json.dumps(list(vocabulary)))
    (folder / "size.json").write_text(json.dumps(total))


def open_index(folder: Path) -> bm25s.BM25:
    """Open an index, memory-mapped."""
    index = bm25s.BM25(method="lucene")  # k1 and b are in the scores
    index.nonoccurrence_array = None  # what the method lucene has
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr")}
    index.scores = {**arrays, "num_docs": json.loads((folder / "size.json").read_text())}
    terms: Sequence[str] = json.loads((folder / "vocabulary.json").read_text())
    index.vocab_dict = {term: number for number, term in enumerate(terms)}
    return index


def _count(
    folder: Path, documents: Sequence[str], analyzer: TextAnalyzer, in_processes: bool
) -> tuple[dict[str, int], np.ndarray, int]:
    """Count the terms of all documents in pieces. Returns the terms with their numbers, the documents' lengths in
    terms, and the number of pieces."""
    vocabulary: dict[str, int] = {}
    lengths: list[np.ndarray] = []
    number = 0
    starts = range(0, len(documents), AT_ONCE)
    if in_processes:
        analyzed = map_in_processes(_analyze, starts, _Given, documents, analyzer, AT_ONCE)
    else:
        analyzed = map(partial(_analyze, _Given(documents, analyzer, AT_ONCE)), starts)
    with Progress("BM25, indexing", len(documents), "documents") as progress:
        for words, local, sizes in analyzed:
            numbers = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in words], dtype=np.int64)
            lengths.append(sizes)
            pairs = np.repeat(np.arange(len(sizes)), sizes) * len(vocabulary) + numbers[local]
            distinct, counts = np.unique(pairs, return_counts=True)
            rows, terms = np.divmod(distinct, max(len(vocabulary), 1))
            rows += progress.done
            _write(folder, number, (rows.astype(np.int32), terms.astype(np.int32), counts.astype(np.int32)))
            number += 1
            progress.advance(len(sizes))
    return vocabulary, np.concatenate(lengths), number


class _Given(NamedTuple):
    documents: Sequence[str]
    analyzer: TextAnalyzer
    at_once: int


def _analyze(given: _Given, start: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct terms of a piece of the documents, their places in the sequence of its terms, and the documents'
    lengths in terms."""
    terms: dict[str, int] = {}
    numbers = array("i")
    sizes = []
    for words in given.analyzer.documents(given.documents[start : start + given.at_once]):
        numbers.extend([terms.setdefault(word, len(terms)) for word in words])
        sizes.append(len(words))
    return list(terms), np.array(numbers, dtype=np.int32), np.array(sizes, dtype=np.int64)


def _piece(folder: Path, number: int) -> Path:
    return folder / f"piece-{number}.npy"


def _write(folder: Path, number: int, piece: Piece) -> None:
    np.save(_piece(folder, number), np.stack(piece))


def _read(folder: Path, number: int) -> Piece:
    rows, terms, counts = np.load(_piece(folder, number))
    return rows, terms, counts
