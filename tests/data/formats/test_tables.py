from pathlib import Path

import pytest

from data.formats.tables import find_files, read_rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_rows_have_the_line_they_start_at(tmp_path: Path):
    file = write(tmp_path / "x.csv", '\ufeffa,b\n"two\nlines",2\n\n3,\n')
    assert list(read_rows(file)) == [
        (f"{file}:2", {"a": "two\nlines", "b": "2"}),
        (f"{file}:5", {"a": "3", "b": None}),
    ]


def test_a_cell_may_be_long(tmp_path: Path):
    text = "x" * 200_000
    assert next(iter(read_rows(write(tmp_path / "x.csv", f"a\n{text}\n"))))[1] == {"a": text}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x.csv:3: expected 2 cells \(a, b\), got 3"),
        ("x.tsv", "a\tb\n1\n", r"x.tsv:2: expected 2 cells \(a, b\), got 1"),
        ("x.csv", "a,b,a\n1,2,3\n", r"x.csv:1: the header names the column 'a' twice"),
        ("x.csv", 'a,b\n1,"2"3\n', r"x.csv:2: malformed csv \("),
        ("x.csv", 'a,b\n1,"2\n', r"x.csv:2: malformed csv \("),
        ("x.csv", b"a\n\xff\n", r"x.csv:2: not UTF-8 .*iconv -f latin1"),
        ("x.csv", "a;b\n1;2\n", r"x.csv:1: columns are separated by semicolons: write the file with commas"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', r"x.jsonl:2: malformed JSON"),
        ("x.parquet", "nothing", r"x.parquet: no parquet file \("),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, name: str, content: str | bytes, message: str):
    with pytest.raises(ValueError, match=message):
        list(read_rows(write(tmp_path / name, content)))


def test_an_empty_file_has_no_row(tmp_path: Path):
    assert [list(read_rows(write(tmp_path / name, ""))) for name in ("x.csv", "x.jsonl")] == [[], []]


def test_files_of_a_folder_or_a_glob(tmp_path: Path):
    for name in ("b.jsonl", "a.csv", "readme.md", "c.tsv.gz"):
        write(tmp_path / name, "")
    assert [file.name for file in find_files("data.path", str(tmp_path))] == ["a.csv", "b.jsonl", "c.tsv.gz"]
    assert [file.name for file in find_files("data.path", f"{tmp_path}/*.jsonl")] == ["b.jsonl"]
    with pytest.raises(FileNotFoundError, match=r"^data.path=.*\*.md: no file \(names must end in .jsonl"):
        find_files("data.path", f"{tmp_path}/*.md")
