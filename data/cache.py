"""What is slow to make is made once: written under another name, then renamed, by one process at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, after `make(temporary_path)` wrote it as a file or a folder, unless it is there already.

    Several ranks or runs may ask at once: the first makes it, the others wait; an interrupted one leaves nothing behind
    that counts.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.exists():
            workspace = Path(tempfile.mkdtemp(dir=path.parent, prefix=".making-"))
            try:
                temporary = workspace / path.name
                make(temporary)
                os.replace(temporary, path)
            finally:
                shutil.rmtree(workspace, ignore_errors=True)
    return path
