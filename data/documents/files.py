"""The files of a folder and of the folders in it, in a fixed order; what cannot be read is noted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.formats.skipped import SkippedRows

MEBIBYTE = 2**20
WHITE_SPACE = {ord(sign): f"%{ord(sign):02X}" for sign in " \t\n\r\f\v%"}  # an id may not contain any


@dataclass(frozen=True)
class DocumentFile:
    """A file. `name` is its path below the folder, without white space: the id of its documents begins with it."""

    path: Path
    name: str


@dataclass
class FolderWalk:
    """Goes over the files below `root`, which may be a single file.

    Links to folders are followed after all other folders, each folder once, so that loops end. `hidden` counts files
    and folders whose name begins with a dot, which are not opened; other files that are left out are in `skipped`.
    """

    root: Path
    skipped: SkippedRows
    max_bytes: int
    hidden: int = 0
    _visited: set[tuple[int, int]] = field(default_factory=set)

    def files(self) -> Iterator[DocumentFile]:
        """The files that can be opened, sorted by name within each folder."""
        if self.root.is_file():
            found = self._file(self.root)
            yield from [] if found is None else [found]
            return
        waiting = [self.root]
        while waiting:
            links: list[Path] = []
            for folder in waiting:
                yield from self._below(folder, links)
            waiting = links

    def _below(self, folder: Path, links: list[Path]) -> Iterator[DocumentFile]:
        stack = [folder]
        while stack:
            current = stack.pop()
            inner: list[Path] = []
            for entry in self._entries(current):
                if entry.name.startswith("."):
                    self.hidden += 1
                elif _is_folder(entry):
                    (links if entry.is_symlink() else inner).append(Path(entry.path))
                elif (found := self._file(Path(entry.path))) is not None:
                    yield found
            stack += reversed(inner)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """The entries of a folder, sorted; none of one that was visited before or cannot be read."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._visited:
                self._leave_out(folder, "a link to a folder that is read already")
                return []
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self._leave_out(folder, f"the folder cannot be read ({error.strerror})")
            return []

    def _file(self, path: Path) -> DocumentFile | None:
        try:
            status = path.stat()
        except OSError as error:  # a link to itself or to nothing
            reason = "a link that leads nowhere" if path.is_symlink() else "it cannot be read"
            self._leave_out(path, f"{reason} ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._leave_out(path, "no regular file")
        elif not status.st_size:
            self._leave_out(path, "it is empty")
        elif status.st_size > self.max_bytes:
            size, limit = status.st_size / MEBIBYTE, self.max_bytes / MEBIBYTE
            self._leave_out(path, f"{size:,.1f} MiB, above data.max_file_mb={limit:g}")
        elif not os.access(path, os.R_OK):
            self._leave_out(path, "no permission to read it")
        else:
            return DocumentFile(path, self._name(path))
        return None

    def _leave_out(self, path: Path, reason: str) -> None:
        self.skipped.leave_out(shown(path), ValueError(f"{shown(path)}: {reason}"))

    def _name(self, path: Path) -> str:
        below = path.name if path == self.root else path.relative_to(self.root).as_posix()
        return shown(below).translate(WHITE_SPACE).replace("\u3000", "%u3000").replace("\u00a0", "%u00A0")


def shown(path: Path | str) -> str:
    """A path as text, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
