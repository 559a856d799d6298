"""The parts of a choice: limits, labels, what a card declares, terms, and measurements on disk."""

from __future__ import annotations

import json

import pytest

from evaluation.known_models.catalogue import known_models
from models.bi_encoder import BiEncoderConfig
from recipes.choose.card import declared, trained_on_these
from recipes.choose.entries import labels
from recipes.choose.limits import MEASURES, broken_limits, check_limits, cost_of
from recipes.choose.store import Measurement, load, save
from recipes.choose.texts import Sample, broken_terms, characteristic_terms, read_by


def test_every_measure_may_be_a_limit_and_a_typo_is_refused():
    check_limits({**dict.fromkeys(MEASURES, 1), "licence": ["mit"]})
    with pytest.raises(
        ValueError, match=r"limit.index_byte is not measured: did you mean index_bytes\? valid: quality, query_ms"
    ):
        check_limits({"index_byte": 1})
    with pytest.raises(ValueError, match=r"limit\.licence=mit: list the licences"):
        check_limits({"licence": "mit"})
    with pytest.raises(ValueError, match=r"limit\.index_bytes=1GB is not a number"):
        check_limits({"index_bytes": "1GB"})


def test_limits_are_the_most_or_the_least_and_what_is_not_known_is_not_kept():
    values = {"query_ms_p95": 12.0, "documents_per_s": 90.0, "licence": "MIT", "quality": 0.4, "price": None}
    assert broken_limits({"query_ms_p95": 12, "documents_per_s": 90, "licence": ["mit"]}, values, "model") == []
    found = broken_limits({"query_ms_p95": 11.5, "documents_per_s": 91, "quality": 0.5}, values, "model")
    assert found == [
        "its slowest 5% of queries take at least 12 ms, above limit.query_ms_p95=11.5",
        "documents per second: 90, below limit.documents_per_s=91",
    ]
    assert broken_limits({"quality": 0.5}, values, "form") == ["its quality is 0.4000, below limit.quality=0.5"]
    assert "not known" in broken_limits({"price": 1}, values, "model")[0]
    assert broken_limits({"licence": ["mit"], "price": 1}, {}, "model") == [], "BM25 has neither"
    assert broken_limits({"index_bytes": 1}, {"index_bytes": 2}, "model") == [], "of a form"
    assert "2 B, above limit.index_bytes=1" in broken_limits({"index_bytes": 1}, {"index_bytes": 2}, "form")[0]


def test_costs_are_lower_if_they_are_better():
    assert cost_of("documents_per_s", {"documents_per_s": 5.0}) == -5.0
    assert cost_of("price", {}) == 0.0
    assert cost_of("price", {"price": None}) is None


def test_labels_are_short_and_differ():
    assert labels(["a/b/model", "a/c/model", "owner/x"]) == ["b/model", "c/model", "x"]
    assert labels(["one/x", "two/x"]) == ["one/x", "two/x"]
    assert labels(["./model"]) == ["./model"]


def test_a_card_says_licence_and_data_and_a_base_gives_its_facts(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\ndatasets:\n- BeIR/scifact\nbase_model: sentence-transformers/all-MiniLM-L6-v2\n---\n"
        "# mine\n\n- data: cranfield (hash abc123)\n"
    )
    said = declared(str(tmp_path), tmp_path, known_models())
    assert (said["licence"], said["licence_source"]) == ("mit", "its card")
    names = [each["data"] for each in said["trained_on"]]
    assert names[:2] == ["BeIR/scifact", "cranfield"]
    assert said["caveat"] == "facts of its base model sentence-transformers/all-MiniLM-L6-v2"
    (tmp_path / "README.md").write_text("---\nbase_model: sentence-transformers/all-MiniLM-L6-v2\n---\n")
    said = declared(str(tmp_path), tmp_path, known_models())
    assert said["licence"] == "apache-2.0"
    assert said["licence_source"].startswith("facts of its base model")
    assert all(fact["source"] and fact["date"] for facts in said["facts"].values() for fact in facts)


def test_a_model_that_was_trained_on_the_data_is_found_by_their_name():
    listed = [{"data": data, "source": "s"} for data in ("BeIR/SciFact", "scifact-train", "msmarco", "science")]
    assert [each["data"] for each in trained_on_these(listed, ["scifact"])] == ["BeIR/SciFact", "scifact-train"]
    assert trained_on_these(listed, ["x"]) == []
    assert trained_on_these([{"data": "my-data/train-data", "source": "s"}], ["data", "my"]) == []


def test_terms_are_words_of_several_documents_and_not_of_most():
    documents = ["the enzyme binds", "the enzyme is here", *(f"the cat sat on mat{i}" for i in range(10))]
    terms = characteristic_terms(documents)
    assert terms == {"enzyme": 2}
    assert characteristic_terms(["北京大学"] * 2 + ["text about that"] * 9) == {"京大": 2, "北京": 2, "大学": 2}


def test_a_tokenizers_words_unknown_tokens_and_vocabulary_are_counted(tiny_bert_dir):
    tokenizer = BiEncoderConfig(str(tiny_bert_dir)).build(0).tokenizer
    sample = Sample.of(["red green blue", "red 漢字"], ["red"])
    found = read_by(tokenizer, sample)
    ids = {token for row in tokenizer.token_ids(["red green blue", "red 漢字", "red"]) for token in row}
    counts = tokenizer.count_tokens(["red green blue", "red 漢字", "red"])
    assert found["document_tokens"] == {
        name: counts[n][0] for name, n in (("p50", 0), ("p90", 0), ("p99", 0), ("max", 0))
    }
    assert found["unknown_tokens"] == sum(unknown for _, unknown in counts) / sum(count for count, _ in counts) > 0
    assert found["vocabulary"] == len(tokenizer.tokenizer)
    assert found["vocabulary_used"] == len(ids) / len(tokenizer.tokenizer)
    assert read_by(object(), sample) is None
    broken = broken_terms(tokenizer, {"red": 3, "xyzzy": 2, "漢字": 1})
    assert [each["term"] for each in broken] == ["xyzzy", "漢字"]
    assert broken[1]["unknown"]


def test_a_measurement_is_read_back_and_one_that_is_broken_or_stale_is_none(tmp_path):
    folder = tmp_path / "model"
    measurement = Measurement({"x": 1.5}, {"nDCG@10": {"q1": 0.5, "q 2": 1.0}}, {"model": {"q1": {"d": 2.0}}})
    save(folder, "key", measurement)
    assert load(folder, "key") == Measurement({"x": 1.5}, measurement.per_query)
    assert load(folder, "other") is None
    assert load(tmp_path / "none", "key") is None
    for name in ("measured.json", "queries.jsonl", "model.run"):
        save(folder, "key", measurement)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"1.5", b"2.5").replace(b"0.5", b"0.6").replace(b"2.0", b"3.0"))
        assert load(folder, "key") is None, name
        (folder / name).write_bytes(content[: len(content) // 2])
        assert load(folder, "key") is None, name
    save(folder, "key", measurement)
    stored = json.loads((folder / "measured.json").read_text())
    assert set(stored["files"]) == {"model.run", "queries.jsonl"}
