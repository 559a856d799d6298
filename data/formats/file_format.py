"""The formats of data files. Every module of this package that defines `FORMAT` reads one kind of file.

A new format is one new module: it need not be registered.
"""

from __future__ import annotations

import glob
import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data.formats
from data.formats.text_file import COMPRESSIONS, plain_name

# Files that datasets writes beside the data.
DESCRIPTION = re.compile(r"(dataset_infos?|dataset_dict|state)\.json|cache-.*\.arrow")

SIGNATURE_BYTES = 8
TEXT_OPTIONS = ("data.corpus_path", "data.queries_path")  # files of texts by id, also those of a BEIR folder

Record = tuple[str, Mapping[str, Any]]  # its place ("corpus.jsonl:7") and its content {column: value}


class HeadedRow(dict[str, Any]):
    """The content of a row whose columns are named at another place, that of the header."""

    __slots__ = ("header",)

    def __init__(self, content: Mapping[str, Any], header: str) -> None:
        super().__init__(content)
        self.header = header


def place_of_columns(where: str, row: Mapping[str, Any]) -> str:
    """The place that names the columns of a row: of the header, or the row's own."""
    return row.header if isinstance(row, HeadedRow) else where


@dataclass(frozen=True)
class FileFormat:
    """One kind of file whose rows are lists of documents.

    `read` yields the rows; `data.formats.columns` recognises their columns by name. An error names file and line. If
    several formats have the same suffix, `detect` reads a file and returns whether it has this format; without `detect`
    the suffix decides. A file that starts with `signature` has this format whatever its suffix is. `layouts` are
    (columns, name) of rows whose columns do not say where they are from (`data.formats.source_names`).
    """

    suffixes: tuple[str, ...]  # suffixes of file names: (".jsonl", ".jsonl.gz")
    read: Callable[[Path], Iterator[Record]]
    detect: Callable[[Path], bool] | None = None
    signature: bytes = b""
    layouts: tuple[tuple[tuple[str, ...], str], ...] = ()


def file_formats() -> tuple[FileFormat, ...]:
    """The `FORMAT` of every module of `data.formats` that has one, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(data.formats.__path__))
    modules = [importlib.import_module(f"{data.formats.__name__}.{name}") for name in names]
    return tuple(module.FORMAT for module in modules if hasattr(module, "FORMAT"))


def format_of(file: Path, formats: Sequence[FileFormat]) -> FileFormat | None:
    """The format of a file: that of its signature; the first of its suffix that detects it; the first of its suffix
    without `detect`; else None."""
    start = _start(file)
    signed = next((each for each in formats if each.signature and start.startswith(each.signature)), None)
    if signed is not None:
        return signed
    named = [each for each in formats if file.name.lower().endswith(each.suffixes)]
    detected = (each for each in named if each.detect is not None and each.detect(file))
    return next(detected, None) or next((each for each in named if each.detect is None), None)


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(SIGNATURE_BYTES)
    except OSError:  # its reader says why
        return b""


def find_files(key: str, path: str, formats: Sequence[FileFormat]) -> list[tuple[Path, FileFormat]]:
    """Find the files of a path with their formats: the file itself, those in a folder, or those that match a glob.

    In a folder, .json files are read only if no other file is: beside others they describe them (dataset_info.json).
    Raises ValueError or FileNotFoundError, which names `key`, if there is none.
    """
    suffixes = _in_words(formats)
    place = Path(path).expanduser()
    if not (key in TEXT_OPTIONS and place.is_file()):
        check_is_no_collection(f"{key}={path}", place)
    if place.is_file():
        own = format_of(place, formats)
        if own is None:
            raise ValueError(f"{key}={path}: {_why_no_format(place, formats, suffixes)}")
        return [(place, own)]
    found = sorted(place.iterdir()) if place.is_dir() else sorted(map(Path, glob.glob(str(place), recursive=True)))
    files = [(file, own) for file in found if file.is_file() and (own := format_of(file, formats)) is not None]
    if place.is_dir():
        files = [pair for pair in files if not DESCRIPTION.fullmatch(pair[0].name)]
        files = [pair for pair in files if not plain_name(pair[0]).endswith(".json")] or files
    if not files:
        what = "no file" if place.is_dir() or found else "no such file or folder, and no file matches it"
        raise FileNotFoundError(f"{key}={path}: {what} (names must end in {suffixes}){_in_folders(place, formats)}")
    return files


def _why_no_format(file: Path, formats: Sequence[FileFormat], suffixes: str) -> str:
    """Why a file has no format, and what to do: its name says none, or its content is none that its name says."""
    if not any(file.name.lower().endswith(each.suffixes) for each in formats):
        return f"the name must end in {suffixes}"
    if not file.stat().st_size:
        return "it is empty"
    suffix = Path(plain_name(file)).suffix
    others = ", ".join(name for name in suffixes.split(", ") if name != suffix)
    return f"the name must end in {others}; {suffix} is for the tables of TREC and MS MARCO, and this is none of them"


def check_is_no_collection(what: str, place: Path) -> None:
    """Raise ValueError, about `what`, if `place` is a folder in BEIR's layout, or its corpus or queries. A folder with
    a corpus and no folder of judgements may hold lists that name its documents by id."""
    folder = place if place.is_dir() else place.parent
    corpus, queries = (next(iter(sorted(folder.glob(f"{name}.jsonl*"))), None) for name in ("corpus", "queries"))
    others = [file for file in folder.glob("*") if file.is_file() and file not in (corpus, queries)]
    is_folder = place == folder and ((folder / "qrels").is_dir() or not others)
    if corpus and (is_folder or (queries and place in (corpus, queries))):
        raise ValueError(
            f"{what} is a collection in BEIR's layout (it has a {corpus.name}): data=beir data.path={folder}"
        )


def names_below(files: Sequence[Path], path: str) -> dict[str, Path]:
    """The files of a path by their names below it; "" is the name of a single file that the path itself names."""
    if list(files) == [Path(path).expanduser()]:
        return {"": files[0]}
    common = os.path.commonpath([file.parent for file in files])
    return {str(file.relative_to(common)): file for file in files}


def _in_words(formats: Sequence[FileFormat]) -> str:
    """The suffixes of the formats; those of compressed files once."""
    suffixes = dict.fromkeys(suffix for each in formats for suffix in each.suffixes)
    compressed = [suffix for suffix in suffixes if suffix.endswith(tuple(COMPRESSIONS))]
    plain = ", ".join(suffix for suffix in suffixes if suffix not in compressed)
    return f"{plain}; text also in {', '.join(COMPRESSIONS)}" if compressed else plain


def _in_folders(place: Path, formats: Sequence[FileFormat]) -> str:
    """The folders inside `place` that hold files, as `save_to_disk` writes the splits of a data set; else empty."""
    folders = sorted(inner for inner in place.iterdir() if inner.is_dir()) if place.is_dir() else []
    holding = [str(inner) for inner in folders if any(format_of(f, formats) for f in inner.iterdir() if f.is_file())]
    if not holding:
        return ""
    return f"; its folders hold some: choose one ({', '.join(holding[:5])})"
