"""The output file of a command: it appears when it is whole, and says beside it what it was made from."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from filelock import FileLock, Timeout

from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from runs.files import write_json

META = ".meta.json"  # ends the name of the file beside an output
UNFINISHED = ".unfinished"  # ends the name of the folder beside it that a killed command leaves


@dataclass(frozen=True)
class Output:
    """An output file. `key` is what its content depends on, {what: a fingerprint or a value}."""

    path: Path
    key: Mapping[str, Any]
    overwrite: bool = False

    @property
    def meta(self) -> Path:
        return self.path.with_name(self.path.name + META)

    @property
    def folder(self) -> Path:
        """The folder of what is not finished."""
        return self.path.with_name(self.path.name + UNFINISHED)

    def is_made(self) -> bool:
        """Whether the file is there already, with this key. Call it on all ranks.

        Raises ValueError if it is there with another key, and may not be overwritten.
        """
        error, made = broadcast_object(self._look() if is_main() else ("", False))
        if error:
            raise ValueError(error)
        return made

    def _look(self) -> tuple[str, bool]:
        if not self.path.exists():
            return "", False
        known = json.loads(self.meta.read_text()).get("key", {}) if self.meta.is_file() else {}
        changed = [name for name, value in self.key.items() if known.get(name) != value]
        if not changed:
            return "", True
        if self.overwrite:
            return "", False
        why = f"was made with another {', '.join(changed)}" if known else "was not made by this command"
        return f"output={self.path} is there and {why}: overwrite=true replaces it, or choose another name", False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from the same output. Raises ValueError if one writes it now."""
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        taken = True
        if is_main():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                taken = False
        if not broadcast_object(taken):
            raise ValueError(f"output={self.path} is being written by another process")
        try:
            yield
        finally:
            if is_main():
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def writing(self, meta: Mapping[str, Any]) -> Iterator[IO[str]]:
        """A text stream whose content becomes the file, with `meta` beside it, once all is written. On rank 0."""
        hidden = self.path.with_name(f".{self.path.name}")
        with hidden.open("wb") as raw:
            if self.path.suffix == ".gz":  # without a time and a name, so that equal content has equal bytes
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed, _as_text(packed) as stream:
                    yield stream
            else:
                with _as_text(raw) as stream:
                    yield stream
                    stream.flush()
                    os.fsync(raw.fileno())
        hidden.replace(self.path)
        write_json(self.meta, {"key": dict(self.key), **meta})


def _as_text(raw: Any) -> IO[str]:
    import io

    return cast(IO[str], io.TextIOWrapper(raw, encoding="utf-8", newline="\n"))


def check_output_path(output: str | None, suffixes: tuple[str, ...]) -> None:
    """Raise ValueError if there is no output, its folder does not exist, or its suffix says no known format."""
    if output is None:
        raise ValueError("output=FILE is missing: where the result is written")
    path = Path(output)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"output={output}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ValueError(f"output={output} is a folder: name a file")
    if not path.name.removesuffix(".gz").endswith(suffixes):
        raise ValueError(f"output={output}: choose a name that ends in {', '.join(suffixes)} (or that with .gz)")
