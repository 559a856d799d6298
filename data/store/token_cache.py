"""The tokens of texts in a file of the cache, so that a text is tokenised once and not in every epoch.

All ranks and workers of a machine fill one SQLite file as they meet texts, so only those that training reads are in it.
SQLite takes care of several writers, and of processes that are killed. A text is found by a hash of its content, in
whatever collection it is; what a tokenizer makes of it is in the name of the file. The cache may fail (no space, a file
that is broken): then texts are tokenised as without it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from data.cache import cached, entry_of
from data.collection import content_hash

logger = logging.getLogger(__name__)

FILE = "tokens.db"
LOCKED = ("locked", "busy")  # in the message of an error that passes
TIMEOUT_S = 10  # that a process waits for another one to write
KEYS = 500  # of one question
HASH_BYTES, TOTAL_BYTES = 8, 8  # before the tokens of an entry: the second half of the text's hash, and their number

Counted = tuple[list[int], int]  # the first tokens of a text, and how many it has

_of_parents: list[sqlite3.Connection] = []  # of forked processes: they must neither use nor close them


def open_token_cache(folder: Path, name: str, token_key: str, *, limit: int, vocabulary_size: int) -> TokenCache | None:
    """The cache below `folder` of a tokenizer that `token_key` describes; None, with a warning, if it cannot be used.

    It is a folder of this machine's own: SQLite shares no file over a network. `limit`: the tokens of a text that are
    kept.
    """
    machine = re.sub(r"[^\w.-]", "-", socket.gethostname())
    key = f"{machine}-{content_hash([token_key, limit])}"
    try:
        path = cached(entry_of(folder / "tokens", re.sub(r"[^\w.-]", "-", name), key), _make)
    except (ValueError, OSError, sqlite3.Error) as error:
        logger.warning("texts are tokenised in every epoch: %s", error)
        return None
    return TokenCache(path / FILE, limit, "uint16" if vocabulary_size <= 2**16 else "int32")


def _make(folder: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
        connection.execute("CREATE TABLE tokens (key INTEGER PRIMARY KEY, entry BLOB NOT NULL)")


class TokenCache:
    """A `models.token_rows.TokenMemory`: called with different texts it returns the tokens of each, and has those
    tokenised that it does not know.

    It keeps the first `limit` tokens of a text and how many there are. It may be copied to other processes, by a fork
    too.
    """

    def __init__(self, file: Path, limit: int, dtype: str) -> None:
        self.file, self.limit, self.dtype = file, limit, np.dtype(dtype)
        self.is_broken = False
        self._connection: sqlite3.Connection | None = None
        self._process = 0  # that of the connection

    def __reduce__(self) -> tuple[type[TokenCache], tuple[Path, int, str]]:
        return TokenCache, (self.file, self.limit, self.dtype.name)

    def __call__(self, tokenize: Callable[[list[str]], list[Counted]], texts: list[str]) -> list[Counted]:
        hashes = [xxh3_128_digest(text.encode(errors="surrogatepass")) for text in texts]
        known: dict[bytes, Counted] = {}
        with self._forgiving():
            known = dict(self._read(hashes))
        missing = [index for index, each in enumerate(hashes) if each not in known]
        if missing:
            made = dict(zip([hashes[i] for i in missing], tokenize([texts[i] for i in missing]), strict=True))
            known |= made
            with self._forgiving():
                self._write(made)
        return [known[each] for each in hashes]

    def _read(self, hashes: Sequence[bytes]) -> Iterator[tuple[bytes, Counted]]:
        """The entries of those hashes that are known. Of two texts that share the first half of their hash one is."""
        if self.is_broken:
            return
        by_key = {_key(each): each for each in hashes}
        keys = list(by_key)
        for start in range(0, len(keys), KEYS):
            part = keys[start : start + KEYS]
            question = f"SELECT key, entry FROM tokens WHERE key IN ({','.join('?' * len(part))})"
            for key, entry in self._open().execute(question, part):
                if entry[:HASH_BYTES] == by_key[key][-HASH_BYTES:]:
                    total = int.from_bytes(entry[HASH_BYTES : HASH_BYTES + TOTAL_BYTES], "little")
                    ids = np.frombuffer(entry, self.dtype, offset=HASH_BYTES + TOTAL_BYTES)
                    yield by_key[key], (ids.tolist(), total)

    def _write(self, entries: dict[bytes, Counted]) -> None:
        if self.is_broken:
            return
        rows = [
            (_key(each), each[-HASH_BYTES:] + total.to_bytes(TOTAL_BYTES, "little") + self._packed(ids))
            for each, (ids, total) in entries.items()
        ]
        connection = self._open()
        with connection:  # all or none
            connection.executemany("INSERT OR IGNORE INTO tokens VALUES (?, ?)", rows)

    def _packed(self, ids: list[int]) -> bytes:
        return np.array(ids[: self.limit], dtype=self.dtype).tobytes()

    def _open(self) -> sqlite3.Connection:
        """The connection of this process."""
        if self._connection is None or self._process != os.getpid():
            if self._connection is not None:
                _of_parents.append(self._connection)
            self._connection = sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=rw", timeout=TIMEOUT_S, uri=True)
            self._connection.execute("PRAGMA synchronous=NORMAL")  # a power failure loses the last entries alone
            self._process = os.getpid()
        return self._connection

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Go on without the cache if it fails: for this once if another process has it for long, else for good."""
        try:
            yield
        except (sqlite3.Error, ValueError, OverflowError) as error:  # a broken entry, a large id
            if any(word in str(error) for word in LOCKED):
                return
            self.is_broken = True
            logger.warning(
                "%s fails (%s), so texts are tokenised in every epoch: free space if the disk is full, else "
                "launch/cache.py remove %s data.cache_dir=%s",
                *(self.file, error, self.file.parent.name, self.file.parent.parent),
            )


def _key(text_hash: bytes) -> int:
    """The first half of a hash, as SQLite's number of a row."""
    return int.from_bytes(text_hash[:-HASH_BYTES], "little", signed=True)
