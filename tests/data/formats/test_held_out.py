"""Which queries are held out."""

import random

import numpy as np
import pytest

from data.collection import normalised
from data.formats.grouping import QueryGroup
from data.formats.held_out import evaluated_queries, hold_out
from data.hashing import stable_hash


def group(query: str, labels: dict[str, float]) -> QueryGroup:
    return QueryGroup(query, None, "pairs", labels, dict.fromkeys(labels, np.nan), weights=[1.0])


def mirrored_roots(lists: dict[str, QueryGroup], documents: dict[str, str]) -> dict[str, str]:
    """The first text of all that are connected by pairs in both directions, found by going through all pairs."""
    texts = {query: normalised(entry.query) for query, entry in lists.items()}
    pairs = {(texts[query], normalised(documents[d])) for query, entry in lists.items() for d in entry.labels}
    roots = {text: text for text in texts.values()}
    for _ in roots:
        for query, document in pairs:
            if document in roots and (document, query) in pairs:
                roots[query] = roots[document] = min(roots[query], roots[document])
    return {query: roots[text] for query, text in texts.items()}


@pytest.mark.parametrize("seed", range(5))
def test_queries_of_one_text_or_mirrored_stay_together(seed: int):
    rng = random.Random(seed)
    words = [f"text {i}" for i in range(40)]
    documents = {f"d{i}": word for i, word in enumerate(words)}
    lists = {
        f"q{i}": group(rng.choice(words).upper(), {f"d{rng.randrange(40)}": rng.choice([0.5, 2.0, 4.0])})
        for i in range(150)
    }
    roots = mirrored_roots(lists, documents)
    assert len(set(roots.values())) < len({normalised(entry.query) for entry in lists.values()})
    held_out = hold_out(lists, documents, {"test": 0.2, "dev": 0.1}, 6, degrees=True)
    ordered = sorted(set(roots.values()), key=lambda text: stable_hash("held out", text))
    expected = {"test": ordered[:6], "dev": ordered[6 : 6 + min(6, round(0.1 * len(ordered)))]}
    for split, texts in expected.items():
        assert held_out[split] == [query for text in texts for query in lists if roots[query] == text]


def test_a_correlation_gets_a_second_label():
    lists = {f"q{i}": group(f"query {i}", {"d": 1.0}) for i in range(30)}
    last = max(lists, key=lambda query: stable_hash("held out", normalised(lists[query].query)))
    lists[last].labels["d"] = 0.5
    held_out = hold_out(lists, {"d": "a text"}, {"test": 0.1}, 5, degrees=True)
    assert last in held_out["test"]
    assert len(held_out["test"]) == 3


def test_pairs_without_a_relevant_document_are_held_out_in_proportion():
    lists = {f"q{i}": group(f"query {i}", {"d": float(i % 3 == 0)}) for i in range(90)}
    ranked, beside = evaluated_queries(lists)
    assert (len(ranked), len(beside)) == (30, 60)
    held_out = hold_out(lists, {"d": "a text"}, {"test": 0.2, "dev": 0.1}, 100)
    counts = {
        split: [sum(query in part for query in ids) for part in (ranked, beside)] for split, ids in held_out.items()
    }
    assert counts == {"test": [6, 12], "dev": [3, 6]}


def test_too_few_queries_are_not_held_out():
    lists = {f"q{i}": group(f"query {i}", {"d": 1.0}) for i in range(2)}
    assert hold_out(lists, {"d": "a text"}, {"test": 0.5, "dev": 0.5}, 10) == {}
    assert hold_out({}, {}, {"test": 0.5}, 10) == {}
