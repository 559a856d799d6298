"""Which files (or splits of the hub) hold the rows of train, dev and test, and which the texts that rows name by id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.formats.file_format import FileFormat, Record, find_files, format_of
from data.formats.source_names import source_name
from data.formats.text_file import plain_name
from data.formats.text_store import holds_texts

SPLIT_NAMES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val", "eval"), "test": ("test",)}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
DOCUMENTS = re.compile(r"corpus|collection|documents?|docs?|passages?|pool")
QUERIES = re.compile(r"queries|query|questions?|topics?")
TEXT_FOLDERS = {"documents": ("documents", "corpus", "collection", "passages"), "queries": ("queries", "topics")}
DATASET_DICT = "dataset_dict.json"  # in the folder that save_to_disk makes of several splits


class RowSource(Protocol):
    """Rows that can be read several times, from their first."""

    @property
    def name(self) -> str:
        """The file, or the place on the hub."""

    @property
    def file(self) -> Path | None:
        """The file, if it is one."""

    @property
    def first(self) -> Mapping[str, Any] | None:
        """The first row; None if there is none that can be read."""

    @property
    def layout(self) -> str:
        """The name of the well-known layout of its first row; empty if it has none."""

    def __iter__(self) -> Iterator[Record]: ...


@dataclass(frozen=True)
class FileSource:
    """A file of rows or of texts."""

    file: Path
    format: FileFormat

    @property
    def name(self) -> str:
        return str(self.file)

    def __iter__(self) -> Iterator[Record]:
        return self.format.read(self.file)

    @property
    def first(self) -> Mapping[str, Any] | None:
        """The first row; None if there is none that can be read."""
        with suppress(ValueError, OSError):
            return next((row for _, row in self), None)
        return None

    @property
    def layout(self) -> str:
        """The name of the well-known layout of its first row; empty if it has none."""
        columns = tuple(self.first or ())
        return dict(self.format.layouts).get(columns) or source_name(columns)


@dataclass(frozen=True)
class Sources:
    """The rows of each split, and files of documents and queries beside them by their role. `notes` say what was not
    obvious."""

    splits: Mapping[str, Sequence[RowSource]]
    texts: Mapping[str, Sequence[RowSource]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_sources(key: str, path: str, formats: Sequence[FileFormat]) -> Sources:
    """The files of a path: of a folder those of each split, if their names say so, and those of texts by id.

    Raises ValueError or FileNotFoundError, which names `key`, if there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir() and (place / DATASET_DICT).is_file():
        return _saved_splits(key, place, formats)
    files = [FileSource(file, own) for file, own in find_files(key, path, formats)]
    texts: dict[str, list[FileSource]] = {}
    if len(files) > 1:
        for source in files:
            if (role := text_role(source)) is not None:
                texts.setdefault(role, []).append(source)
    held = {source.file for found in texts.values() for source in found}
    rows = [source for source in files if source.file not in held]
    if not rows:
        rows, texts = files, {}
    splits = _by_split(rows) if place.is_dir() else {"train": rows}
    notes = [f"{_listed(found)} {_holds(found)} the {role} of ids" for role, found in texts.items()]
    notes += [f"{_listed(found)} is {split}" for split, found in splits.items() if len(splits) > 1]
    return Sources(splits, texts, tuple(notes))


def texts_beside(files: Sequence[Path], formats: Sequence[FileFormat], role: str) -> list[FileSource]:
    """The files with texts of that role ("documents" or "queries") beside files of rows: in their folder, in a folder
    of that name there, or, if their names say the role, in the folder above."""
    for folder in dict.fromkeys(file.parent for file in files):
        inner = [folder / name for name in TEXT_FOLDERS[role] if (folder / name).is_dir()]
        own = [file for file in _files_in(folder) if file not in files]
        above = [file for file in _files_in(folder.parent) if _named_role(file) == role]
        found = [[each for each in _known(beside, formats) if text_role(each) == role] for beside in (own, above)]
        found.insert(1, [each for place in inner for each in _known(_files_in(place), formats) if text_role(each)])
        if chosen := next((sources for sources in found if sources), None):
            return chosen
    return []


def _files_in(folder: Path) -> list[Path]:
    with suppress(PermissionError):  # such as a /home that only says which of its folders is whose
        return sorted(file for file in folder.iterdir() if file.is_file())
    return []


def _known(files: Sequence[Path], formats: Sequence[FileFormat]) -> Iterator[FileSource]:
    """The files in a known format. One that cannot be read, and whose name says no role, has nothing to do with the
    rows: it is left out. Raises ValueError for one whose name says a role."""
    for file in files:
        try:
            own = format_of(file, formats)
        except ValueError:
            if _named_role(file) is not None:
                raise
        else:
            if own is not None:
                yield FileSource(file, own)


def text_role(source: FileSource) -> str | None:
    """Whether a file holds the texts of "documents" or of "queries" by id; None if it holds neither."""
    row = source.first
    if row is None or not holds_texts(row):
        return None
    asked = any(QUERIES.search(str(name).lower()) or name == "qid" for name in row)
    return _named_role(source.file) or ("queries" if asked else "documents")


def _named_role(file: Path) -> str | None:
    """The role that the name of a file says, as a word of it; None if it says none."""
    words = re.split(r"[\W_]+", plain_name(file).lower())
    roles = (("queries", QUERIES), ("documents", DOCUMENTS))
    return next((role for role, names in roles if any(map(names.fullmatch, words))), None)


def split_of(name: str) -> str | None:
    """The split that a name says, as a word of it (`train-00000-of-00002`, `queries.dev`); None if it says none."""
    words = re.split(r"[\W_]+", name.lower())
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), None)


def _by_split(rows: Sequence[FileSource]) -> dict[str, list[FileSource]]:
    """The files by split, if some are named as train and others as dev or test; else all are train."""
    found: dict[str, list[FileSource]] = {}
    for source in rows:
        found.setdefault(split_of(plain_name(source.file)) or "train", []).append(source)
    named = any(split_of(plain_name(source.file)) == "train" for source in rows)
    return found if named else {"train": list(rows)}


def _saved_splits(key: str, place: Path, formats: Sequence[FileFormat]) -> Sources:
    """The splits that `save_to_disk` of datasets wrote, by their names."""
    try:
        names = json.loads((place / DATASET_DICT).read_text())["splits"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{key}={place}: its {DATASET_DICT} names no splits; save the data set again") from None
    chosen = choose_splits(f"{key}={place}", names, lambda name: f"{key}={place / name}")
    splits = {
        split: [FileSource(file, own) for file, own in find_files(key, str(place / name), formats)]
        for split, name in chosen.items()
    }
    others = [name for name in names if name not in chosen.values()]
    note = ", ".join(f"{name} is {split}" for split, name in chosen.items())
    left = f"; not read: {', '.join(others)}" if others else ""
    return Sources(splits, notes=(note + left,) if len(names) > 1 else ())


def choose_splits(what: str, names: Sequence[str], choice: Any) -> dict[str, str]:
    """The name of each split's rows. A single one is train. Raises ValueError, about `what`, if there are several and
    none is called train; `choice` says how a name is chosen."""
    if len(names) == 1:
        return {"train": names[0]}
    found = {split: next((n for n in own if n in names), None) for split, own in SPLIT_NAMES.items()}
    if found["train"] is None:
        raise ValueError(f"{what} has the splits {', '.join(names)}, and none is called train: {choice(names[0])}")
    return {split: name for split, name in found.items() if name is not None}


def _listed(sources: Sequence[FileSource]) -> str:
    names = [source.file.name for source in sources]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)} files)"


def _holds(sources: Sequence[FileSource]) -> str:
    return "holds" if len(sources) == 1 else "hold"
