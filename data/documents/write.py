"""Write the chunks of documents and their pairs as a BEIR folder, file by file: memory holds one document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from data.collection import SPLITS, is_empty, text_key
from data.documents.chunks import Chunk, ChunkOptions, chunks_of
from data.documents.document import Document
from data.documents.files import DocumentFile, FolderWalk, shown
from data.documents.held_out import PairLedger, SplitOptions
from data.documents.needed import MissingLibrary
from data.documents.pairs import Pair, PairMaker
from data.documents.readers import DocumentReader
from data.formats.qrels import COLUMNS
from data.formats.skipped import SkippedRows
from data.inspection.near_duplicates import MAX_CHARACTERS, NearDuplicates
from data.progress import show_progress

CORPUS, QUERIES, MADE, NEVER = "corpus.jsonl", "queries.jsonl", "made.json", "qrels/same_document.tsv"
SKIPPED = "skipped.jsonl"  # for the user of a command that has no folder of its own
NEIGHBOURS = 10  # chunks on each side that are never negatives of a query


@dataclass
class FolderWriter:
    """Reads the files of a walk and writes their chunks, queries and judgements below `folder`."""

    walk: FolderWalk
    reader: DocumentReader
    skipped: SkippedRows
    chunks: ChunkOptions
    maker: PairMaker
    ledger: PairLedger
    near: NearDuplicates | None
    num_files: int | None = None  # for the time left
    counts: Counter[str] = field(default_factory=Counter)
    guessed: dict[str, list[str]] = field(default_factory=dict)  # encodings that were guessed, with their files
    _known: set[int] = field(default_factory=set)  # keys of the texts of chunks

    def write(self, folder: Path, options: SplitOptions) -> None:
        """Write all. Raises ValueError if no file has a text, or if pairs are made and too few documents have some."""
        (folder / "qrels").mkdir(parents=True)
        pairs = folder / "pairs.jsonl"
        with (folder / CORPUS).open("w", encoding="utf-8") as corpus, pairs.open("w", encoding="utf-8") as listed:
            for name, document in self._documents():
                self._write_document(name, document, corpus, listed)
        if not self.counts["documents"]:
            raise ValueError(self._nothing())
        found, documents = self.ledger.splits(options) if self.ledger.kinds else ([], {})
        self._write_queries(folder, pairs, found)
        pairs.unlink()
        made = {
            "files": self.counts["files"],
            "documents": self.counts["documents"],
            "chunks": self.counts["chunks"],
            "dropped_chunks": {name: self.counts[name] for name in ("equal", "nearly equal") if self.counts[name]},
            "hidden": self.walk.hidden,
            "guessed_encodings": {name: [len(files), files[0]] for name, files in self.guessed.items()},
            "left_out": len(self.skipped.rows),
            "documents_of_splits": {split: documents[split] for split in SPLITS if split in documents},
            "pairs": self.ledger.counts(found),
        }
        (folder / MADE).write_text(json.dumps({"made": made, "skipped": self.skipped.rows}))
        with (folder / SKIPPED).open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.skipped.rows)

    def _nothing(self) -> str:
        what = "no file" if not self.skipped.rows else f"no file that can be read; the first: {self.skipped.first}"
        hidden = f" ({self.walk.hidden} hidden files or folders are not opened)" * (self.walk.hidden > 0)
        return f"{what}{hidden}: name a folder of text, Markdown, HTML, PDF, source code or tables"

    def _documents(self) -> Iterator[tuple[str, Document]]:
        """The documents of all files with their ids. A file without one is noted."""
        wanted = (file for file in self.walk.files() if self.reader.is_wanted(file.path))
        for file in show_progress(wanted, "reading documents", self.num_files, "files"):
            self.counts["files"] += 1
            try:
                documents = self.reader.read(file.path)
                first = next(documents, None)
                if first is None:
                    raise ValueError("no text in any of its rows")
                if first.guessed_encoding:
                    self.guessed.setdefault(first.guessed_encoding, []).append(file.name)
                for document in chain([first], documents):
                    yield f"{file.name}#{document.row}" if document.row else file.name, document
            except MissingLibrary:
                raise
            except (ValueError, OSError) as error:
                self._leave_out(file, error)

    def _leave_out(self, file: DocumentFile, error: ValueError | OSError) -> None:
        where = shown(file.path)
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).removeprefix(f"{where}: ")
        self.skipped.leave_out(where, ValueError(f"{where}: {reason}"))

    def _write_document(self, name: str, document: Document, corpus: TextIO, listed: TextIO) -> None:
        """Write the chunks that are new, and note their pairs."""
        chunks = chunks_of(document, self.chunks)
        self.ledger.begin_document(name)
        self.counts["documents"] += 1
        kept = {number for number, chunk in enumerate(chunks) if self._is_new(f"{name}#{number + 1}", chunk)}
        texts, pairs = self.maker.make(name, document, chunks)
        for number in sorted(kept):
            json.dump({"_id": f"{name}#{number + 1}", "text": texts[number]}, corpus, ensure_ascii=False)
            corpus.write("\n")
        self.counts["chunks"] += len(kept)
        for pair in pairs:
            if pair.dropped:
                self.ledger.drop(pair)
            elif pair.chunk not in kept:
                self.ledger.drop(pair, "of a dropped chunk")
            else:
                self.ledger.add(pair)
                never = _never(pair, chunks, kept)
                row = [f"{name}#{pair.chunk + 1}", pair.kind, pair.query, [f"{name}#{other + 1}" for other in never]]
                listed.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _is_new(self, key: str, chunk: Chunk) -> bool:
        """Whether a chunk has a text that no earlier one has or nearly has."""
        if is_empty(chunk.text):
            return False
        if (value := text_key(chunk.text)) in self._known:
            self.counts["equal"] += 1
            return False
        self._known.add(value)
        if self.near is not None and self.near.add(key, chunk.text[:MAX_CHARACTERS]) is not None:
            self.counts["nearly equal"] += 1
            return False
        return True

    def _write_queries(self, folder: Path, pairs: Path, found: list[str]) -> None:
        """Write the queries and judgements of the pairs that are used."""
        if not found:
            return
        with ExitStack() as stack:
            queries = stack.enter_context((folder / QUERIES).open("w", encoding="utf-8"))
            never = stack.enter_context((folder / NEVER).open("w", encoding="utf-8"))
            tables = {
                split: stack.enter_context((folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8"))
                for split in SPLITS
                if split in found
            }
            for table in (never, *tables.values()):
                table.write("\t".join(COLUMNS) + "\n")
            for line, split in zip(stack.enter_context(pairs.open(encoding="utf-8")), found, strict=True):
                if split:
                    chunk, kind, query, others = json.loads(line)
                    identifier = f"{chunk}:{kind}"
                    queries.write(json.dumps({"_id": identifier, "text": query}, ensure_ascii=False) + "\n")
                    tables[split].write(f"{identifier}\t{chunk}\t1\n")
                    never.writelines(f"{identifier}\t{other}\t1\n" for other in others)


def _never(pair: Pair, chunks: list[Chunk], kept: set[int]) -> list[int]:
    """The chunks near the pair's own one that are no negatives of its query: those of its section, for a title all."""
    own = chunks[pair.chunk].section_number
    near = range(max(pair.chunk - NEIGHBOURS, 0), min(pair.chunk + NEIGHBOURS + 1, len(chunks)))
    return [
        other
        for other in near
        if other in kept and other != pair.chunk and (pair.kind == "title" or chunks[other].section_number == own)
    ]


def lines_of(name: str, made: Mapping[str, Any], skipped: list[dict[str, str]], folder: Path) -> Iterator[str]:
    """What is said of documents that were written to `folder`: what was read, left out, and what each kind of pair gave
    and dropped."""
    dropped = "".join(f", {number:,} {reason} to another dropped" for reason, number in made["dropped_chunks"].items())
    hidden = f"; {made['hidden']:,} hidden left out" if made["hidden"] else ""
    yield (
        f"{name}: {made['chunks']:,} chunks of {made['documents']:,} documents in {made['files']:,} files"
        f"{dropped}{hidden}"
    )
    if guessed := made["guessed_encodings"].items():
        each = ", ".join(f"{encoding} {number:,} (the first: {first})" for encoding, (number, first) in guessed)
        yield f"{name}: files that are not UTF-8, read in an encoding that was guessed: {each}"
    if skipped:
        first = f"{skipped[0]['where']}: {skipped[0]['error']}"
        yield (
            f"{name}: {len(skipped):,} {'is' if len(skipped) == 1 else 'are'} left out (data.on_error=skip; listed in "
            f"skipped.jsonl of a run, and in {folder / SKIPPED}); the first: {first}"
        )
    if made["pairs"]:
        held = made["documents_of_splits"]
        parts = [_kind_line(kind, counts) for kind, counts in made["pairs"].items()]
        shares = ", ".join(f"{split} {held.get(split, 0):,}" for split in SPLITS)
        yield f"{name}: pairs: {'; '.join(parts)}; documents: {shares}"


def _kind_line(kind: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    dropped = ", ".join(f"{number:,} {reason}" for reason, number in counts["dropped"].items())
    return f"{kind} {sum(counts['given'].values()):,}" + (f" (dropped: {dropped})" if dropped else "")
