"""Labels written as words: pandas' truth values are read, answers are refused with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.formats.file import FileConfig

ROWS = (
    ("red", "apple", 1),
    ("red", "sky", 0),
    ("blue", "apple", 0),
    ("blue", "sky", 1),
    ("green", "leaf", 1),
    ("green", "sky", 0),
)


def grades(file: Path, words: dict[int, str]) -> list[float]:
    lines = [f"{query},{document},{words[label]}" for query, document, label in ROWS]
    file.write_text("\n".join(["query,document,label", *lines]) + "\n")
    collection = FileConfig(path=str(file), dev_fraction=0.0, test_fraction=0.5).build()
    judgements = [of_query for split in ("train", "test") for of_query in collection.split(split).qrels.values()]
    return [grade for of_query in judgements for grade in of_query.values()]


@pytest.mark.parametrize("words", [{1: "True", 0: "False"}, {1: "true", 0: "false"}, {1: "1", 0: "0"}])
def test_truth_values(words: dict[int, str], tmp_path: Path) -> None:
    assert grades(tmp_path / "rows.csv", words).count(1) == 3


@pytest.mark.parametrize("words", [{1: "yes", 0: "no"}, {1: "Relevant", 0: "Irrelevant"}])
def test_answers(words: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows.csv:2: 'label' must be a number, got '.*': write 1 for yes"):
        grades(tmp_path / "rows.csv", words)


def test_other_words_have_no_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'good' \(data.on_error=skip leaves such rows out\)$"):
        grades(tmp_path / "rows.csv", {1: "good", 0: "bad"})
