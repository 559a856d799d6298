"""The models that are measured: their names, labels and kinds, checked before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.bm25 import BM25
from data.hashing import stable_hash
from models.loading.kind import options_for
from recipes.choose.config import ChooseConfig, check_name

FIRST_STAGE = "first_stage"


@dataclass(frozen=True)
class Entry:
    """A model of the list, or BM25 (`options` None). `label` is its short name, which no other entry has."""

    name: str
    label: str
    options: Any = None

    @property
    def folder(self) -> str:
        """The name of its folder below `models/`: the label, with a hash if that cannot be a name."""
        name = re.sub(r"[^\w.-]+", "-", self.label).strip("-.")
        return name if name == self.label else f"{name}-{stable_hash(self.label) & 0xFFFFFF:06x}"


def read_entries(settings: ChooseConfig) -> list[Entry]:
    """The models of the settings, without BM25.

    Raises ValueError or FileNotFoundError, in one line, if one is not found or does not load, if there is none, one
    twice, or models of two kinds.
    """
    names = [name for name in settings.models if name.casefold() != BM25.name]
    if not names:
        raise ValueError("models names no model beside BM25: models=[PATH,...], folders or hub ids")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"models names {twice} twice: give each once")
    entries = [Entry(name, label, _options(settings, name)) for name, label in zip(names, labels(names), strict=True)]
    _check_differ(entries)
    for name in settings.price:
        check_name("price", name, [each for entry in entries for each in dict.fromkeys((entry.label, entry.name))])
    _check_one_kind(entries)
    _check_applies(settings, embeds(entries[0]))
    return entries


def _options(settings: ChooseConfig, name: str) -> Any:
    """The checked options of a model."""
    try:
        of = settings.of
        options = options_for(name, "model@of") if of is None else replace(of, name_or_path=name)
        options.check(needs_head=True)
    except (ValueError, OSError) as error:
        # Where there is one model, its options are called model.KEY; here they are of.KEY.
        message = re.sub(r"\bmodel\.(\w+)(?==| to )", r"of.\1", str(error))
        raise type(error)(message if name in message else f"models: {name}: {message}") from error
    return options


def _check_differ(entries: Sequence[Entry]) -> None:
    """Two spellings of one folder, or a hub id and its folder, are one model."""
    names: dict[Path, str] = {}
    for entry in entries:
        folder = entry.options.folder()
        if folder is None:
            continue
        if (other := names.setdefault(folder.resolve(), entry.name)) != entry.name:
            raise ValueError(f"models names {folder.resolve()} twice, as {other} and as {entry.name}: give each once")


def _check_applies(settings: ChooseConfig, embedding: bool) -> None:
    """Rerankers store no vectors: what is set about them would be ignored."""
    given = {"eval.dims": settings.eval.dims, "limit.dimension": settings.limit.get("dimension")}
    for key, value in given.items():
        if value and not embedding:
            raise ValueError(f"{key}={value} is of vectors, which rerankers do not have: leave it out")


def _check_one_kind(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for entry in entries:
        if embeds(entry) != embeds(first):
            embedder, reranker = (entry, first) if embeds(entry) else (first, entry)
            raise ValueError(
                f"models: {embedder.name} is an embedding model and {reranker.name} a reranker, which do different "
                "work: choose among one kind at a time"
            )


def embeds(entry: Entry) -> bool:
    """Whether a model embeds texts (else it scores pairs)."""
    return "embedding" in entry.options.outputs


def labels(names: Sequence[str]) -> list[str]:
    """The shortest ends of the names, cut at slashes, that differ from each other; "model", the name of every export,
    is never one alone.

    >>> labels(["sentence-transformers/all-MiniLM-L6-v2", "outputs/a/model", "outputs/b/model"])
    ['all-MiniLM-L6-v2', 'a/model', 'b/model']
    """
    found = []
    for name in names:
        parts = [part for part in name.split("/") if part] or [name]
        others = [other for other in names if other != name]
        for length in range(1, len(parts) + 1):
            label = "/".join(parts[-length:])
            if (label != "model" or len(parts) == 1) and not any(f"/{other}".endswith(f"/{label}") for other in others):
                break
        found.append(label if label not in (BM25.name, FIRST_STAGE) else name)
    return found
