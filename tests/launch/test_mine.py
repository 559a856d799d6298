"""launch/mine.py on a tiny collection: every retriever, killed, on two ranks, its errors, training on what it wrote."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.batch import TokenSequences
from data.collate import Collator
from data.formats.trec import read_run
from engines.distributed.testing import run_ranks
from inference.runner import similarity_of
from launch.cli.compose import load
from recipes.negatives import mine_run, mining
from recipes.negatives.mine_run import mine
from recipes.negatives.searchers import VectorSearcher
from tensors.ragged import Ragged, concatenate

Mine = Callable[..., Path]


@pytest.fixture
def arguments(tiny_beir_dir, tiny_bert_dir, tmp_path) -> Callable[..., list[str]]:
    """The settings of a run that mines the 24 training queries by the tiny BERT and writes `name`."""

    def given(name: str, *more: str) -> list[str]:
        model = [] if "model=bm25" in more else [f"model.name_or_path={tiny_bert_dir}", "model.max_length=48"]
        return [
            *("data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={tmp_path / 'cache'}"),
            *("mine.num_negatives=3", "mine.percentage=null", f"output={tmp_path / name}", *model, *more),
        ]

    return given


@pytest.fixture
def mined(arguments, tmp_path) -> Mine:
    def run(name: str, *more: str) -> Path:
        mine(load(arguments(name, *more), "mine"))
        return tmp_path / name

    return run


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def audit_of(path: Path) -> dict:
    return json.loads(Path(f"{path}.audit.json").read_text())


LATE = ("model=late_interaction", "model.dimension=16", "model.query_length=12")
RETRIEVERS = {
    "dense": (),
    "sparse": ("model=sparse_encoder", "model.query_weights=idf"),
    "late interaction": LATE,
    "bm25": ("model=bm25",),
    "hybrid": ("model@hybrid=bm25",),
    "hybrid of late interaction": ("model@hybrid=late_interaction", "hybrid.name_or_path={bert}"),
    "rescored": ("model@rescore=cross_encoder", "rescore.name_or_path={reranker}", "rescore.max_length=64"),
    "rescored by an embedder": ("model@rescore=bi_encoder", "rescore.name_or_path={bert}", "rescore.max_length=64"),
}


@pytest.mark.parametrize("name", RETRIEVERS)
def test_every_query_gets_negatives_and_an_audit(name, mined, tiny_beir_dir, tiny_bert_dir, tiny_reranker_dir, capsys):
    more = [setting.format(reranker=tiny_reranker_dir, bert=tiny_bert_dir) for setting in RETRIEVERS[name]]
    path = mined("mined.jsonl", *more, "mine.scores=true")
    found = rows(path)
    assert len(found) == 24 - (name == "bm25")  # one query has no word of three documents
    corpus = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")}
    qrels = [line.split("\t") for line in (tiny_beir_dir / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    queries = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "queries.jsonl")}
    relevant = {queries[query]: (corpus[document], int(grade)) for query, document, grade in qrels}
    for row in found:
        text, grade = relevant[row["query"]]
        assert row["documents"][0] == text
        assert row["labels"] == [grade, 0, 0, 0]
        assert len(set(row["documents"])) == 4
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)
    audit = audit_of(path)
    filled = 3 * len(found)
    assert (audit["slots"], audit["filled"]) == (72, filled)
    assert audit["unfilled"] == ({"too few documents": 3} if name == "bm25" else {})
    assert audit["rescored_by"] == (more[1].partition("=")[2] if name.startswith("rescored") else None)
    assert len(audit["samples"]) == 20
    assert {"query_id", "document_id", "suspicion", "why"} <= audit["suspected"][0].keys()
    page = Path(f"{path}.audit.html").read_text()
    assert "To judge by eye" in page
    assert page.count("<figure>") == 2
    assert all(f">{name}</t" in page for name in ("positive", "negative", "difference"))
    out = capsys.readouterr().out
    assert f"{filled} negatives for 24 queries, {len(found)} rows (labelled_list)" in out
    assert f"slots filled: {filled} of 72 ({filled / 72:.1%}); {len(found)} queries have all" in out
    experiment = {"sparse": "splade_infonce", "late interaction": "colbert_infonce"}.get(name, "embedder_infonce")
    assert out.splitlines()[-1] == (
        f"train on it: python launch/train.py +exp={experiment} data=file data.path={path} (a step takes 1 negative of "
        "a query, drawn anew in each epoch; trainer.list_size=4: all 3)"
    )


def test_negatives_of_late_interaction_are_those_of_all_scores(mined, arguments, tiny_beir_dir):
    """By the similarity's `pairs` of vectors that the model computes alone, one text at a time."""
    written = mined("run.txt", *LATE, "mine.output=run", "mine.near_duplicate=null")
    model = load(arguments("x.jsonl", *LATE), "mine").model.build(42).eval()
    similarity = similarity_of(model)

    def vectors(text: str, role: str) -> Ragged:
        sequences = TokenSequences.from_encoding(model.tokenizer([text], role=role))
        with torch.no_grad():
            features = Collator(model.tokenizer.padding, 10**6).collate(sequences, [0])
            return similarity.comparable(model(**features)["embedding"])

    corpus = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in rows(tiny_beir_dir / "queries.jsonl")}
    documents = concatenate([vectors(text, "document") for text in corpus.values()])
    collection = load(arguments("x.jsonl"), "mine").data.build()
    split = collection.split("train")
    mined_run = read_run(written)
    assert len(mined_run) == 24
    for query, found in mined_run.items():
        scores = similarity.pairs(vectors(queries[query], "query")[0], documents)
        by_name = dict(zip(corpus, scores.tolist(), strict=True))
        relevant = {name for name, grade in split.judgements[query].items() if grade > 0}
        texts = {corpus[name] for name in relevant} | {queries[query]}
        allowed = [name for name in corpus if name not in relevant and corpus[name] not in texts]
        best = sorted(allowed, key=lambda name: -by_name[name])[:3]
        assert list(found) == best
        assert found == pytest.approx({name: by_name[name] for name in best}, abs=1e-5)


def test_margins_leave_slots_empty_and_say_why(mined, capsys):
    path = mined("mined.jsonl", "mine.percentage=0.99", "mine.range_max=6")
    audit = audit_of(path)
    assert audit["filled"] + sum(audit["unfilled"].values()) == audit["slots"] == 72
    assert audit["unfilled"]["percentage"] > 0
    assert audit["refused"]["percentage"] + audit["filled"] + audit["not_drawn"] == audit["window"]
    assert audit["scores"]["difference"]["min"] > 0
    assert audit["empty_queries"] == 24 - audit["rows"] > 0
    out = capsys.readouterr().out
    assert f"{audit['empty_queries']} queries have no negative and so no row" in out
    assert "above mine.percentage of the score of the lowest relevant document" in out
    for each in audit["suspected"]:
        assert not (each["negative"] and each["score"] >= each["positive_score"])


def _mined(settings: list[str]) -> float:
    return mine(load(settings, "mine"))


@pytest.mark.parametrize("name", ["dense", "late interaction", "hybrid", "rescored"])
def test_two_ranks_write_what_one_writes(name, arguments, mined, tmp_path, tiny_reranker_dir):
    more = [setting.format(reranker=tiny_reranker_dir) for setting in RETRIEVERS[name]]
    more += ["mine.scores=true", "mine.sampling=random", "mine.random_fraction=0.4"]
    path = mined("alone.jsonl", *more)
    two = [*arguments("two.jsonl", *more), f"data.cache_dir={tmp_path / 'other'}"]
    assert len(set(run_ranks(_mined, 2, two))) == 1
    assert (tmp_path / "two.jsonl").read_bytes() == path.read_bytes()
    first, second = (Path(f"{each}.audit.json").read_text() for each in (path, tmp_path / "two.jsonl"))
    assert first == second.replace("two.jsonl", "alone.jsonl")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(mined, monkeypatch, tmp_path, tiny_reranker_dir):
    more = [setting.format(reranker=tiny_reranker_dir) for setting in RETRIEVERS["rescored"]]
    for module in (mining, mine_run):
        monkeypatch.setattr(module, "GROUP", 8)
    whole = mined("whole.jsonl", *more, f"data.cache_dir={tmp_path / 'other'}").read_bytes()
    select, searched = mining.Miner._select, []

    def killed(self, place, *rest):
        if place == 17:
            raise KeyboardInterrupt
        return select(self, place, *rest)

    def search(self, queries, *rest, search=VectorSearcher.search):
        searched.append(queries.start)
        return search(self, queries, *rest)

    monkeypatch.setattr(VectorSearcher, "search", search)
    monkeypatch.setattr(mining.Miner, "_select", killed)
    with pytest.raises(KeyboardInterrupt):
        mined("killed.jsonl", *more)
    assert [path.name for path in tmp_path.glob("*killed*")] == []
    monkeypatch.setattr(mining.Miner, "_select", select)
    assert searched == [0, 8, 16]
    assert mined("killed.jsonl", *more).read_bytes() == whole
    assert searched == [0, 8, 16], "nothing is searched again"


def test_the_cache_of_another_model_is_not_used_and_one_line_says_so(mined, tiny_models, tmp_path, caplog):
    first = mined("first.jsonl", "mine.scores=true").read_bytes()
    other = tiny_models.write_tiny_bert(tmp_path / "other", seed=5)
    with caplog.at_level(logging.WARNING):
        second = mined("second.jsonl", "mine.scores=true", f"model.name_or_path={other}").read_bytes()
    assert second != first
    assert sum("another model (other weights): they are not used" in message for message in caplog.messages) == 2
    caplog.clear()
    mined("third.jsonl", "model.max_length=16")
    assert any("another maximum length" in message for message in caplog.messages)
    caplog.clear()
    assert mined("again.jsonl", "mine.scores=true").read_bytes() == first
    assert not any("not used" in message for message in caplog.messages)


def test_the_same_model_in_another_folder_uses_the_cache(mined, tiny_models, tiny_bert_dir, tmp_path, monkeypatch):
    import shutil

    from inference import vectors

    first = mined("first.jsonl").read_bytes()
    copy = shutil.copytree(tiny_bert_dir, tmp_path / "copy")

    def encode(*_):
        raise AssertionError("it is encoded again")

    monkeypatch.setattr(vectors, "_encode_missing", encode)
    assert mined("second.jsonl", f"model.name_or_path={copy}").read_bytes() == first


@pytest.mark.parametrize("changed", ["queries", "excluded"])
def test_results_for_other_queries_or_exclusions_are_not_used(changed, mined, tiny_beir_dir, tmp_path):
    """Texts of queries change under the same ids, or as many other documents are excluded: random ones are others."""
    data = shutil.copytree(tiny_beir_dir, tmp_path / "data")
    queries, never = data / "queries.jsonl", data / "never.tsv"
    documents = [row["_id"] for row in rows(data / "corpus.jsonl")]
    relevant = (data / "qrels" / "train.tsv").read_text()

    def exclude(half: int) -> None:
        own = [f"train{number}\t{name}" for number in range(24) for name in documents[half::2]]
        never.write_text("\n".join(["query-id\tcorpus-id", *(pair for pair in own if f"{pair}\t" not in relevant)]))

    exclude(0)
    search = ("model=bm25", f"data.path={data}", f"data.exclude={never}", "mine.random_fraction=0.7")
    mined("before.jsonl", *search)
    if changed == "excluded":
        exclude(1)
    else:
        texts = [row["text"] for row in rows(queries)]
        changed_rows = zip(rows(queries), [*texts[1:], texts[0]], strict=True)
        queries.write_text("".join(json.dumps({**row, "text": text}) + "\n" for row, text in changed_rows))
    found = mined("after.jsonl", *search)
    assert found.read_bytes() == mined("new.jsonl", *search, f"data.cache_dir={tmp_path / 'empty'}").read_bytes()


def test_another_corpus_gives_the_negatives(mined, tiny_beir_dir, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    texts = [row["text"] for row in rows(tiny_beir_dir / "corpus.jsonl")]
    documents = [{"_id": f"x{i}", "text": f"other {text}"} for i, text in enumerate(texts)]
    corpus.write_text("".join(json.dumps(document) + "\n" for document in documents))
    found = rows(mined("mined.jsonl", "model=bm25", f"mine.corpus_path={corpus}", "mine.min_score=0.01"))
    assert found
    assert any(text.startswith("other") for row in found for text in row["documents"][1:])


def test_a_run_is_trained_on_as_candidates(mined, tiny_beir_dir, tmp_path):
    path = mined("mined.jsonl", "mine.output=run", "mine.include_positives=true")
    assert len(read_run(path)) == 24
    settings = ["data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={tmp_path}", "data/candidates=run"]
    settings += [f"data.candidates.path={path}", "data.candidates.others=bm25"]
    collection = load(["+exp=reranker_bce", *settings]).data.build()
    assert [len(collection.splits[name].candidates) for name in ("train", "dev", "test")] == [24, 6, 6]
    assert all(collection.splits["test"].candidates.values())


def test_a_query_without_a_negative_needs_jsonl_and_each_side_says_so(mined, tiny_beir_dir, tmp_path, capsys):
    options = ("model=bm25", "mine.output=run")  # one query has no word of three documents
    trec = mined("mined.run", *options)
    assert len(read_run(trec)) == 23
    assert "training needs a list for every query: mine again with output=NAME.jsonl" in capsys.readouterr().out
    jsonl = mined("mined.jsonl", *options)
    assert len(read_run(jsonl)) == 24
    settings = ["+exp=reranker_bce", "data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={tmp_path}"]
    settings += ["data/candidates=run", "data.candidates.others=bm25"]
    with pytest.raises(ValueError, match=r"1 of the 24 train queries have none.*launch/mine.py .* output=NAME.jsonl"):
        load([*settings, f"data.candidates.path={trec}"]).data.build()
    collection = load([*settings, f"data.candidates.path={jsonl}"]).data.build()
    assert sorted(map(len, collection.splits["train"].candidates.values()))[0] == 0


def test_a_model_is_trained_on_the_file_as_it_is(mined, tiny_run, tmp_path):
    from recipes.training_run import train

    path = mined("mined.jsonl", "mine.output=triplet")
    kept = [s for s in tiny_run if not s.startswith(("data", "eval"))]
    data = ["data=file", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", "eval.dev_max_queries=2"]
    settings = load(["+exp=reranker_contrastive", *kept, *data, "trainer.max_steps=2", "run_name=mined"])
    train(settings)
    assert (tmp_path / "outputs" / "mined" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["model=cross_encoder"],
            "model: it gives score of pairs, by which no corpus can be searched: choose model=bi",
        ),
        (["model@hybrid=cross_encoder"], r"choose model@hybrid=bi_encoder or model@hybrid=bm25"),
        (["model@rescore=bm25"], "model@rescore=bm25 scores no pairs: choose model@rescore=cross_encoder"),
        (["split=test"], r"split=test is held out: .* set allow_held_out=true"),
        (["split=train2", "allow_held_out=true"], "has no train2 split"),
        (["output=gone/x.jsonl"], "output=gone/x.jsonl: the folder gone does not exist"),
        (["output=x.csv"], r"output=x.csv: labelled_list is written as JSON lines: call it NAME.jsonl"),
        (["mine.sampling=best"], "mine.sampling=best is not a choice"),
        (["mine.num_negatives=60"], "mine.num_negatives=60: the corpus has 60 documents"),
        (["mine.absolute_margin=1e6"], r"no query got a negative \(empty slots by reason: absolute_margin: 72\)"),
        (["model@rescore=cross_encoder", "rescore.name_or_path={bert}"], "head"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(more, message, mined, arguments, tmp_path, tiny_bert_dir):
    given = [setting.format(bert=tiny_bert_dir) if "{bert}" in setting else setting for setting in more]
    with pytest.raises((ValueError, OSError), match=message) as raised:
        mined("mined.jsonl", *given)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*mined*"))


def test_an_output_that_is_there_is_kept_unless_it_is_to_be_replaced(mined, tmp_path):
    (tmp_path / "mined.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="is there already: choose another name, or set overwrite=true"):
        mined("mined.jsonl")
    assert (tmp_path / "mined.jsonl").read_text() == "mine\n"
    assert len(rows(mined("mined.jsonl", "overwrite=true"))) == 24


def test_held_out_queries_are_mined_if_it_is_said(mined, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(rows(mined("mined.jsonl", "split=test", "allow_held_out=true"))) == 6
    assert any("split=test is held out: do not train on" in message for message in caplog.messages)


def test_the_memory_is_said_before(mined, caplog):
    with caplog.at_level(logging.WARNING):
        mined("mined.jsonl")
    said = [message for message in caplog.messages if "mining 24 queries over 60 documents by" in message]
    assert len(said) == 1
    assert "MiB a rank" in said[0]


def test_data_without_a_relevant_document_are_refused(tmp_path, arguments):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"query": f"q{i}", "document": f"d{i}", "label": 0}) + "\n" for i in range(30)))
    given = [s for s in arguments("mined.jsonl") if not s.startswith("data")]
    with pytest.raises(ValueError, match=r"relevant"):
        mine(load([*given, "data=file", f"data.path={path}", f"data.cache_dir={tmp_path}"], "mine"))
