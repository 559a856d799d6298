"""What is read, sampled and measured for an inspection."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.inspection.collections import read_collection
from data.inspection.content import Content, EvenSample, Limits, spread_evenly
from data.inspection.files import available_of_rows, read_lists
from data.inspection.folders import available_of_judgements, beir_folder, read_folder
from data.inspection.judged import find_label_problems
from data.inspection.measures import Spread, measure_roles, measure_splits
from data.inspection.near_duplicates import near_pairs
from data.inspection.tokens import count_tokens
from data.inspection.unspaced import count_words
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig

WORDS = [f"word{i}" for i in range(400)]


def rows(tmp_path: Path, content: list[dict], name: str = "rows.jsonl") -> FileConfig:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return FileConfig(path=str(tmp_path / name), cache_dir=str(tmp_path))


def test_a_sample_is_even_and_bounded():
    sample: EvenSample[int] = EvenSample(limit=100, size=10**9)
    for number in range(12_345):
        sample.add(number, size=1)
    assert 50 <= len(sample.kept) <= 100
    assert len({b - a for a, b in zip(sample.kept, sample.kept[1:], strict=False)}) == 1
    heavy: EvenSample[int] = EvenSample(limit=10**6, size=1000)
    for number in range(5000):
        heavy.add(number, size=7)
    assert 500 <= 7 * len(heavy.kept) <= 1000
    assert list(spread_evenly(range(10), 4)) == [0, 3, 6, 9]
    assert list(spread_evenly([], 4)) == []


def test_the_spread_of_numbers():
    assert Spread.of([]) is None
    assert str(Spread.of([3, 3])) == "3"
    assert Spread.of(range(101)) == Spread(0, 5, 50, 95, 100)


def test_near_pairs_are_those_of_the_exact_jaccard_similarity():
    """Every pair of the oracle is found, and no other one, in 60 copies with 0 to 12 words changed."""
    rng = random.Random(0)
    texts: dict[str, str] = {}
    near = set()
    for number in range(60):
        words = rng.choices(WORDS, k=80)
        copy = list(words)
        for place in rng.sample(range(80), number % 13):
            copy[place] = "other"
        texts |= {f"a{number}": " ".join(words), f"b{number}": " ".join(copy)}
        one, two = ({tuple(t[i : i + 3]) for i in range(78)} for t in (words, copy))
        if len(one & two) / len(one | two) >= 0.8:
            near.add((f"a{number}", f"b{number}"))
    found = {(first, second) for first, second, _ in near_pairs(texts)}
    assert 10 < len(near) < 50
    assert found <= near
    assert len(found) >= 0.95 * len(near)


def test_scripts_without_spaces_are_compared_by_characters():
    text = "".join(chr(0x4E00 + 7 * i) for i in range(100))
    assert [pair[:2] for pair in near_pairs({"a": text, "b": text[:-2], "c": text[::-1]})] == [("a", "b")]
    assert list(near_pairs({"a": "too short", "b": "too short"})) == []


CLAUSES = {
    "chinese": (
        "北京是中国的首都。",
        "上海位于长江入海口。",
        "学习汉语需要掌握声调。",
        "这座城市常常刮风。",
        "茶叶起源于中国。",
    ),
    "japanese": (
        "東京は日本の首都であり、",
        "桜の花は春に咲きます。",
        "多くの留学生を受け入れ、",
        "寿司は日本料理です。",
        "新幹線は速い。",
    ),
    "thai": ("กรุงเทพมหานครเป็นเมืองหลวง ", "อาหารไทยมีรสชาติเผ็ด ", "นักเรียนไปโรงเรียนทุกวัน ", "ฤดูฝนเริ่มต้นในเดือนพฤษภาคม "),
}


@pytest.mark.parametrize("name", CLAUSES)
def test_near_pairs_of_texts_with_punctuation_and_without_spaces(name):
    """Clauses of 8 to 15 letters: texts of 100 to 400 letters, of which one has another letter."""
    rng = random.Random(3)
    for size in (10, 20, 40):
        texts = {}
        for number in range(30):
            clauses = [rng.choice(CLAUSES[name]) for _ in range(size)]
            texts[f"t{number}"] = "".join(f"{c[:3]}{chr(0x4E00 + rng.randrange(5000))}{c[3:]}" for c in clauses)
        text = texts["t3"]
        texts["near"] = f"{text[: len(text) // 2]}新{text[len(text) // 2 + 1 :]}"
        assert [pair[:2] for pair in near_pairs(texts)] == [("t3", "near")]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("北京是中国的首都。2008", 9),
        ("東京は、日本の Tokyo です", 9),
        ("กรุงเทพ", 6),
        ("서울은 대한민국의 수도이다", 3),
        ("an essay on 北京, the city", 6),
        ("", 0),
    ],
)
def test_words_of_texts_without_spaces_are_letters(text, number):
    assert count_words(text) == number


def test_a_document_that_rows_repeat_counts_once(tmp_path):
    """MS MARCO triples: 4 queries with 2 positives and 2 negatives each, in all pairs."""
    content = [
        {"query": f"query {i}", "positive": f"good {i} {p}", "negative": f"bad {i} {n}"}
        for i in range(4)
        for p in range(2)
        for n in range(2)
    ]
    [split] = measure_splits(read_lists(rows(tmp_path, content), Limits()))
    assert (str(split.positives), str(split.negatives), split.judgements) == ("2", "2", 16)
    assert split.labels == {"0": 8, "1": 8}
    assert (split.positive_counts, split.negative_counts) == ((2,) * 4, (2,) * 4)


def test_rows_of_a_file(tmp_path):
    options = rows(tmp_path, [{"query": f"q{i // 2}", "document": f"text {i}", "label": i % 2} for i in range(8)])
    content = read_lists(options, Limits())
    assert content.is_complete
    assert (content.size, content.reason) == (
        "8 rows, labelled pairs",
        "columns query as query; document as document; label as label",
    )
    [split] = measure_splits(content)
    assert (split.queries, split.judgements, split.labels) == (4, 8, {"0": 4, "1": 4})
    assert (str(split.positives), str(split.negatives)) == ("1", "1")
    assert available_of_rows(content, options) == options.build().available


def test_large_files_are_read_in_part(tmp_path):
    options = rows(tmp_path, [{"query": f"q{i}", "positive": f"text {i}"} for i in range(50)])
    content = read_lists(options, Limits(rows=20))
    assert content.sampled == ("the first 20 train rows were read, there are more",)
    assert len(content.documents) == 20
    few = read_lists(options, Limits(characters=100))
    assert 10 < len(few.records) < 20
    assert read_lists(options, Limits(rows=50)).is_complete


def test_a_corpus_is_read_in_part(tiny_beir_dir):
    options = BEIRConfig(path=str(tiny_beir_dir))
    whole = read_folder(options, Limits())
    assert (len(whole.documents), whole.is_complete) == (60, True)
    judged = {judgement.document for judgement in whole.judgements}
    part = read_folder(options, Limits(rows=20))  # of the judged ones, and of the others
    assert len(judged & part.documents.keys()) >= 20
    assert 20 < len(part.documents) <= 40
    assert list(find_label_problems(part)) == []
    assert part.sampled == (f"texts of {len(part.documents)} of 60 documents were looked at",)
    begun = read_folder(options, Limits(rows=20, scanned=2))
    assert begun.sampled[0] == "the first 40 documents were read, there are more"
    assert begun.findings == ()  # documents that were not reached are not missing
    shortened = read_folder(options, Limits(judgements=10))
    assert (len(shortened.judgements), shortened.is_complete) == (10, False)


def test_what_lists_of_a_collection_give(tiny_beir_dir, tmp_path):
    options = BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(tmp_path))
    assert available_of_judgements(read_folder(options, Limits())) == options.build().available


def test_a_collection_of_any_class_is_looked_at(tiny_beir_dir, tmp_path):
    collection = BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(tmp_path)).build()
    content = read_collection(collection, Limits())
    assert {split: len(queries) for split, queries in content.queries.items()} == {"train": 24, "dev": 6, "test": 6}
    assert content.is_complete
    assert not read_collection(collection, Limits(rows=10)).is_complete
    assert list(find_label_problems(content)) == []


def test_the_layout_of_beir_is_found_by_content(tiny_beir_dir, tmp_path):
    assert beir_folder(tiny_beir_dir) == beir_folder(tiny_beir_dir / "queries.jsonl") == tiny_beir_dir
    (tmp_path / "rows.jsonl").write_text("")
    assert beir_folder(tmp_path) is None
    assert beir_folder(tmp_path / "rows.jsonl") is None


def preference(chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": "q", "chosen": chosen, "rejected": rejected}


def labelled_content(tmp_path: Path, content: list[dict]) -> Content:
    return read_lists(rows(tmp_path, content), Limits())


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ([preference("a", "b"), preference("b", "c")], []),
        (
            [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "b", "rejected": "a"}],
            ["warning"],
        ),
        ([preference("a", "a"), preference("b", "c")], ["error"]),
        ([{"query": "q", "document": "a", "label": 1}, {"query": "q", "document": "a ", "label": 1}], []),
        ([{"query": "q", "document": "a", "score": 0.2}, {"query": "q", "document": "a", "score": 0.9}], ["error"]),
    ],
)
def test_conflicting_labels(content, names, tmp_path):
    found = list(find_label_problems(labelled_content(tmp_path, content)))
    assert [finding.severity for finding in found] == names
    assert {finding.name for finding in found} <= {"conflicting labels"}


def test_negatives_that_are_positives(tmp_path):
    content = [
        {"query": "a question", "positive": "yes", "negative": "no"},
        {"query": "a question", "positive": "no", "negative": "A  Question"},
        {"query": "another one", "positive": "fine", "negative": "yes"},
    ]
    [finding] = find_label_problems(labelled_content(tmp_path, content))
    assert finding.name == "positives as negatives"
    assert [example.partition("rows.jsonl:")[2][0] for example in finding.examples] == ["1", "2"]


def test_tokens_are_those_of_the_model(tiny_bert_dir, tiny_reranker_dir, tmp_path):
    texts = ["red", "apple is red", "the apple is red " * 20]
    options = rows(tmp_path, [{"query": f"apple {i}", "positive": text} for i, text in enumerate(texts)])
    content = read_lists(options, Limits())
    for model in (BiEncoderConfig(str(tiny_bert_dir), max_length=32), CrossEncoderConfig(str(tiny_reranker_dir), 32)):
        tokenizer = model.build(0).tokenizer
        counts = count_tokens(content, tokenizer, "tiny", Limits(), None, None)
        plain = [len(tokenizer.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        assert counts.lengths["document"] == tuple(plain)
        assert counts.cut_shares == {"query": 0.0, "document": pytest.approx(1 / 3)}
        documents = measure_roles(content, counts)[1]
        assert (documents.tokens.maximum, documents.cut_share) == (plain[-1], pytest.approx(1 / 3))


def test_scripts_and_language(tmp_path):
    content = [
        {"query": f"дом номер {i}", "positive": f"{i}: el perro de la casa y el gato que no está"} for i in range(9)
    ]
    asked, told = measure_roles(read_lists(rows(tmp_path, content), Limits()), None)
    assert (asked.language, list(asked.scripts)) == ("russian", ["CYRILLIC"])
    assert (told.language, list(told.scripts)) == ("spanish", ["LATIN"])
    assert replace(asked).tokens is None


def test_the_format_and_the_splits_are_those_of_the_reader(tmp_path):
    """A folder whose files are named after splits, in a well-known layout, is read as training reads it."""
    content = [{"query": f"who made {i}", "pos": [f"a smith {i}"], "neg": [f"nobody {i}"]} for i in range(40)]
    (tmp_path / "folder").mkdir()
    rows(tmp_path / "folder", content[:30], "train.jsonl")
    rows(tmp_path / "folder", content[30:], "test.jsonl")
    found = read_lists(FileConfig(path=str(tmp_path / "folder"), cache_dir=str(tmp_path)), Limits())
    assert found.format == "FlagEmbedding in .jsonl"
    assert found.reason == "columns query as query; pos as positive; neg as negative"
    assert {split: len(queries) for split, queries in found.queries.items()} == {"train": 30, "test": 10}
