"""What a ranker costs to run: documents per second, the time of a query, memory, and the bytes of its index.

Figures belong to one machine, in the state it was in: compare them only with others of the same device, threads and
type of numbers, which every `Cost` names. A query is measured alone, as a person waits for it: a server that answers
several at once answers more of them per second. Nothing is measured of loading, of reading texts from disk, or of a
network.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.bm25 import BM25, Asked, searcher
from data.bm25_index import write_index
from data.collate import Collator
from data.progress import show_progress
from data.words import analyzer_for
from engines.distributed.collectives import on_main
from engines.memory.peak import PeakMemory, watch_memory
from engines.precision import precision_name
from evaluation.evaluator import Prompts
from inference.encode import tokenize_part
from inference.runner import Runner, row_collator, similarity_of
from inference.score import run_chunks
from inference.search import index_for, pack, unpack
from inference.shared_prefix import list_collator
from inference.stored_form import StoredForm
from inference.vector_search import block_size
from tensors.ragged import Rows, concatenate, elements

DOCUMENTS, QUERIES = 512, 100  # sampled for the measurement
WARM_UP_DOCUMENTS, WARM_UP = 32, 5  # documents and queries before the clock starts
ON_GPU = "torch's tensors on the device at the peak, the weights among them"
ON_CPU = "the weights, and the rise of the process's resident memory above its start"
OF_BM25 = "the rise of the process's resident memory above its start, while the index was made and searched"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one ranker costs on one machine.

    documents_per_s: documents encoded in batches; of a reranker, documents scored with a query; of BM25, documents
    indexed. query_ms_p50 and query_ms_p95: milliseconds of one query from its text to its ranking, one query at a
    time: tokenised, embedded and compared with the whole index, or scored with all of its candidates.
    peak_memory_bytes: what `memory` says. index_bytes: by stored form ("fp32", "dim128/int8"; of BM25 "terms"), or by
    the name of an index that counts what it holds ("inverted"); empty for a reranker.
    """

    documents_per_s: float
    query_ms_p50: float
    query_ms_p95: float
    peak_memory_bytes: int
    memory: str  # what peak_memory_bytes counts
    index_bytes: dict[str, int]
    index_documents: int  # documents of the index; 0 for a reranker
    sampled_documents: int
    sampled_queries: int
    documents_per_query: int  # returned, or scored
    device: str
    threads: int  # of torch on the CPU
    dtype: str  # of the arithmetic: float32, bf16 (autocast of float32 weights), ...


def measure_embedder(
    runner: Runner,
    tokenizer: Any,
    documents: Sequence[str],
    queries: Sequence[str],
    *,
    prompts: Prompts | None = None,
    forms: Sequence[StoredForm] = (StoredForm(),),
    depth: int = 100,
    token_budget: int = 16384,
    search: str = "exact",
    index_documents: int | None = None,
) -> Cost:
    """Measure an embedding model on a sample of these texts. Call it on all ranks: rank 0 measures, the others wait.

    The index has `index_documents` vectors (None: one for each document). It is searched by a float32 query for its
    `depth` best. It holds random vectors, of which one block is searched again and again: that takes as long as the
    real ones, without their memory, which index_bytes tells. Raises ValueError if there is no document or no query.
    """
    _check(documents, queries)
    read = prompts or Prompts()
    texts, asked = sample(documents, DOCUMENTS), sample(queries, QUERIES)
    size = len(documents) if index_documents is None else index_documents

    def embed(texts: Sequence[str], role: str, prompt: str | None) -> Any:
        return similarity.comparable(_represent(runner, tokenizer, texts, role, prompt, token_budget))

    similarity = similarity_of(runner.model)

    def measure() -> Cost:
        with watch_memory(runner.device) as memory:
            embed(texts[:WARM_UP_DOCUMENTS], "document", read.document)
            start = time.perf_counter()
            encoded = embed(texts, "document", read.document)
            encoded.cpu()
            seconds = time.perf_counter() - start
            nearest = _search(search, similarity, encoded, size, depth, runner.device)
            times = _times(asked, lambda query: nearest(embed([query], "query", read.query)).tolist())
        own = index_for(search, similarity)(similarity, encoded).facts().get("bytes")
        stored = {form.name: form.num_bytes(encoded) for form in forms} if own is None else {search: own}
        index_bytes = {name: number * size // len(texts) for name, number in stored.items()}
        counts = {"index_documents": size, "sampled_documents": len(texts), "documents_per_query": min(depth, size)}
        return _cost(runner, memory, len(texts) / seconds, times, index_bytes=index_bytes, **counts)

    return on_main(measure)


def measure_reranker(
    runner: Runner,
    tokenizer: Any,
    lists: Sequence[tuple[str, Sequence[str]]],
    *,
    prompts: Prompts | None = None,
    token_budget: int = 16384,
) -> Cost:
    """Measure a reranker, or an embedding model that orders candidates, on queries with their candidates. Call it on
    all ranks: rank 0 measures, the others wait. Raises ValueError if no query has a candidate."""
    read = prompts or Prompts()
    asked = sample([(query, list(documents)) for query, documents in lists if documents], QUERIES)
    if not asked:
        raise ValueError("the cost of a reranker needs a query that has a candidate")
    as_texts = tokenizer.layout == "texts"

    def score(item: tuple[str, list[str]]) -> list[float]:
        query, documents = item
        if as_texts:
            similarity = similarity_of(runner.model)
            one = similarity.comparable(_represent(runner, tokenizer, [query], "query", read.query, token_budget))
            of = similarity.comparable(
                _represent(runner, tokenizer, documents, "document", read.document, token_budget)
            )
            return [float(value) for value in similarity.pairs(one[0], of).tolist()]
        given = {"query_prompt": read.query, "document_prompt": read.document}
        options = {name: prompt for name, prompt in given.items() if prompt is not None}
        pairs = TokenSequences.from_encoding(tokenizer([query] * len(documents), documents, **options))
        collator = list_collator(runner.model, tokenizer.padding, token_budget).of_lists(pairs, [len(documents)])
        return [float(value) for value in _run(runner, pairs, collator, "score").tolist()]

    def measure() -> Cost:
        with watch_memory(runner.device) as memory:
            times = _times(asked, score)
        scored = sum(len(documents) for _, documents in asked)
        longest = max(len(documents) for _, documents in asked)
        counts = {"index_documents": 0, "sampled_documents": scored, "documents_per_query": longest}
        return _cost(runner, memory, scored / sum(times), times, index_bytes={}, **counts)

    return on_main(measure)


def measure_retriever(retriever: BM25, documents: Sequence[str], queries: Sequence[str], *, depth: int = 100) -> Cost:
    """Measure BM25: the index of all documents is made once, and searched. Call it on all ranks: rank 0 measures, the
    others wait. Raises ValueError if there is no document, no query, or no word to index."""
    _check(documents, queries)
    asked = sample(queries, QUERIES)

    def measure() -> Cost:
        with TemporaryDirectory() as temporary, watch_memory(torch.device("cpu")) as memory:
            folder = Path(temporary) / "index"
            start = time.perf_counter()
            analyzer = analyzer_for(documents, retriever.language, retriever.tokenizer, "model")
            write_index(folder, documents, analyzer=analyzer, k1=retriever.k1, b=retriever.b)
            seconds = time.perf_counter() - start
            size = sum(file.stat().st_size for file in folder.iterdir())
            find = searcher(folder, depth)
            times = _times(asked, lambda query: find([Asked(analyzer.queries([query])[0])]))
        return Cost(
            documents_per_s=len(documents) / seconds,
            query_ms_p50=_percentile(times, 0.5),
            query_ms_p95=_percentile(times, 0.95),
            peak_memory_bytes=memory.rise,
            memory=OF_BM25,
            index_bytes={"terms": size},
            index_documents=len(documents),
            sampled_documents=len(documents),
            sampled_queries=len(asked),
            documents_per_query=min(depth, len(documents)),
            device=_name(torch.device("cpu")),
            threads=1,
            dtype="float32",
        )

    return on_main(measure)


def sample(items: Sequence[Any], size: int) -> list[Any]:
    """Choose at most `size` of the items, evenly spread over them and in their order."""
    number = min(size, len(items))
    return [items[place * len(items) // number] for place in range(number)]


def _check(documents: Sequence[str], queries: Sequence[str]) -> None:
    if not len(documents) or not len(queries):
        raise ValueError(f"the cost of a retriever needs documents and queries, got {len(documents)}, {len(queries)}")


def _represent(
    runner: Runner, tokenizer: Any, texts: Sequence[str], role: str, prompt: str | None, token_budget: int
) -> Any:
    """The embeddings [texts, dim] of texts on this rank alone, tokenised as an encoding does it."""
    sequences = TokenSequences.from_encoding(tokenize_part(tokenizer, texts, role, [prompt] * len(texts)))
    return _run(runner, sequences, row_collator(runner.model, tokenizer.padding, token_budget), "embedding")


def _run(runner: Runner, sequences: TokenSequences, collator: Collator, name: str) -> Any:
    """One representation of each sequence, in the order of the chunks, on this rank alone."""
    chunks = collator.plan(sequences.lengths.tolist())
    return concatenate([output[name] for output in run_chunks(runner, sequences, collator, chunks, [name])])


def _search(
    search: str, similarity: Any, encoded: Rows, size: int, depth: int, device: torch.device
) -> Callable[[Any], Tensor]:
    """A search of `size` random documents, of as many elements as those that were `encoded`, block by block: one query
    [1, dim] -> the numbers of its best documents."""
    kind = index_for(search, similarity)
    values = elements(encoded)  # an index that counts what it holds keeps no zeros
    block = block_size(int(values.count_nonzero() if kind.counts else values.numel()) // len(encoded))
    vectors = kind.random(similarity, encoded, min(block, size))
    lengths = [min(block, size - start) for start in range(0, size, block)]
    indexes = {length: kind(similarity, vectors[:length]) for length in set(lengths)}

    def nearest(query: Any) -> Tensor:
        best = torch.empty(1, 0, dtype=torch.int64, device=device)
        for number, length in enumerate(lengths):
            scores, indices = indexes[length].nearest(query, depth)
            start = number * block
            keys = torch.cat([best, pack(scores, indices + start)], dim=1)
            best = keys.topk(min(depth, keys.shape[1]), dim=1).values
        return unpack(best)[1]

    return nearest


def _times(items: Sequence[Any], answer: Callable[[Any], Any]) -> list[float]:
    """The seconds of each answer. An answer is Python numbers, so that a GPU has finished."""
    for item in items[:WARM_UP]:
        answer(item)
    found = []
    for item in show_progress(items, "timing queries", len(items), "queries"):
        start = time.perf_counter()
        answer(item)
        found.append(time.perf_counter() - start)
    return found


def _percentile(times: Sequence[float], share: float) -> float:
    """The time in milliseconds that a share of the queries does not exceed."""
    return float(np.quantile(np.array(times) * 1000, share))


def _cost(
    runner: Runner,
    memory: PeakMemory,
    documents_per_s: float,
    times: Sequence[float],
    *,
    index_bytes: Mapping[str, int],
    **counts: int,
) -> Cost:
    device, weights = runner.device, _weights(runner.model)
    on_gpu = device.type == "cuda"
    first = next(iter(runner.model.parameters()), torch.empty(0))
    autocast = getattr(runner, "autocast", None)
    dtype = precision_name(autocast) if autocast is not None else str(first.dtype).removeprefix("torch.")
    return Cost(
        documents_per_s=documents_per_s,
        query_ms_p50=_percentile(times, 0.5),
        query_ms_p95=_percentile(times, 0.95),
        peak_memory_bytes=memory.peak if on_gpu else weights + memory.rise,
        memory=ON_GPU if on_gpu else ON_CPU,
        index_bytes=dict(index_bytes),
        sampled_queries=len(times),
        device=_name(device),
        threads=torch.get_num_threads(),
        dtype=dtype,
        **counts,
    )


def _weights(model: torch.nn.Module) -> int:
    """The bytes of the parameters and buffers."""
    return sum(part.numel() * part.element_size() for part in (*model.parameters(), *model.buffers()))


def _name(device: torch.device) -> str:
    """The device in words: the GPU's name, or "cpu" with its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
