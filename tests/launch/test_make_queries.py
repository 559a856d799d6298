"""launch/make_queries.py on tiny data: what it writes, killed, on two ranks, its errors, training on it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from data.hashing import stable_hash
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from models.generation.generator import Generator, Written
from recipes.questions import blocks
from recipes.questions.run import make_queries

PROMPTS = [
    "prompts.question='about {document}'",
    "prompts.paraphrase='again {query}'",
    "prompts.near_negative='near {query} not {document}'",
    "prompts.far_negative='far {query}'",
]


@pytest.fixture
def arguments(tiny_beir_dir, tiny_causal_dir, tmp_path) -> Callable[..., list[str]]:
    """The settings of a run by the tiny language model that writes `name`."""

    def given(name: str, *more: str) -> list[str]:
        return [
            *("data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={tmp_path / 'cache'}", *PROMPTS),
            *("model=generator", f"model.name_or_path={tiny_causal_dir}", "model.max_length=256"),
            *("generate.max_new_tokens=8", f"output={tmp_path / name}", *more),
        ]

    return given


@pytest.fixture
def make(arguments, tmp_path) -> Callable[..., Path]:
    def run(name: str, *more: str) -> Path:
        make_queries(load(arguments(name, *more), "make_queries"))
        return tmp_path / name

    return run


@pytest.fixture
def answers(monkeypatch) -> Callable[[Callable[[str], str]], list[str]]:
    """Let a function write the texts instead of the tiny model. The list that is returned fills with the prompts."""

    def use(answer: Callable[[str], str]) -> list[str]:
        seen: list[str] = []

        def write(self, prompts, numbers, options, *, bf16=False):
            texts = [self.tokenizer.tokenizer.decode(ids) for ids in prompts]
            seen.extend(texts)
            return [Written(answer(text), is_finished=True) for text in texts]

        monkeypatch.setattr(Generator, "write", write)
        return seen

    return use


def backwards(text: str) -> str:
    """The first words of a document in the other order: no copy, and BM25 finds them."""
    return " ".join(text.split()[1:8][::-1]) + "?"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def audit_of(path: Path) -> dict:
    return json.loads(Path(f"{path}.audit.json").read_text())


def test_questions_of_all_documents_with_an_audit(make, answers, tiny_beir_dir, capsys):
    corpus = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")}
    seen = answers(backwards)
    path = make("pairs.jsonl", "round_trip=3")
    assert sorted(seen) == sorted(f"about {text}" for text in corpus.values())
    found, audit = rows(path), audit_of(path)
    assert {tuple(row) for row in found} == {("query", "positive")}
    assert [row["query"] for row in found] == [backwards(f"about {row['positive']}") for row in found]
    order = list(corpus.values())
    assert [order.index(row["positive"]) for row in found] == sorted(order.index(row["positive"]) for row in found)
    assert 30 < len(found) < 60
    assert audit["written"] == {"question": 60}
    assert audit["kept"] == {"question": len(found)} == {"question": audit["rows"]}
    assert len(found) + sum(audit["dropped"].values()) == 60
    searched = audit["round_trip"]
    assert searched["found"] == sum(searched["ranks"].values()) == len(found)
    assert set(searched["ranks"]) <= {"1", "2", "3"}
    assert len(audit["samples"]) == 20
    assert all(each["rank"] in (1, 2, 3) for each in audit["samples"])
    page = Path(f"{path}.audit.html").read_text()
    assert all(part in page for part in ("To judge by eye", "Left out", "Rank of the source", "about {document}"))
    out = capsys.readouterr().out
    assert f"kept: {len(found)} of 60 texts" in out
    assert f"found among the first 3: {len(found)} of {searched['searched_for']}" in out
    assert f"data=file data.path={path}" in out


def test_the_round_trip_keeps_what_is_found_among_the_first(make, answers, tiny_beir_dir):
    """The ranks are those of a search by BM25 itself."""
    from data.bm25 import BM25

    answers(backwards)
    path = make("pairs.jsonl", "round_trip=60", "clean.copied=false")
    corpus = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")}
    found = rows(path)
    ranked = BM25().retrieve(corpus, {str(i): row["query"] for i, row in enumerate(found)}, 60)
    texts = [[corpus[name] for name in ranked[str(i)]] for i in range(len(found))]
    ranks = [ranking.index(row["positive"]) + 1 for ranking, row in zip(texts, found, strict=True)]
    wanted = {str(rank): ranks.count(rank) for rank in sorted(set(ranks))}
    assert audit_of(path)["round_trip"]["ranks"] == wanted
    kept = make("few.jsonl", "round_trip=2", "clean.copied=false")
    assert rows(kept) == [row for row, rank in zip(found, ranks, strict=True) if rank <= 2]


def test_an_embedder_searches_too(make, answers, tiny_bert_dir):
    answers(backwards)
    retriever = ["model@retriever=bi_encoder", f"retriever.name_or_path={tiny_bert_dir}", "retriever.max_length=64"]
    path = make("pairs.jsonl", *retriever)
    audit = audit_of(path)
    assert audit["options"]["retriever"] == str(tiny_bert_dir)
    assert 0 < audit["round_trip"]["found"] < audit["round_trip"]["searched_for"]
    assert len(rows(make("all.jsonl", *retriever, "round_trip=null"))) == audit["round_trip"]["searched_for"]


def test_no_text_comes_twice_and_none_is_a_query_of_the_data(make, answers, tiny_beir_dir):
    queries = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "queries.jsonl")}
    texts = iter([queries["test0"], queries["dev0"].upper(), queries["train0"], "One new query?", "one  new QUERY?"])
    answers(lambda _: next(texts))
    path = make("pairs.jsonl", "num_documents=5", "round_trip=null", "generate.batch_size=1")
    assert len(rows(path)) == 1
    assert audit_of(path)["dropped"] == {"held_out": 2, "duplicate": 2}


def test_a_sample_of_documents_and_several_questions_of_each(make, answers):
    counter = iter(range(1000))
    answers(lambda text: f"{next(counter)} {backwards(text)}")
    small = make("small.jsonl", "num_documents=7", "num_texts=3", "round_trip=null")
    large = make("large.jsonl", "num_documents=20", "round_trip=null")
    assert audit_of(small)["written"] == {"question": 21}
    assert {row["positive"] for row in rows(small)} < {row["positive"] for row in rows(large)}
    assert len({row["positive"] for row in rows(large)}) == 20


def test_paraphrases_keep_the_judgements(make, answers, tiny_beir_dir):
    seen = answers(lambda text: " ".join(text.split()[1:][::-1]) + " say?")
    path = make("more.jsonl", "make=paraphrases", "round_trip=60")
    queries = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "queries.jsonl")}
    corpus = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")}
    qrels = [line.split("\t") for line in (tiny_beir_dir / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    assert sorted(seen) == sorted(f"again {queries[query]}" for query, _, _ in qrels)
    judged = {" ".join(queries[q].split()[::-1]) + " say?": ([corpus[d]], [int(grade)]) for q, d, grade in qrels}
    found = rows(path)
    assert len(found) > 15
    for row in found:
        assert (row["documents"], row["labels"]) == judged[row["query"]]


def test_held_out_queries_are_written_about_only_if_it_is_said(make, answers):
    seen = answers(lambda text: "other " + backwards(text))
    with pytest.raises(ValueError, match=r"split=test is held out: .* allow_held_out=true"):
        make("more.jsonl", "make=paraphrases", "split=test")
    make("more.jsonl", "make=paraphrases", "split=test", "allow_held_out=true", "round_trip=null")
    assert len(seen) == 6


def negative(text: str) -> str:
    """A near negative has the words of the query, a far one has none of them."""
    kind, *words = text.split()
    return (
        f"{' '.join(words[:3])} is near. It is {len(text)}."
        if kind == "near"
        else f"far away {len(text)}, {stable_hash(text)}."
    )


def test_negatives_are_labelled_by_a_teacher(make, answers, tiny_reranker_dir, tmp_path, capsys):
    answers(negative)
    teacher = ["model@teacher=cross_encoder", f"teacher.name_or_path={tiny_reranker_dir}", "teacher.max_length=64"]
    path = make("lists.jsonl", "make=negatives", "num_texts=2", "max_closeness=1.0", *teacher)
    found, audit = rows(path), audit_of(path)
    assert audit["written"] == {"near_negative": 48, "far_negative": 48}
    assert found
    for row in found:
        assert row["labels"][0] in (4, 8), "the grade of the judged document times 4"
        assert all(label in (0, 1, 2, 3) for label in row["labels"][1:])
        assert len(row["scores"]) == len(row["documents"]) == len(row["labels"])
    far = [s for row in found for s, d in zip(row["scores"], row["documents"], strict=True) if d.startswith("far")]
    assert far
    assert sum(audit["labels"].values()) == sum(audit["kept"].values())
    assert not list(tmp_path.glob("*.unfinished"))
    assert "data.relevant_from=4" in capsys.readouterr().out
    from data.formats.file import FileConfig

    collection = FileConfig(path=str(path), cache_dir=str(tmp_path / "cache"), relevant_from=4).build()
    labels = [value for judged in collection.split("train").judgements.values() for value in judged.values()]
    assert set(labels) <= {0, 4, 8}
    assert "teacher_scores" in collection.available


def test_negatives_without_a_teacher_have_label_0(make, answers):
    answers(negative)
    found = rows(make("lists.jsonl", "make=negatives", "num_queries=5"))
    assert len(found) == 5
    assert all(row["labels"][1:] == [0, 0] and row["labels"][0] in (1, 2) for row in found)
    assert not any("scores" in row for row in found)


def test_a_model_is_trained_on_the_file(make, answers, tiny_run, tmp_path):
    from recipes.training_run import train

    answers(backwards)
    path = make("pairs.jsonl")
    kept = [setting for setting in tiny_run if not setting.startswith(("data", "eval"))]
    data = ["data=file", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", "eval.dev_max_queries=2"]
    train(load(["+exp=embedder_infonce", *kept, *data, "trainer.max_steps=2", "run_name=written"]))
    assert json.loads((tmp_path / "outputs" / "written" / "summary.json").read_text())["steps"] == 2


RANDOM = ["num_texts=4", "round_trip=null", "generate.temperature=1.5", "clean.copied=false"]


def _make(settings: list[str]) -> None:
    blocks.BLOCK = 8
    make_queries(load(settings, "make_queries"))


def _make_until_killed(settings: list[str], after: int) -> None:
    """SIGKILL to rank 0 once it has written so many blocks."""
    write, written = blocks.write_arrays, []

    def killed(*given: object) -> None:
        if len(written) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(given)
        write(*given)

    blocks.write_arrays = killed
    _make(settings)


@pytest.mark.parametrize(("killed_on", "resumed_on"), [(1, 1), (2, 2), (2, 1)])
def test_a_killed_command_ends_with_the_same_bytes_on_any_number_of_ranks(killed_on, resumed_on, arguments, tmp_path):
    whole = [*arguments("whole.jsonl", *RANDOM), f"data.cache_dir={tmp_path / 'other'}"]
    run_ranks(_make, 1, whole)
    settings = arguments("killed.jsonl", *RANDOM)
    with pytest.raises(RuntimeError, match=r"died with exit code -9|failed"):
        run_ranks(_make_until_killed, killed_on, settings, 3, timeout_s=30)
    (folder,) = (tmp_path / "cache" / "written").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npz")}
    assert sorted(before) == [f"{number:06d}.npz" for number in range(3)]
    assert not (tmp_path / "killed.jsonl").exists()
    run_ranks(_make, resumed_on, settings)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before, "nothing is written again"
    first, second = (tmp_path / name for name in ("whole.jsonl", "killed.jsonl"))
    assert rows(first)
    assert second.read_bytes() == first.read_bytes()
    texts = [Path(f"{path}.audit.json").read_text() for path in (first, second)]
    assert texts[0] == texts[1].replace("killed.jsonl", "whole.jsonl")


def test_what_was_written_is_cleaned_anew_without_the_model(make, answers):
    seen = answers(backwards)
    first = make("pairs.jsonl")
    assert len(seen) == 60
    again = make("again.jsonl", "round_trip=1", "clean.max_characters=30")
    assert len(seen) == 60
    assert len(rows(again)) < len(rows(first))
    make("other.jsonl", "seed=3")
    assert len(seen) == 120


def test_an_output_that_is_there_is_kept_unless_it_is_to_be_replaced(make, answers, caplog):
    answers(backwards)
    path = make("pairs.jsonl")
    before = path.stat().st_mtime_ns
    make("pairs.jsonl")
    assert path.stat().st_mtime_ns == before
    assert any("is there already, made by these settings" in message for message in caplog.messages)
    with pytest.raises(ValueError, match="was made with another round_trip: overwrite=true replaces it"):
        make("pairs.jsonl", "round_trip=2")
    assert len(rows(make("pairs.jsonl", "round_trip=2", "overwrite=true"))) < 60


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["make=answers"], "make=answers: choose one of questions, paraphrases, negatives"),
        (["model=bi_encoder"], "model: it writes no texts: choose model=generator"),
        (
            ["model@retriever=cross_encoder"],
            "model@retriever: it gives score of pairs, by which no corpus can be searched",
        ),
        (["model@retriever=generator"], "model@retriever: it gives neither scores nor embeddings"),
        (["prompts.question=write"], "prompts.question='write' is neither a prompt with {document} nor a file"),
        (["prompts.question='of {query}'"], "prompts.question has no {document}, where the text stands"),
        (["prompts.question='of {query} {document}'"], "prompts.question has {query}, of which there is none"),
        (["num_texts=2", "generate.temperature=0"], "num_texts=2: with generate.temperature=0 they would be equal"),
        (["num_queries=5"], "num_queries has no effect on make=questions: leave it out"),
        (["num_documents=5", "make=negatives"], "num_documents has no effect on make=negatives: leave it out"),
        (["model@teacher=cross_encoder"], "model@teacher has no effect on make=questions"),
        (["make=negatives", "labels=graded"], "labels=graded: a teacher gives the grades: add model@teacher="),
        (["make=negatives", "model@teacher=bm25"], "gives no teacher scores"),
        (["round_trip=0"], "round_trip=0 must be at least 1"),
        (["output=x.csv"], "output=x.csv: choose a name that ends in .jsonl"),
        (["output=gone/x.jsonl"], "output=gone/x.jsonl: the folder gone does not exist"),
        (["model.name_or_path=/gone/model"], "model /gone/model: no such folder"),
        (["generate.max_new_tokens=400"], "generate.max_new_tokens=400 and model.max_length=256 together are above"),
        (
            ["model.max_length=16", f"prompts.question='{'read it ' * 9}{{document}}'"],
            "model.max_length=16: the prompt takes",
        ),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(more, message, make, tmp_path):
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as raised:
        make("pairs.jsonl", *more)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*pairs*"))


def test_a_run_that_keeps_nothing_says_why(make, answers, tmp_path):
    answers(lambda _: "")
    with pytest.raises(ValueError, match=r"none of 60 texts is kept \(60 nothing was written\): choose a larger model"):
        make("pairs.jsonl")
    assert not list(tmp_path.glob("*pairs*"))


def test_a_prompt_may_be_in_a_file(make, answers, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Über {document}\n", encoding="utf-8")
    seen = answers(backwards)
    make("pairs.jsonl", f"prompts.question={file}", "num_documents=2")
    assert all(text.startswith("Über ") for text in seen)
    file.write_bytes("Über {document}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"prompts\.question: .*prompt.txt is not UTF-8"):
        make("other.jsonl", f"prompts.question={file}", "num_documents=2")


@pytest.mark.parametrize("number", [1, 2])
def test_a_corpus_of_a_document_or_two(number, make, answers, tmp_path):
    file = tmp_path / "few.jsonl"
    file.write_text(
        "".join(json.dumps({"query": f"q{i}", "positive": f"red train {i} list"}) + "\n" for i in range(number))
    )
    answers(backwards)
    path = make("pairs.jsonl", "data=file", f"data.path={file}", "clean.min_characters=1")
    assert len(rows(path)) == number


def test_questions_about_a_folder_are_written_about_whole_texts(make, answers, tmp_path):
    """With pairs, the title, the first sentence and a random span would be taken out of the text of a chunk."""
    folder = tmp_path / "folder"
    folder.mkdir()
    whole = "A red train\nThe train to the lake leaves at noon. " + "It returns late with many people from town. " * 3
    (folder / "one.txt").write_text(whole.replace("\n", "\n\n"))  # and a single document cannot be divided into splits
    seen = answers(backwards)
    path = make("pairs.jsonl", "data=documents", f"data.path={folder}", "clean.min_characters=1")
    assert [row["positive"] for row in rows(path)] == [whole.strip()]
    assert seen == [f"about {whole.strip()}"]
