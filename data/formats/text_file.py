"""Open text files: plain or compressed; UTF-8, or with a byte order mark UTF-16 or UTF-32."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstandard"}
BYTE_ORDER_MARKS = (  # the longest first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def with_compressions(*suffixes: str) -> tuple[str, ...]:
    """The suffixes, each also with that of every compression."""
    return tuple(suffix + compression for suffix in suffixes for compression in ("", *COMPRESSIONS))


def plain_name(path: Path) -> str:
    """The name of the file without the suffix of a compression."""
    return path.name.removesuffix(path.suffix) if path.suffix.lower() in COMPRESSIONS else path.name


def read_text(path: Path) -> str:
    """Read the whole file. Raises ValueError as `text_lines` does."""
    return "\n".join(line for _, line in text_lines(path))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for every line, also blank ones, without its line break and without a byte order mark.

    Raises ValueError, which names file and line, if the file is not UTF-8 and has no byte order mark, or if it is
    compressed and broken.
    """
    number = 0
    try:
        with _open(path) as lines:
            start = lines.peek(64)[:64]
            encoding = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), None)
            if encoding is None and b"\0" in start:
                order = "utf-16le" if start[1:2] == b"\0" else "utf-16be"
                raise ValueError(
                    f"{path}:1: not UTF-8 (it has NUL bytes, as UTF-16 has without a byte order mark): convert it "
                    f"(iconv -f {order} -t utf8)"
                )
            decoded = _decoded(lines) if encoding is None else io.TextIOWrapper(lines, encoding, newline="\n")
            for number, line in enumerate(_lines_of(decoded), start=1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        place = f"{path}:{number + 1}: not UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(
            f"{place}: convert it (iconv -f latin1 -t utf8), from its own encoding if that is another one (cp1252, "
            "gb18030, shift_jis)"
        ) from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if path.suffix.lower() not in COMPRESSIONS or getattr(error, "errno", None) is not None:  # no permission
            raise
        raise ValueError(
            f"{path}:{number + 1}: broken {COMPRESSIONS[path.suffix.lower()]} file ({error}); make it again"
        ) from None


def _lines_of(decoded: Iterable[str]) -> Iterator[str]:
    """The lines of a file. One without a line feed may have carriage returns instead, as old Macs write them."""
    for number, line in enumerate(decoded):
        if number == 0 and "\r" in line and not line.endswith("\n"):
            yield from line.rstrip("\r").split("\r")
        else:
            yield line


def _open(path: Path) -> io.BufferedReader:
    """Open the file for reading its bytes, which are decompressed."""
    if path.suffix.lower() == ".zst":
        from pyarrow import input_stream  # which every installation of datasets has

        return io.BufferedReader(input_stream(str(path), compression="zstd"))
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return io.BufferedReader(openers.get(path.suffix.lower(), open)(path, "rb"))


def _decoded(lines: io.BufferedReader) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield (line if number else line.removeprefix(codecs.BOM_UTF8)).decode("utf-8")
