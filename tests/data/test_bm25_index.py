from pathlib import Path

import bm25s
import numpy as np
import pytest

from data import bm25_index as module
from data.bm25 import bm25_top
from data.bm25_index import open_index, write_index
from data.words import TextAnalyzer

ANALYZER = TextAnalyzer("english", "auto")
RNG = np.random.default_rng(3)
WORDS = [f"word{i}" for i in range(60)]
DOCUMENTS = ["", *(" ".join(RNG.choice(WORDS, size=RNG.integers(0, 30))) for _ in range(200)), "wing wing wing"]
QUERIES = [" ".join(RNG.choice([*WORDS, "unknown"], size=6)) for _ in range(20)] + ["wing wing"]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0.0, 1.0)])
def test_scores_are_those_of_bm25s_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, k1: float, b: float
):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    write_index(tmp_path / "index", DOCUMENTS, analyzer=ANALYZER, k1=k1, b=b)
    index = open_index(tmp_path / "index")
    expected = bm25s.BM25(method="lucene", k1=k1, b=b)
    expected.index(ANALYZER.documents(DOCUMENTS), show_progress=False)
    for words in ANALYZER.queries(QUERIES):
        np.testing.assert_array_equal(index.get_scores(words), expected.get_scores(words))


def test_a_corpus_without_words_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none of the 2 documents has a word to index"):
        write_index(tmp_path / "index", ["", "the"], analyzer=ANALYZER, k1=0.9, b=0.4)


def test_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "AT_ONCE", 50)
    options = {"depth": 7, "k1": 0.9, "b": 0.4, "analyzer": ANALYZER, "left_out": {3: [5, 2]}}
    alone = bm25_top(DOCUMENTS, QUERIES, **options)
    together = bm25_top(DOCUMENTS, QUERIES, **options, folder=tmp_path / "index")
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
