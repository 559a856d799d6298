"""Large data sets are made once, in a process of their own, and then opened from the cache."""

from __future__ import annotations

import inspect
import json
import logging
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import data
from data.cache import cached, size_of
from data.collection import Collection, content_hash
from data.hashing import file_digest
from data.option_names import ROOT, building, current_node, in_node
from data.pool import end_with_parent
from data.progress import making
from data.store.collection import documents_of, is_whole, open_collection, write_collection

if TYPE_CHECKING:
    from data.source import SourceOptions

logger = logging.getLogger(__name__)

STORED_FROM = 2**26  # bytes of files: smaller data sets are read quickly and stay in memory
STORED_FROM_ROWS = 150_000  # rows of the hub, whose files are not at hand
PLACES = "places.json"  # where the data lay when a collection was made
NOT_STORED = frozenset({"cache_dir"})  # options that change nothing in the collection


def stored_if_large(
    options: SourceOptions,
    files: Mapping[str, Mapping[str, Path]],
    read: Callable[[], Collection],
    *,
    contents: Mapping[str, Any] = MappingProxyType({}),
    num_rows: int = 0,
) -> Collection:
    """The collection that `read` gives, of the data set with these options and files. If the files are large, it is in
    memory-mapped files of the cache, and `options.build_stored(folder)` makes it. `contents` identifies what is read
    beside the files, which has `num_rows`.

    The cache is found by the content of the files, the options and the code that reads them, so a stale one is never
    opened.
    """
    paths = {file for named in files.values() for file in named.values()}
    if not all(file.is_file() for file in paths):
        return read()  # it says which file is missing
    if num_rows < STORED_FROM_ROWS and sum(file.stat().st_size for file in paths) < STORED_FROM:
        return read()
    digests = {key: {name: file_digest(file) for name, file in named.items()} for key, named in files.items()}
    return open_stored(options, {**contents, **digests})


def open_stored(options: SourceOptions, contents: Mapping[str, Any]) -> Collection:
    """Open the collection of the cache; make it first if it is not there. `contents` identifies what is read."""
    kept = {field.name: repr(getattr(options, field.name)) for field in fields(options) if field.name not in NOT_STORED}
    names = [name for name in contents if name in kept]  # their content counts, not where they lie
    kept = {name: value for name, value in kept.items() if name not in names}
    key = content_hash([type(options).__qualname__, kept, contents, current_node(), code_digest(type(options))])
    folder = options.cache / "collections" / f"{options.stored_name}-{key}"
    if folder.exists() and not is_whole(folder):
        raise ValueError(
            in_node(f"data.cache_dir: {folder} lacks its documents: remove it ({_removal(options, folder)})")
        )
    if getattr(
        multiprocessing.current_process(), "_inheriting", False
    ):  # it would wait for the process that waits for it
        raise ValueError('data: a script that opens large data must do it below `if __name__ == "__main__":`')
    start = perf_counter()
    is_new = not folder.exists()
    if is_new:
        logger.warning(
            "%s is large: it is converted once to memory-mapped files in %s", options.stored_name, options.cache
        )
    cached(folder, lambda path: _build_apart(options, path))
    try:
        collection, messages = open_collection(folder, options.lists)
    except Exception as error:  # the exception depends on what is broken
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            in_node(
                f"data.cache_dir: {folder} or its documents are broken ({reason}): remove them "
                f"({_removal(options, folder, documents_of(folder))}), and they are made again"
            )
        ) from error
    renamed = _renamed(options, folder)
    for message in messages:
        logger.warning("%s", renamed(message))
    if is_new:
        documents = documents_of(folder)
        apart = "" if documents.is_relative_to(folder) else f" and {documents} ({size_of(documents) / 2**20:.0f} MiB)"
        logger.warning(
            "%s: %s documents, made in %.0f s; %s (%.0f MiB)%s are opened from now on",
            options.stored_name,
            f"{len(collection.documents):,}",
            perf_counter() - start,
            folder,
            size_of(folder) / 2**20,
            apart,
        )
    return replace(collection, skipped=[{**row, "where": renamed(row["where"])} for row in collection.skipped])


def _renamed(options: SourceOptions, folder: Path) -> Callable[[str], str]:
    """Put the places that the options name now into texts that were written when the data lay elsewhere."""
    before = json.loads((folder / PLACES).read_text())
    moved = {place: str(getattr(options, name)) for name, place in before.items()}

    def rename(text: str) -> str:
        for old, new in moved.items():
            text = text.replace(old, new)
        return text

    return rename


def _removal(options: SourceOptions, *folders: Path) -> str:
    """The command that removes folders of the cache. What lies in one of them is removed with it."""
    names = [folder.name for number, folder in enumerate(folders) if not {folder, folder.parent} & {*folders[:number]}]
    return f"launch/cache.py remove {' '.join(names)} data.cache_dir={options.cache_dir}"


def code_digest(kind: type) -> str:
    """A hash of the code that reads data: this package, and the file of a class that is not in it."""
    package = Path(data.__path__[0])
    own = Path(inspect.getfile(kind)).resolve()
    files = sorted({*package.rglob("*.py"), own})
    return content_hash([(file.name, file.read_text()) for file in files])


def _build_apart(options: SourceOptions, path: Path) -> None:
    """Make the collection in a process that ends then: what it needed does not stay in the memory of a rank."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_build, args=(options, path, current_node(), sender))
    resource_tracker.ensure_running()  # else the start does it, and unblocks the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process, which ends the other
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sender.close()
    try:
        error = receiver.recv()
    except EOFError:
        error = None  # it was killed
    except BaseException:
        process.kill()  # nobody waits for its result
        raise
    finally:
        process.join()
    if error is not None:
        raise error
    if process.exitcode:
        raise ValueError(
            f"data: the process that converts {options.stored_name} was ended (exit status {process.exitcode}; -9 is "
            "often a lack of memory, -7 a full disk); the same command goes on where it was"
        )


def _build(options: SourceOptions, path: Path, node: str, sender: Connection) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with making(), nullcontext() if node == ROOT else building(node, options):
            build_here(options, path)
    except (ValueError, OSError) as error:
        sender.send(error)
    else:
        sender.send(None)


def build_here(options: SourceOptions, path: Path) -> None:
    """Make the collection in this process. What is logged is kept, and said when the collection is opened."""
    kept, package = _Kept(), logging.getLogger("data")
    package.addHandler(kept)
    package.propagate = False
    try:
        write_collection(path, options.build_stored(path), kept.messages)
        places = {name: str(getattr(options, name)) for name in options.places()}
        (path / PLACES).write_text(json.dumps(places))
    finally:
        package.propagate = True
        package.removeHandler(kept)


class _Kept(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
