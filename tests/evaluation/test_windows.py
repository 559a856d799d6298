"""Windows of long documents: they cover the text, fit the room, and give the scores of a search of all windows."""

from __future__ import annotations

import random

import pytest
import torch

from data.collection import Split
from evaluation.evaluator import Prompts
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.retrieval_evaluator import RetrievalConfig
from evaluation.windows import WindowCutter, WindowLists, best_of, later_windows, search_windows
from inference.encode import embed, tokenize_texts
from inference.runner import ModuleRunner
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig

WORDS = "red green blue apple pear train rank list query document python returns value".split()  # noqa: SIM905
LENGTH = 14


@pytest.fixture(scope="module")
def split_and_documents():
    rng = random.Random(0)
    documents = {f"d{i}": " ".join(rng.choices(WORDS, k=k)) for i, k in enumerate((3, 8, 40, 25, 60, 5, 31, 12))}
    queries = {f"q{i}": " ".join(rng.choices(WORDS, k=3)) for i in range(4)}
    qrels = {query: {f"d{i}": 1} for i, query in enumerate(queries)}
    candidates = {query: [(name, 1.0 - i / 10) for i, name in enumerate(documents)] for query in queries}
    return Split(queries, qrels, candidates), documents


class Letters:
    """A tokenizer that gives a token for every letter."""

    def count_tokens(self, texts):
        return [(len(text.replace(" ", "")), 0) for text in texts]


def test_windows_cover_the_text_fit_the_room_and_overlap():
    text = " ".join(f"w{i:02}" for i in range(50))  # 3 tokens each
    windows = WindowCutter(Letters()).later_windows(text, 30)
    assert windows[0].split()[0] == "w09"  # the first window holds 10 words, a tenth of it is repeated
    assert all(len(window.replace(" ", "")) <= 30 for window in windows)
    assert [word for window in windows for word in window.split()][-1] == "w49"
    starts = [window.split()[0] for window in windows]
    ends = ["w09", *(window.split()[-1] for window in windows)]
    assert starts == ends[:-1], "each begins with the last word of the one before"


def test_short_texts_have_no_later_window_and_long_words_stand_alone():
    cutter = WindowCutter(Letters())
    assert cutter.later_windows("a b c", 30) == []
    assert cutter.later_windows("", 30) == []
    assert cutter.later_windows("x " + "y" * 50 + " z", 10) == ["y" * 50, "z"]


def test_scripts_without_spaces_are_cut_at_letters():
    windows = WindowCutter(Letters()).later_windows("北京是中国的首都人口很多历史悠久", 5)
    assert windows == ["的首都人口", "很多历史悠", "久"]


def test_an_embedders_windows_are_those_of_a_search_of_all_windows(split_and_documents, tiny_bert_dir):
    split, documents = split_and_documents
    model = BiEncoderConfig(str(tiny_bert_dir), max_length=LENGTH).build(0).eval()
    runner = ModuleRunner(model, torch.device("cpu"))
    config = RetrievalConfig(metrics=["nDCG@3"], metric="nDCG@3", depth=4)
    evaluator = config.build(split, documents, model.tokenizer, prompts=Prompts())
    whole = evaluator.evaluate(runner).run
    windows = later_windows(evaluator)
    assert set(windows) == {name for name, text in documents.items() if len(text.split()) > LENGTH - 2}
    run = best_of(whole, search_windows(evaluator, runner, windows), config.depth, {})
    everything = {name: [text, *windows.get(name, [])] for name, text in documents.items()}
    for query, text in split.queries.items():
        vector = embed(runner, tokenize_texts(model.tokenizer, [text], "query", [None]), model.tokenizer, 4096)
        scores = {}
        for name, texts in everything.items():
            sequences = tokenize_texts(model.tokenizer, texts, "document", [None] * len(texts))
            scores[name] = float((embed(runner, sequences, model.tokenizer, 4096) @ vector[0]).max())
        best = sorted(scores, key=lambda name: -scores[name])[: config.depth]
        assert list(run[query]) == best
        assert run[query] == pytest.approx({name: scores[name] for name in best}, abs=1e-5)


def test_a_rerankers_windows_raise_the_scores_of_documents_that_it_cuts(split_and_documents, tiny_reranker_dir):
    split, documents = split_and_documents
    model = CrossEncoderConfig(str(tiny_reranker_dir), max_length=LENGTH + 10).build(0).eval()
    runner = ModuleRunner(model, torch.device("cpu"))
    config = RerankingConfig(metrics=["nDCG@3"], metric="nDCG@3", depth=8)
    evaluator = config.build(split, documents, model.tokenizer, prompts=Prompts())
    whole = evaluator.evaluate(runner).run
    windows = WindowLists(evaluator)
    found = windows.best_windows(runner, 4096)
    assert {name for own in found.values() for name in own} == {"d2", "d3", "d4", "d6"}
    lengths = [
        len(row)
        for row in model.tokenizer([split.queries["q0"]] * 3, list(windows.documents.values())[:3])["input_ids"]
    ]
    assert max(lengths) <= LENGTH + 10
    run = best_of(whole, found, config.depth, {})
    for query, scores in run.items():
        for name, score in scores.items():
            assert score == max(whole[query][name], found[query].get(name, score))
    assert run != whole


def test_nothing_is_scored_if_nothing_is_cut(split_and_documents, tiny_reranker_dir):
    split, documents = split_and_documents
    short = {name: text[:10] for name, text in documents.items()}
    model = CrossEncoderConfig(str(tiny_reranker_dir), max_length=64).build(0).eval()
    evaluator = RerankingConfig(depth=8).build(split, short, model.tokenizer)
    windows = WindowLists(evaluator)
    assert windows.best_windows(ModuleRunner(model, torch.device("cpu")), 4096) == {}


def test_the_documents_that_are_the_query_itself_are_left_out():
    joined = best_of({"q": {"a": 1.0}}, {"q": {"own": 3.0, "a": 2.0, "b": 0.5}}, 2, {"q": {"own"}})
    assert joined == {"q": {"a": 2.0, "b": 0.5}}
