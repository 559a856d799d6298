"""Texts longer than the model reads are counted, written and said, for every kind of model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import run_several
from transformers import AutoTokenizer

from data.batch import TokenSequences
from data.truncation import Truncation, cut_line, line_of_summary, summary_of
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from launch.inspect_data import main as inspect
from launch.rerank import main as rerank
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from recipes.evaluate.run import evaluate
from recipes.training_run import train

EIGHT = {"model.max_length": 8}
LONG = "the apple is red " * 200


@pytest.mark.parametrize("texts", [("a red apple", LONG), (LONG, "a red apple"), (LONG, LONG), ("red", "apple")])
def test_pairs_are_counted_by_side(tiny_reranker_dir: Path, texts: tuple[str, str]) -> None:
    tokenizer = CrossEncoderConfig(str(tiny_reranker_dir), max_length=32).build(0).tokenizer
    plain = AutoTokenizer.from_pretrained(tiny_reranker_dir)
    lengths = [len(plain(text, add_special_tokens=False).input_ids) for text in texts]
    row, cut = (tokenizer([texts[0]], [texts[1]])[name][0] for name in ("input_ids", "truncated"))
    assert [n > 28 for n in lengths] == [lost > 0 for lost in cut]
    assert len(row) == sum(lengths) + 3 - sum(cut)


def test_texts_are_counted_by_role(tiny_bert_dir: Path) -> None:
    tokenizer = BiEncoderConfig(str(tiny_bert_dir), max_length=32).build(0).tokenizer
    assert tokenizer(["red"], "query")["truncated"] == [[0, 0]]
    assert [lost > 0 for lost in tokenizer([LONG], "query")["truncated"][0]] == [True, False]
    assert [lost > 0 for lost in tokenizer([LONG], "document")["truncated"][0]] == [False, True]
    exact = "red " * 30  # with the two special tokens, the whole length
    assert tokenizer([exact, exact + "red"], "document")["truncated"] == [[0, 0], [0, 1]]
    rows = TokenSequences.from_encoding(tokenizer.encode_list("red", [LONG, "apple", LONG]))
    assert Truncation.of_rows(rows.truncated, [4], 3) == Truncation(1, 0, 3, 2)


def test_lists_and_empty_lists_are_counted() -> None:
    lost = TokenSequences.from_encoding({"input_ids": [[1]] * 4, "truncated": [[3, 0], [0, 0], [0, 2], [0, 1]]})
    assert Truncation.of_rows(lost.truncated, [2, 0, 2], 4) == Truncation(3, 1, 4, 2)
    assert Truncation.of_rows(None, [1], 1) is None
    assert cut_line({"test": Truncation(4, 0, 100, 0)}, EIGHT) == ""
    assert cut_line({"test": Truncation(4, 0, 100, 10)}, EIGHT).startswith(
        "note: longer than model.max_length=8 tokens"
    )
    line = cut_line({"train": None, "test": Truncation(4, 0, 100, 11)}, EIGHT)
    assert line.startswith("warning: ")
    assert "test 0 of 4 queries (0.0%) and 11 of 100 documents (11.0%)" in line


def test_lengths_of_roles_are_named() -> None:
    limits = {"model.query_length": 4, "model.document_length": 9}
    for cut, remedy in (
        (Truncation(4, 1, 100, 0), "model.query_length"),
        (Truncation(4, 0, 100, 11), "model.document_length"),
        (Truncation(4, 1, 100, 11), "model.query_length or model.document_length"),
    ):
        line = cut_line({"test": cut}, limits)
        assert f"(raise {remedy} if" in line
        assert line.startswith("warning: longer than " + " or ".join(f"{o}={limits[o]}" for o in remedy.split(" or ")))
        assert line_of_summary(summary_of({"test": cut}, limits)) == line
    assert summary_of({}, limits) == {"max_length": 9, "limits": limits}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Half of the 12 documents are long; 6 queries of train, 3 of dev and 3 of test."""
    (tmp_path / "qrels").mkdir()
    documents = [{"_id": f"d{i}", "text": f"apple{i} {LONG if i % 2 else ''}"} for i in range(12)]
    queries = [{"_id": f"q{i}", "text": f"apple{i} the red apple"} for i in range(12)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, numbers in (("train", range(6)), ("dev", range(6, 9)), ("test", range(9, 12))):
        rows = "".join(f"q{i}\td{i}\t1\n" for i in numbers)
        (tmp_path / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return tmp_path


@pytest.mark.parametrize("kind", ["bi_encoder", "bi_encoder eval=reranking", "cross_encoder"])
def test_evaluations_write_and_say_it(beir, tiny_bert_dir, tiny_reranker_dir, capsys, kind: str) -> None:
    model = tiny_bert_dir if kind.startswith("bi") else tiny_reranker_dir
    options = [f"model.name_or_path={model}", "model.max_length=32", "data=beir", f"data.path={beir}"]
    output = beir / "out.json"
    settings = [*f"model={kind}".split(), *options, f"data.cache_dir={beir}", f"output={output}"]
    evaluate(load(settings, "evaluate"))
    # the corpus; the candidates of the three queries, which are the long documents and d10, each once or once per query
    documents, cut = {"bi_encoder": (12, 6), "bi_encoder eval=reranking": (7, 6), "cross_encoder": (19, 18)}[kind]
    counts = {"queries": 3, "cut_queries": 0, "documents": documents, "cut_documents": cut}
    assert json.loads(output.read_text())["truncated"] == {"max_length": 32, "test": counts}
    lines = [line for line in capsys.readouterr().out.splitlines() if "longer than" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: longer than model.max_length=32 tokens and cut: test 0 of 3 queries (0.0%)")


def test_two_ranks_count_as_one_in_training(beir: Path, tiny_run: list[str]) -> None:
    kept = [option for option in tiny_run if not option.startswith("data")]
    options = ["model.max_length=32", "data=beir", f"data.path={beir}", f"data.cache_dir={beir}", "data/lists=mixed"]
    settings = [*kept, *options, "trainer.max_steps=2", "trainer.log_every=1", "trainer.batch_size=4", "run_name=cut"]
    found = []
    for ranks in (1, 2):
        folder = next(option for option in tiny_run if option.startswith("output_dir=")) + str(ranks)
        ((lines, _),) = run_ranks(run_several, ranks, [[*settings, folder]])[0]
        shares = ("truncated_share", "truncated_query_share", "truncated_document_share")
        found.append([{name: line[name] for name in shares} for line in lines if line["split"] == "train"])
    steps, again = found
    assert steps == again
    train(load(settings))
    folder = next(option for option in tiny_run if option.startswith("output_dir=")).removeprefix("output_dir=")
    counted = json.loads((Path(folder) / "cut" / "summary.json").read_text())["truncated"]
    assert counted["train"]["queries"] == 8
    assert counted["train"]["cut_documents"] == sum(
        round(line["truncated_document_share"] * counted["train"]["documents"] / 2) for line in steps
    )
    assert all(line["truncated_query_share"] == 0 and line["truncated_share"] > 0 for line in steps)
    assert counted["test"]["cut_documents"] > 0


def test_rerank_says_it(tiny_reranker_dir: Path, capsys) -> None:
    options = [str(tiny_reranker_dir), "--query", "what is the apple", "--max-length", "32"]
    rerank([*options, LONG, "apple"])
    printed = capsys.readouterr().err
    assert "longer than --max-length=32 tokens and cut: 0 of 1 queries (0.0%) and 1 of 2 documents (50.0%)" in printed
    rerank([*options, "apple"])
    assert "longer than" not in capsys.readouterr().err


def test_inspect_says_it(tiny_bert_dir: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"query": f"apple {i}", "positive": f"{i} {LONG if i < 5 else ''}"} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
    inspect([str(file), f"data.cache_dir={tmp_path}", *model])
    assert "cut: 0 of 20 queries (0.0%) and 5 of 20 documents (25.0%)" in capsys.readouterr().out
    inspect([str(file), f"data.cache_dir={tmp_path}", "model.name_or_path=nobody/nothing-here"][:2])
    assert "longer than model.max_length=256 tokens" in (printed := capsys.readouterr().out) or "tokens: " in printed
