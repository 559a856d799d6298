"""A folder of documents as a collection: splits, kinds of pairs, what is left out, equal bytes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.candidates import NoCandidates
from data.collection import SPLITS, normalised
from data.documents import source as source_module
from data.documents.pairs import PairOptions
from data.documents.source import DocumentsConfig
from data.store import build as build_module
from data.store.texts import StoredTexts

KINDS = ("title", "heading", "summary", "crop")
WORDS = (
    "harbour",
    "lantern",
    "meadow",
    "copper",
    "violin",
    "glacier",
    "pepper",
    "saddle",
    "thunder",
    "velvet",
    "wagon",
)


def sentence(number: int, length: int = 12) -> str:
    """A sentence of words of its own."""
    return " ".join(f"{word}{number}" for word in itertools.islice(itertools.cycle(WORDS), length)).capitalize() + "."


def article(number: int, sentences: int = 6) -> str:
    """A title, a blank line and sentences, all of them of one document alone."""
    lines = [sentence(100 * number + place) for place in range(sentences)]
    return f"Title about subject{number} and more\n\n{' '.join(lines)}\n"


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    """A folder of twelve text files."""
    folder = tmp_path / "articles"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(article(number))
    return folder


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., DocumentsConfig]:
    """The options of a folder, without BM25, with a cache of their own."""

    def make(path: Path, **others: object) -> DocumentsConfig:
        fixed = {"cache_dir": str(tmp_path / "cache"), "candidates": NoCandidates()}
        return DocumentsConfig(path=str(path), **{**fixed, **others})

    return make


def document_of(identifier: str) -> str:
    return identifier.partition("#")[0]


def test_documents_are_held_out_whole_and_searched_among_all(articles, options):
    collection = options(articles).build()
    held = {split: {document_of(query) for query in collection.splits[split].queries} for split in SPLITS}
    assert {split: len(names) for split, names in held.items()} == {"train": 10, "dev": 1, "test": 1}
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == 12
    assert {document_of(name) for name in collection.documents} == set.union(*held.values())
    assert collection.made["documents_of_splits"] == {"train": 10, "dev": 1, "test": 1}


def test_a_query_stands_in_no_text_that_answers_it(articles, options):
    (articles / "guide.md").write_text(
        f"# The long guide\n\n{sentence(7001)} {sentence(7002)}\n\n## How to open it\n\n"
        + " ".join(sentence(7100 + place) for place in range(60))
    )
    collection = options(articles).build()
    pairs = [(query, text, split) for split in collection.splits.values() for query, text in split.queries.items()]
    assert {query.rpartition(":")[2] for query, *_ in pairs} == set(KINDS)
    for query, text, split in pairs:
        [(chunk, grade)] = split.qrels[query].items()
        assert grade == 1
        assert query.startswith(chunk)
        assert normalised(text) not in normalised(collection.documents[chunk])
        others = [name for name in collection.documents if normalised(text) in normalised(collection.documents[name])]
        assert not others


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_left_out_and_stays_in_the_text(kind, articles, options):
    for number in range(3):
        (articles / f"guide{number}.md").write_text(
            f"# The long guide {number}\n\n{sentence(5000 + number)} {sentence(5010 + number)}\n\n"
            f"## How to open number {number}\n\n"
            + " ".join(sentence(7000 + 100 * number + place) for place in range(5))
        )
    whole = options(articles).build()
    without = options(articles, pairs=PairOptions(**{kind: False})).build()
    counts = [
        Counter(query.rpartition(":")[2] for split in each.splits.values() for query in split.queries)
        for each in (whole, without)
    ]
    assert counts[0][kind] >= 3
    assert counts[1][kind] == 0
    assert all(counts[1][other] for other in KINDS if other != kind)
    asked = next(q for split in whole.splits.values() for q in split.queries if q.endswith(f":{kind}"))
    text = next(split.queries[asked] for split in whole.splits.values() if asked in split.queries)
    if kind in ("title", "heading", "summary"):
        uncut = options(articles, pairs=PairOptions(**{kind: False, "crop": False})).build()
        assert text in uncut.documents[asked.rpartition(":")[0]]
    assert kind not in without.made["pairs"]
    assert sum(whole.made["pairs"][kind]["given"].values()) == counts[0][kind]


def test_without_a_kind_it_is_a_corpus_of_whole_texts(articles, options):
    corpus = options(articles).for_encoding().build()
    assert dict(corpus.splits) == {}
    assert corpus.documents["03.txt#1"].replace("\n", " ") == " ".join(article(3).split())
    with pytest.raises(
        ValueError, match=r"^data articles: data\.pairs: all kinds are off, .* data\.pairs\.title=true$"
    ):
        corpus.split("train")


def test_the_counts_say_what_each_kind_gave_and_dropped(articles, options):
    (articles / "a.md").write_text(f"# Setup\n\n{sentence(1)}\n\n## How to begin\n\n{article(90)}")
    (articles / "b.md").write_text(f"# Other things\n\n{sentence(2)}\n\n## How to begin\n\n{article(91)}")
    made = options(articles).build().made
    assert made["pairs"]["title"]["dropped"] == {"too short": 1}  # Setup
    assert made["pairs"]["heading"]["dropped"] == {"asked of several chunks": 2}  # How to begin
    assert sum(made["pairs"]["title"]["given"].values()) == 13
    assert made["files"] == made["documents"] == 14


def test_equal_and_nearly_equal_chunks_are_dropped(articles, options):
    (articles / "copy.txt").write_text((articles / "00.txt").read_text())
    (articles / "near.txt").write_text((articles / "01.txt").read_text() + "And four more words")
    made = options(articles).build().made
    assert made["dropped_chunks"] == {"equal": 1, "nearly equal": 1}
    assert made["chunks"] == 12
    kept = options(articles, near_duplicate=None).build().made
    assert kept["dropped_chunks"] == {"equal": 1}


def test_two_builds_have_the_same_bytes_and_a_seed_changes_spans(articles, options, tmp_path):
    first, second, other = (
        options(articles, cache_dir=str(tmp_path / name), seed=seed)
        for name, seed in (("one", 42), ("two", 42), ("three", 43))
    )
    builds = [each.build() for each in (first, second, other)]
    assert builds[0].fingerprint == builds[1].fingerprint != builds[2].fingerprint
    read = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (first._folder, second._folder)
    ]
    assert read[0] == read[1]


def test_a_further_document_leaves_the_others_in_their_order(articles, options):
    before = options(articles).build()
    (articles / "12.txt").write_text(article(12))
    after = options(articles).build()
    assert before.fingerprint != after.fingerprint
    assert all(after.documents[name] == text for name, text in before.documents.items())


def test_a_changed_file_is_read_again_even_with_its_old_time_and_size(articles, options):
    before = options(articles).build()
    file = articles / "00.txt"
    status = file.stat()
    file.write_text(file.read_text().replace("Harbour", "Islands"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert options(articles).build().fingerprint != before.fingerprint


def test_limits_of_splits(articles, options):
    collection = options(articles, max_train_queries=5, max_test_queries=1).build()
    assert {split: len(own.queries) for split, own in collection.splits.items()} == {"train": 5, "dev": 3, "test": 1}
    dropped = [counts["dropped"].get("over the limit of its split", 0) for counts in collection.made["pairs"].values()]
    assert sum(dropped) == 30 - 5 + 3 - 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_documents(count, options, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(article(number))
    reason = ("no file: name a folder", "1 document has pairs, and train and test and dev", "2 documents have pairs")[
        count
    ]
    with pytest.raises(ValueError, match=rf"^data\.path={folder}: {reason}"):
        options(folder).build()
    if count == 2:
        assert len(options(folder, dev_fraction=0.0).build().splits["test"].queries) == 3
    if count:
        assert len(options(folder).for_encoding().build().documents) == count


def test_no_folder(options, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data\.path=.*nowhere: no such folder or file$"):
        options(tmp_path / "nowhere").build()


def test_a_large_folder_is_in_memory_mapped_files_and_the_same(articles, options, monkeypatch):
    small = options(articles).build()
    monkeypatch.setattr(build_module, "STORED_FROM", 1)
    monkeypatch.setattr(build_module, "_build_apart", build_module.build_here)
    large = options(articles).build()
    assert isinstance(large.documents, StoredTexts)
    assert dict(large.documents) == small.documents
    assert large.fingerprint == small.fingerprint
    assert large.made == small.made
    assert {split: dict(own.queries) for split, own in large.splits.items()} == {
        split: dict(own.queries) for split, own in small.splits.items()
    }
    assert large.excluded == small.excluded
    corpus = options(articles).for_encoding().build()
    assert isinstance(corpus.documents, StoredTexts)


def odd_folder(folder: Path) -> dict[str, str]:
    """Write files that cannot be read, and return the reason for each."""
    (folder / "empty.txt").touch()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 8)
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(200 * 2**20)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing of a PDF")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "blank.md").write_text(" \n\u200b\n")
    (folder / "rows.jsonl").write_text('{"label": 1}\n')
    (folder / "half.jsonl").write_text(
        json.dumps({"title": "A row of half", "text": article(77)}) + '\n{"text": 3}\n{\n'
    )
    (folder / "inner").mkdir()
    (folder / "inner" / "back").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "gone.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "secret.txt").write_text(article(88))
    return {
        "empty.txt": "it is empty",
        "binary.txt": "binary: no text",
        "huge.txt": "200.0 MiB, above data.max_file_mb=50",
        "broken.pdf": "broken PDF (",
        "picture.png": ".png files are not read",
        "blank.md": "no text",
        "rows.jsonl": "no column text or body or content (its rows have: 'label')",
        "half.jsonl:2": "'text' must be a text, got int",
        "half.jsonl:3": "malformed JSON",
        "inner/back": "a link to a folder that is read already",
        "itself": "a link that leads nowhere",
        "gone.txt": "a link that leads nowhere",
        "pipe.txt": "no regular file",
    }


def collection_folders(said: str) -> list[Path]:
    """The folders of the cache whose list of skipped files a message names."""
    return [Path(found) for found in re.findall(r"and in (\S+)/skipped\.jsonl\)", said)]


def test_odd_files_are_each_named_and_counted(articles, options, caplog):
    expected = odd_folder(articles)
    collection = options(articles).build()
    found = {row["where"].removeprefix(f"{articles}/"): row["error"] for row in collection.skipped}
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert found[name].startswith(reason), name
    assert collection.made["left_out"] == len(expected)
    assert collection.made["hidden"] == 1
    assert "half.jsonl#1#1" in collection.documents
    assert not any("secret" in name for name in collection.documents)
    assert f"articles: {len(expected)} are left out (data.on_error=skip; listed in skipped.jsonl" in caplog.text
    (listed,) = (folder / "skipped.jsonl" for folder in collection_folders(caplog.text))
    assert [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()] == collection.skipped
    assert "; 1 hidden left out" in caplog.text


def test_guessed_encodings_are_said(articles, options, caplog):
    text = "Les f\u00eates de l'\u00e9t\u00e9 commencent d\u00e9j\u00e0 pr\u00e8s de la rivi\u00e8re."
    (articles / "latin.txt").write_bytes(text.encode("latin-1"))
    (articles / "page.html").write_bytes(f"<p>{text} Encore.</p>".encode("latin-1"))
    (articles / "said.html").write_bytes(f'<meta charset="latin-1"><p>{text} Oui.</p>'.encode("latin-1"))
    options(articles).build()
    (line,) = (line for line in caplog.messages if "was guessed" in line)
    assert line.endswith("in an encoding that was guessed: cp1252 2 (the first: latin.txt)")


@pytest.mark.parametrize(
    "name", ["empty.txt", "binary.txt", "huge.txt", "broken.pdf", "picture.png", "pipe.txt", "itself"]
)
def test_an_odd_file_is_refused_by_option(name, articles, options, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    expected = odd_folder(odd)
    (odd / name).rename(articles / name)
    with pytest.raises(ValueError) as caught:
        options(articles, on_error="stop").build()
    assert str(caught.value).startswith(f"data.path={articles}: {articles / name}: {expected[name]}")
    assert "\n" not in str(caught.value)


def test_what_may_not_be_read_is_named(articles, options, monkeypatch):
    (articles / "locked").mkdir()
    monkeypatch.setattr(source_module, "file_digest", lambda path: str(path))
    monkeypatch.setattr("data.documents.files.os.access", lambda path, mode: Path(path).name != "00.txt")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr("data.documents.files.os.scandir", refuse)
    found = {Path(row["where"]).name: row["error"] for row in options(articles).build().skipped}
    assert found == {
        "00.txt": "no permission to read it",
        "locked": "the folder cannot be read (Permission denied)",
    }


def test_names_with_white_space_and_other_bytes_give_ids(articles, options):
    (articles / "my notes 100%.txt").write_text(article(40))
    (Path(os.fsdecode(os.fsencode(articles) + b"/caf\xe9.txt"))).write_text(article(41))
    (articles / "\u6587\u66f8.txt").write_text(article(42))
    names = set(options(articles).build().documents)
    assert {"my%20notes%20100%25.txt#1", "caf\\xe9.txt#1", "\u6587\u66f8.txt#1"} <= names


def test_suffixes_and_a_single_file(articles, options, tmp_path):
    (articles / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (articles / "conf.ini").write_text(article(60))
    collection = options(articles, suffixes=(".ini", ".txt"), on_error="stop").build()
    assert collection.made["files"] == 13
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"title": f"Row {n} has a title", "text": article(n)}) + "\n" for n in range(5)))
    single = options(rows).build()
    assert single.made["documents"] == 5
    assert set(single.documents) == {f"rows.jsonl#{number}#1" for number in range(1, 6)}
    assert list(options(rows).places()["path"]) == [""]


def test_texts_without_spaces(options, tmp_path):
    folder = tmp_path / "zh"
    folder.mkdir()
    for number in range(4):
        letters = [chr(0x4E00 + 997 * number + place) for place in range(400)]
        lines = ["".join(letters[start : start + 20]) + "\u3002" for start in range(0, 400, 20)]
        (folder / f"{number}.txt").write_text(f"\u6807\u9898{letters[5]}{letters[9]}\n\n{''.join(lines)}\n")
    collection = options(folder).build()
    assert collection.made["chunks"] == 12
    given = {kind: sum(counts["given"].values()) for kind, counts in collection.made["pairs"].items()}
    assert given == {"title": 4, "heading": 0, "summary": 4, "crop": 12}


def test_neighbours_are_no_negatives(options, tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(article(number, 60))
    collection = options(folder).build()
    query = next(q for split in collection.splits.values() for q in split.queries if q == "1.txt#1:title")
    own = {name for name in collection.documents if document_of(name) == "1.txt"}
    assert len(own) > 3
    assert collection.excluded[query] == own - {"1.txt#1"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_error": "x"}, r"data\.on_error=x must be one of stop, skip"),
        ({"test_fraction": 0.0}, r"data\.test_fraction=0\.0 must be above 0"),
        ({"max_file_mb": 0}, r"data\.max_file_mb=0 must be above 0"),
        ({"near_duplicate": 1.5}, r"data\.near_duplicate=1\.5 must be"),
        ({"max_dev_queries": 0}, r"data\.max_dev_queries=0 must be at least 1"),
    ],
)
def test_wrong_options(wrong, message, options, tmp_path):
    with pytest.raises(ValueError, match=message):
        options(tmp_path, **wrong)


def test_the_options_are_part_of_the_cache(articles, options):
    one = options(articles)
    assert one._folder != replace(one, max_test_queries=3)._folder
    assert one._folder == replace(one, query_prompt="query: ")._folder
