"""Which format reads which file, the files of each, and a format that is one new file."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import data.formats
from data.formats.file import FileConfig
from data.formats.file_format import FileFormat, Record, file_formats, find_files, format_of
from launch.inspect_data import main as inspect_data


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_rows(file: Path) -> Iterator[Record]:
    [(found, own)] = find_files("data.path", str(file), file_formats())
    assert found == file
    return own.read(file)


def names(path: str) -> list[str]:
    return [file.name for file, _ in find_files("data.path", path, file_formats())]


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
        ("x.jsonl", '{"a": 1}\n{"a": \n', r"x.jsonl:2: malformed JSON"),
        ("x.parquet", "nothing", r"x.parquet: not a parquet file \("),
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
    assert names(str(tmp_path)) == ["a.csv", "b.jsonl", "c.tsv.gz"]
    assert names(f"{tmp_path}/*.jsonl") == ["b.jsonl"]
    with pytest.raises(FileNotFoundError, match=r"^data.path=.*\*.md: no file \(names must end in .*.csv, .*.jsonl"):
        names(f"{tmp_path}/*.md")
    with pytest.raises(ValueError, match=r"^data.path=.*readme.md: the name must end in .*.csv, .*.jsonl"):
        names(f"{tmp_path}/readme.md")


def test_a_format_that_looks_into_a_file_comes_before_one_that_goes_by_its_name(tmp_path: Path):
    plain, marked = write(tmp_path / "a.jsonl", "{}\n"), write(tmp_path / "b.jsonl", "#marked\n")
    by_name = FileFormat((".jsonl",), lambda file: iter(()))
    by_content = FileFormat((".jsonl",), lambda file: iter(()), lambda file: file.read_text().startswith("#marked"))
    for formats in ((by_name, by_content), (by_content, by_name)):
        assert format_of(plain, formats) is by_name
        assert format_of(marked, formats) is by_content
    assert format_of(plain, [by_content]) is None
    assert format_of(tmp_path / "x.md", [by_name, by_content]) is None


DOCUMENT = Path(__file__).parents[3] / "CONTRIBUTING.md"
[INI_ROWS] = [
    block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if "FORMAT =" in block
]


@pytest.fixture
def ini_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file of CONTRIBUTING.md beside the formats, and no edit."""
    folder = tmp_path / "formats"
    folder.mkdir()
    write(folder / "ini_rows.py", INI_ROWS)
    monkeypatch.setattr(data.formats, "__path__", [*data.formats.__path__, str(folder)])
    yield
    sys.modules.pop("data.formats.ini_rows", None)


@pytest.mark.usefixtures("ini_format")
def test_a_new_format_is_one_new_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = "".join(f"[r{i}]\nquery = what is {i}\npositive = number {i}\nnegative = letter\n" for i in range(20))
    file = write(tmp_path / "x.ini", rows)
    collection = FileConfig(path=str(file), cache_dir=str(tmp_path)).build()
    assert sum(len(split.queries) for split in collection.splits.values()) == 20
    assert set(collection.documents.values()) == {"letter", *(f"number {i}" for i in range(20))}
    inspect_data([str(file), f"data.cache_dir={tmp_path}"])
    report = capsys.readouterr().out
    assert report.startswith(f"{file}: 20 rows, triplets\n")
    assert f"{file}: [r0]: query: what is 0" in report
    with pytest.raises(ValueError, match=r"x.ini: \[r0\]: unknown column 'q'"):
        list(FileConfig(path=str(write(file, "[r0]\nq = a\n"))).records())


def test_a_format_of_a_users_own_package_stands_before_the_others(tmp_path: Path):
    class OwnConfig(FileConfig):
        def formats(self) -> tuple[FileFormat, ...]:
            row = {"query": "q", "positive": "p"}
            return FileFormat((".jsonl",), lambda file: iter([(f"{file}:1", row)])), *super().formats()

    file = write(tmp_path / "x.jsonl", "no JSON at all")
    assert [(record.query, record.documents) for record in OwnConfig(path=str(file)).records()] == [("q", ["p"])]


def test_without_it_the_file_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"x.ini: the name must end in .*.csv"):
        list(FileConfig(path=str(write(tmp_path / "x.ini", ""))).records())
