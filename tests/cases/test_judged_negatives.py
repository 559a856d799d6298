"""A document that is judged relevant for a query or excluded for it is no negative, even if its list lacks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from loss_samples import computed, configured, load_loss, target
from torch import Tensor

from data.batch import ListBatch
from data.collection import Collection, Split
from data.sampling.list_options import ListOptions
from data.sampling.mixture import make_loader
from data.sampling.never_negatives import NeverNegatives, text_key
from data.sampling.training_lists import TrainingLists
from losses.contracts import MatrixLoss, has_in_batch_negatives
from trainers.loss_inputs import make_loss_inputs

NUM_QUERIES, BATCH = 24, 8


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[1]] * (len(documents) + 1)}


def collection() -> Collection:
    """Each document is relevant for three queries; a query excludes another's; its own text is also a document."""
    documents = {f"d{i}": f"Text number {i}" for i in range(NUM_QUERIES)}
    documents |= {f"own{i}": f"Query  {i}" for i in range(NUM_QUERIES)}
    documents |= {f"n{i}": f"other {i}" for i in range(60)}
    documents |= {"copy0": "text NUMBER 0", "copy1": "Text number 1"}
    queries = {f"q{i}": f"query {i}" for i in range(NUM_QUERIES)}
    qrels = {f"q{i}": {f"d{(i + step) % NUM_QUERIES}": 1 for step in (0, 5, 9)} for i in range(NUM_QUERIES)}
    excluded = {f"q{i}": {f"d{(i + 2) % NUM_QUERIES}"} for i in range(NUM_QUERIES)}
    ranked = [(name, 1.0) for name in documents]
    split = Split(queries, qrels, dict.fromkeys(queries, ranked))
    return Collection("tiny", documents, {"train": split}, "hash", excluded, lists=ListOptions(hard_depth=200))


def batches(data: Collection, ranks: int, number: int = 3) -> list[ListBatch]:
    """The whole batches, put together from the shares of all ranks."""
    loaders = [
        make_loader(
            data,
            Tokenizer(),
            list_size=2,
            batch_size=BATCH,
            seed=0,
            rank=rank,
            world_size=ranks,
            workers=0,
            in_batch_negatives=True,
        )
        for rank in range(ranks)
    ]
    shares = [loader.iterate(0) for loader in loaders]
    read = [[next(share) for share in shares] for _ in range(number)]
    return [ListBatch(i, [parts[k % ranks][k // ranks] for k in range(BATCH)]) for i, parts in enumerate(read)]


def used(loss: object, batch: ListBatch, *, known: bool = True) -> Tensor:
    """[queries, documents] bool: the loss has a gradient for the similarity.

    Texts are one-hot vectors: the gradient of a document at the place of a query is that of their similarity.
    """
    queries, size = len(batch.examples), int(batch.mask.sum())
    eye = torch.eye(queries + size)
    documents = batch.to_lists(eye[queries:])
    rows = [torch.cat([eye[i : i + 1], documents[i][batch.mask[i]]]) for i in range(queries)]
    layers = torch.cat(rows).unsqueeze(1)
    outputs = {"embedding": torch.cat(rows), "layers": layers, "scale": torch.tensor([20.0]), "bias": torch.zeros(1)}
    inputs = make_loss_inputs(outputs, batch)
    inputs = replace(inputs, guide_queries=inputs.queries, guide_documents=inputs.documents, step=1)
    inputs = inputs if known else replace(inputs, never_negatives=None)
    leaf = inputs.documents.clone().requires_grad_()
    gradient = torch.autograd.grad(computed(loss, replace(inputs, documents=leaf))[0], leaf)[0]
    return gradient[inputs.mask][:, :queries].T != 0


def judged(batch: ListBatch, data: Collection) -> Tensor:
    """[queries, documents] bool: a document of another list that is never a negative of the query, by the ids."""
    rows = []
    for i, example in enumerate(batch.examples):
        number = example.query_id.removeprefix("q")
        never = set(data.splits["train"].qrels[example.query_id]) | data.excluded[example.query_id]
        never |= {f"own{number}"} | {f"copy{d[1:]}" for d in never}
        rows.append([i != k and d in never for k, other in enumerate(batch.examples) for d in other.document_ids])
    return torch.tensor(rows)


EMBEDDING_LOSSES = [name for name in configured() if target(name).contract != "list"]
IN_BATCH = [name for name in EMBEDDING_LOSSES if has_in_batch_negatives(load_loss(name))]


def test_these_losses_have_in_batch_negatives():
    assert {"info_nce", "gte", "qwen3", "gist", "siglip", "matryoshka", "matryoshka_2d"} <= set(IN_BATCH)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", [*IN_BATCH, "triplet"])
def test_no_judged_or_excluded_document_is_a_negative(name: str, ranks: int):
    loss, data = load_loss(name), collection()
    loss = replace(loss, in_batch="all") if name == "triplet" else loss
    before = 0
    for batch in batches(data, ranks):
        pairs = judged(batch, data)
        found = used(loss, batch)
        before += int((used(loss, batch, known=False) & pairs).sum())
        assert pairs.any()
        assert not (found & pairs).any()
        own = torch.arange(BATCH).repeat_interleave(batch.sizes) == torch.arange(BATCH)[:, None]
        assert isinstance(loss, MatrixLoss) is False or found[~pairs & ~own].all(), "all others are negatives"
    assert before > 0, "without the judgements some were"


def test_ranks_and_lists_do_not_change_what_is_known():
    alone, split = batches(collection(), 1), batches(collection(), 2)
    for one, two in zip(alone, split, strict=True):
        assert torch.equal(one.never_negatives, two.never_negatives)
        assert {int(key) for key in one.never_negatives[:, 1]} <= {int(key) for key in one.document_hashes.flatten()}


DOCUMENTS = {f"d{i}": f"text {i}" for i in range(8)}


def source(queries: Mapping[str, str], qrels: dict, excluded: dict | None = None, **options: object) -> Collection:
    split = Split(dict(queries), qrels, {query: [(d, 1.0) for d in DOCUMENTS] for query in queries}, **options)
    return Collection("tiny", DOCUMENTS, {"train": split}, "hash", excluded or {})


def never(query_id: str, *sources: Collection) -> set[str]:
    """The documents that are never negatives of a query of the first source."""
    keys = NeverNegatives({str(i): each for i, each in enumerate(sources)}).of("0", query_id)
    return {document for document, text in DOCUMENTS.items() if text_key(text) in keys}


def test_queries_of_equal_text_share_their_judgements_but_keep_their_own():
    texts = {"a": "Same  question", "b": "same question", "c": "SAME question", "d": "Text  7"}
    qrels = {"a": {"d0": 1, "d1": 0}, "b": {"d1": 1, "d2": 1}, "c": {"d3": 1}, "d": {"d4": 1}}
    data = source(texts, qrels, {"c": {"d5"}})
    assert never("a", data) == {"d0", "d2", "d3", "d5"}, "d1 is judged not relevant for it, as in preferences"
    assert never("b", data) == never("c", data) == {"d0", "d1", "d2", "d3", "d5"}
    assert never("d", data) == {"d4", "d7"}, "its own text"


def test_sources_of_a_mixture_share_the_judgements_of_equal_queries():
    one = source({"a": "a question", "b": "another"}, {"a": {"d0": 1}, "b": {"d1": 1}})
    two = source({"a": "Another", "z": "A question"}, {"a": {"d5": 1}, "z": {"d3": 2}}, {"z": {"d6"}})
    assert never("a", one) == {"d0"}
    assert never("a", one, two) == {"d0", "d3", "d6"}
    assert never("b", one, two) == {"d1", "d5"}


def test_labels_of_a_file_are_judgements():
    data = source({"a": "a question"}, {"a": {"d5": 1}}, labels={"a": {"d0": 0.5, "d1": 1.0, "d2": 0.0}})
    assert never("a", data) == {"d0", "d1"}


@pytest.mark.parametrize("random_fraction", [0.0, 0.5, 1.0])
def test_no_negative_of_the_own_list_has_the_text_of_the_query_or_of_a_relevant_document(random_fraction: float):
    data = collection()
    options = ListOptions(hard_depth=200, random_fraction=random_fraction)
    lists = TrainingLists(data, Tokenizer(), list_size=60, seed=0, options=options)
    for query_id in lists.query_ids:
        drawn = set(lists.sample(0, query_id)) - set(lists.relevant(query_id))
        barred = set(lists.relevant(query_id)) | data.excluded[query_id] | {f"own{query_id.removeprefix('q')}"}
        assert not drawn & (barred | {f"copy{d[1:]}" for d in barred})
        assert len(drawn) == 59
