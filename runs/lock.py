"""The lock of a run directory: one process at a time trains in it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

WAIT_S = 5.0  # wait for a process that is about to end
LEASE_S = 120.0  # wait for a process of another host: a file server keeps a dead host's locks for a time (NFS: 90 s)

_locks: dict[Path, int] = {}  # lock file -> its open descriptor


def lock_run(folder: Path) -> None:
    """Lock the run directory `folder` until this process ends, also if it is killed.

    Raises ValueError, which names the other process, if another one holds the lock. The lock is the kernel's (fcntl),
    on a file beside the folder, since the folder may be moved. Children do not inherit it. If the file system has no
    locks, a warning is printed.
    """
    file = folder.parent.resolve() / f".{folder.name}.lock"
    if file in _locks:  # to open the file again and close it would release the lock
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:  # a finished run can be shown without permission to write
        _warn(file, error)
        return
    started, is_reported = time.monotonic(), False
    while not _try_lock(descriptor, file):
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        is_here = not holder or holder.endswith(f" on {socket.gethostname()}")
        waited_s = time.monotonic() - started
        if waited_s > (WAIT_S if is_here else LEASE_S):
            os.close(descriptor)
            raise ValueError(
                f"{folder} is in use by {holder or 'another process'}: wait until it ends, or choose another run_name"
            )
        if waited_s > WAIT_S and not is_reported:
            print(f"{folder} is locked by {holder}: waiting up to {LEASE_S:.0f} s", file=sys.stderr, flush=True)
            is_reported = True
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks[file] = descriptor


def _try_lock(descriptor: int, file: Path) -> bool:
    """Lock the file. Returns False if another process holds the lock; True also if the file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        _warn(file, error)
    return True


def _warn(file: Path, error: OSError) -> None:
    print(f"warning: no lock on {file} ({error.strerror}): do not start a second run there", file=sys.stderr)


def holder_of(folder: Path) -> str | None:
    """The process that holds the lock of the run directory `folder`; None if no other process does."""
    file = folder.parent.resolve() / f".{folder.name}.lock"
    if file in _locks or not file.exists():
        return None
    with file.open("r+") as opened:
        if _try_lock(opened.fileno(), file):  # released when the file is closed
            return None
        return opened.read(1000).strip() or "another process"
