"""Read the rows of a data set of the Hugging Face hub, or of a folder that `datasets.load_dataset` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.formats.file_format import Record
from data.formats.source_names import source_name
from data.formats.sources import choose_splits

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TEXT_SUBSETS = {"documents": ("documents", "corpus", "collection"), "queries": ("queries",)}


@dataclass(frozen=True)
class HubSource:
    """The rows of one split."""

    name: str  # for messages: owner/name subset split
    rows: Any  # a Dataset
    file: Path | None = None

    def __iter__(self) -> Iterator[Record]:
        return ((f"{self.name}:{number}", row) for number, row in enumerate(self.rows, start=1))

    @property
    def fingerprint(self) -> str:
        """What `datasets` calls the fingerprint of the rows: it changes with their content."""
        return self.rows._fingerprint

    @property
    def first(self) -> Mapping[str, Any] | None:
        return next(iter(self.rows), None)

    @property
    def layout(self) -> str:
        return source_name(self.first or ())


def is_hub_id(path: str) -> bool:
    """Whether a path may be a hub id: owner/name, and no file or folder."""
    return HUB_ID.fullmatch(path) is not None and not Path(path).expanduser().exists()


def find_hub_splits(path: str, subset: str | None, split: str | None) -> tuple[dict[str, list[HubSource]], str]:
    """The rows of train, dev and test, and a line that says which was taken. With `split` that one is train, and there
    are no others.

    Raises ValueError if there is no such data set, subset or split.
    """
    what = f"data.path={path}" + (f" data.subset={subset}" if subset is not None else "")
    loaded = _load(what, path, subset)
    names = list(loaded)
    if split is not None and split not in names:
        raise ValueError(f"data.hub_split={split} is no split of {path}: it has {', '.join(names)}")
    chosen = {"train": split} if split else choose_splits(what, names, lambda name: f"data.hub_split={name}")
    shown = f"{path} {subset}" if subset else path
    others = [name for name in names if name not in chosen.values()]
    line = ", ".join(f"{name} is {split}" for split, name in chosen.items())
    line += f"; not read: {', '.join(others)} (data.hub_split=NAME)" if others else ""
    return {own: [HubSource(f"{shown} {name}", loaded[name])] for own, name in chosen.items()}, f"{shown}: {line}"


def find_hub_texts(path: str, role: str) -> Sequence[HubSource]:
    """The texts by id of a data set, all splits of its subset of documents or of queries; none if it has no such."""
    for subset in TEXT_SUBSETS[role]:
        with suppress(ValueError):
            found = _load(path, path, subset)
            return [HubSource(f"{path} {subset} {name}", rows) for name, rows in found.items()]
    return []


def _load(what: str, path: str, subset: str | None) -> Mapping[str, Any]:
    from datasets import load_dataset

    try:
        return load_dataset(str(Path(path).expanduser()) if Path(path).expanduser().exists() else path, subset)
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, another layout
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(
            f"{what} is neither a file or folder nor a data set of the hub that can be loaded ({reason}): check its "
            "name, or give a local file"
        ) from error
