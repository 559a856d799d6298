"""One process at a time trains in a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

WAIT_S = 5.0  # for a process that is just ending
LEASE_S = 120.0  # for a process of another host: a file server keeps a dead host's locks for a while (NFS: 90 s)

_held: dict[Path, int] = {}  # lock file -> its open descriptor


def lock_run(folder: Path) -> None:
    """Lock the run directory `folder` for this process until it ends, however it ends.

    Raises ValueError, which names the other process, if another one holds the lock. The lock is the kernel's (fcntl),
    on a file beside the folder, since the folder may be moved. Children do not inherit it. If the file system has no
    locks, a warning is printed.
    """
    file = folder.parent.resolve() / f".{folder.name}.lock"
    if file in _held:  # opening it again would, on closing, give up the lock
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:  # a finished run may be shown from where nothing can be written
        _warn(file, error)
        return
    started, is_reported = time.monotonic(), False
    while not _lock(descriptor, file):
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        is_here = not holder or holder.endswith(f" on {socket.gethostname()}")
        waited_s = time.monotonic() - started
        if waited_s > (WAIT_S if is_here else LEASE_S):
            os.close(descriptor)
            raise ValueError(
                f"{folder} is in use by {holder or 'another process'}: let it end, or choose another run_name"
            )
        if waited_s > WAIT_S and not is_reported:
            print(f"{folder} is locked by {holder}: waiting up to {LEASE_S:.0f} s", file=sys.stderr, flush=True)
            is_reported = True
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[file] = descriptor


def _lock(descriptor: int, file: Path) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        _warn(file, error)
    return True


def _warn(file: Path, error: OSError) -> None:
    print(f"warning: no lock on {file} ({error.strerror}): start no second run there", file=sys.stderr)
