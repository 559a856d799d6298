"""Open text files: plain or compressed; UTF-8, or with a byte order mark UTF-16 or UTF-32."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from data.formats.row_error import RowError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstandard"}
BYTE_ORDER_MARKS = (  # the longest first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
SIGNATURES = {b"PAR1": "a parquet file", b"ARROW1": "an arrow file", b"PK\3\4": "a zip file", b"%PDF": "a PDF"}
PEEKED = 64  # bytes that show the encoding
SAMPLED = 2**22  # bytes of a file by which its encoding is guessed
CONTROLS = re.compile(rb"[\x80-\x9f]")  # rare controls of Latin-1: quotes and dashes of Windows-1252
ENCODINGS = ("cp1252", "shift_jis", "gb18030")  # that have signs of these, the usual ones first


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
    """The (number, line) of every line, also blank ones, without its line break and without a byte order mark.

    Raises RowError for a line that is not UTF-8 in a file without a byte order mark; the next lines can be read. Raises
    ValueError, which names file and line, if the file is no text, or if it is compressed and broken.
    """
    return map(partial(_decoded, path), _numbered_lines(path))


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """The lines with their numbers, decoded if a byte order mark says how."""
    number = 0
    try:
        with _open(path) as lines:
            start = lines.peek(PEEKED)[:PEEKED]
            encoding = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), None)
            if encoding is None:
                _check_is_text(path, start)
                for number, raw in enumerate(_lines_of(lines), start=1):
                    yield number, raw if number > 1 else raw.removeprefix(codecs.BOM_UTF8)
            else:
                decoded = io.TextIOWrapper(lines, encoding, newline="")
                for number, line in enumerate(decoded, start=1):
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number + 1}: not {error.encoding.upper()}, which its byte order mark says ({error.reason}): save "
            "it as UTF-8"
        ) from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        kind = _compression_of(path)
        if kind is None or getattr(error, "errno", None) is not None:  # no permission
            raise
        raise ValueError(f"{path}:{number + 1}: broken {kind} file ({error}); make it again") from None


def _check_is_text(path: Path, start: bytes) -> None:
    """Raise ValueError if the start of a file is no text."""
    if b"\0" not in start:
        return
    zeros = [part.count(0) * 2 > len(part) for part in (start[1::2], start[::2])]
    if zeros[0] == zeros[1]:
        kind = next((name for sign, name in SIGNATURES.items() if start.startswith(sign)), "a binary file")
        raise ValueError(f"{path}:1: not text but {kind} (it has NUL bytes): give it the suffix of its format")
    raise ValueError(
        f"{path}:1: not UTF-8 (it has NUL bytes, as UTF-16 has without a byte order mark): convert it "
        f"({_conversion(path, 'utf-16le' if zeros[0] else 'utf-16be')})"
    )


def _lines_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file. One without a line feed may have carriage returns instead, as old Macs write them."""
    for number, line in enumerate(lines):
        if number == 0 and b"\r" in line and not line.endswith(b"\n"):
            yield from line.rstrip(b"\r").split(b"\r")
        else:
            yield line


def _decoded(path: Path, numbered: tuple[int, bytes | str]) -> tuple[int, str]:
    number, line = numbered
    if isinstance(line, bytes):
        try:
            line = line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{path}:{number}"
            encoding = _likely_encoding(path, path.stat().st_mtime_ns)
            others = ", ".join(name for name in ("latin1", *ENCODINGS) if name != encoding)
            raise RowError(
                where,
                f"{where}: not UTF-8 ({error.reason} at byte {error.start}): convert it "
                f"({_conversion(path, encoding)}), from its own encoding if that is another one ({others})",
            ) from None
    return number, line.rstrip("\r\n")


@cache  # every line that cannot be read names it
def _likely_encoding(path: Path, changed: int) -> str:
    """The likely encoding of a file that is not UTF-8, and was `changed` at that time: Latin-1, unless its lines have
    bytes that are no letters there."""
    with _open(path) as content:
        start = content.read(SAMPLED)
    lines = start.splitlines()
    whole = lines[:-1] if len(start) == SAMPLED and len(lines) > 1 else lines  # the last one may be cut in a character
    sample = b"\n".join(line for line in whole if not _is_decoded(line, "utf-8"))
    if not CONTROLS.search(sample):
        return "latin1"
    return next((name for name in ENCODINGS if _is_decoded(sample, name)), "latin1")


def _is_decoded(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _conversion(path: Path, encoding: str) -> str:
    """The command that writes a file in UTF-8, beside it."""
    plain = plain_name(path)
    suffix = Path(plain).suffix
    new = path.with_name(f"{plain.removesuffix(suffix)}-utf8{suffix}")
    unpack = {"gzip": "gzip -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc", "zstandard": "zstd -dc"}
    kind = _compression_of(path)
    start = "" if kind is None else f"{unpack[kind]} {shlex.quote(str(path))} | "
    given = "" if kind is not None else f" {shlex.quote(str(path))}"
    return f"{start}iconv -f {encoding} -t utf8{given} > {shlex.quote(str(new))}"


def _compression_of(path: Path) -> str | None:
    """The compression of a file, by its suffix, else by its first bytes; None if it has none."""
    if path.suffix.lower() in COMPRESSIONS:
        return COMPRESSIONS[path.suffix.lower()]
    with path.open("rb") as file:
        start = file.read(len(max(COMPRESSED, key=len)))
    return next((kind for sign, kind in COMPRESSED.items() if start.startswith(sign)), None)


def _open(path: Path) -> io.BufferedReader:
    """Open the file for reading its bytes, which are decompressed."""
    kind = _compression_of(path)
    if kind == "zstandard":
        from pyarrow import input_stream  # which every installation of datasets has

        return io.BufferedReader(input_stream(str(path), compression="zstd"))
    openers: dict[str | None, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return io.BufferedReader(openers.get(kind, open)(path, "rb"))
