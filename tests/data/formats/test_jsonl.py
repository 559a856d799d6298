import gzip
import re
from pathlib import Path

import pytest

from data.formats.jsonl import field_of, read_json_lines, read_lines


def test_plain_and_gzip_with_blank_lines(tmp_path: Path):
    content = b'{"a": 1}\r\n\n{"a": "\xc3\xa9"}\n'
    (tmp_path / "x.jsonl").write_bytes(content)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("x.jsonl", "x.jsonl.gz"):
        path = tmp_path / name
        assert list(read_json_lines(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": "é"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1,}', "x.jsonl:7: malformed JSON (Illegal trailing comma before end of object at column 8)"),
        (b'{"a" 1}', "x.jsonl:7: malformed JSON (Expecting ':' delimiter at column 6)"),
        (b"[1]", "x.jsonl:7: expected a JSON object, got list"),
        (b'{"a": ' + b"[" * 100_000, "x.jsonl:7: malformed JSON (nested too deeply)"),
        (b'{"a": ' + b"1" * 5000 + b"}", "x.jsonl:7: malformed JSON (Exceeds the limit"),
        (
            b'{"a": "\xe9"}',
            "x.jsonl:7: not UTF-8 (invalid continuation byte at byte 7): convert it (iconv -f latin1 -t utf8 ",
        ),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: bytes, message: str):
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n' * 6 + line + b"\n")
    if "trailing comma" in message:  # Python before 3.13 words it otherwise
        message = "x.jsonl:7: malformed JSON ("
    with pytest.raises(ValueError, match=re.escape(message)):
        list(read_json_lines(tmp_path / "x.jsonl"))


def test_a_byte_order_mark_is_no_content(tmp_path: Path):
    content = b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}\n'
    (tmp_path / "x.jsonl").write_bytes(content)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(content))
    for path in (tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"):
        assert list(read_json_lines(path)) == [(f"{path}:1", {"a": "\ufeff"})]


def test_broken_gzip_is_named(tmp_path: Path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"line\n" * 100)[:-9])
    (tmp_path / "plain.gz").write_bytes(b"line\n")
    whole = bytearray(gzip.compress(b"line\n" * 100))
    whole[12] ^= 0xFF
    (tmp_path / "flipped.gz").write_bytes(whole)
    for name in ("cut.gz", "plain.gz", "flipped.gz"):
        with pytest.raises(ValueError, match=rf"{name}:\d+: broken gzip file \(.*\); make it again"):
            list(read_lines(tmp_path / name))


def test_fields():
    assert field_of("f:1", {"_id": 7}, "_id") == "7"
    with pytest.raises(ValueError, match=re.escape("f:1: no key '_id' (it has: 'id', 'text')")):
        field_of("f:1", {"id": "7", "text": "x"}, "_id")
    with pytest.raises(ValueError, match=re.escape("f:1: 'text' must be of type str, got list")):
        field_of("f:1", {"text": ["x"]}, "text")
    message = r"f:1: 'text' is not valid Unicode (lone surrogate \ud800 at character 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        field_of("f:1", {"text": "ab\ud800"}, "text")
