"""Long documents in windows: the parts that a model cuts off are read too, and a document's score is its best window's.

The first window of a document is the document itself, as far as the model reads it. So only the windows behind it are
scored here, and `best_of` joins them with the ranking of whole documents. The result is that of a search of all
windows: a document that is not among the best `depth` by its first window gets there by another one only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data.documents.chunks import SPACED_WORD
from data.inspection.unspaced import WORD, is_unspaced
from data.progress import show_progress
from evaluation.evaluator import most_own_documents
from evaluation.list_scorer import ListScorer
from evaluation.metrics import Run
from evaluation.reranking_evaluator import RerankingEvaluator
from evaluation.retrieval_evaluator import RetrievalEvaluator
from inference.encode import embed, tokenize_part, tokenize_texts
from inference.runner import Runner, similarity_of

OVERLAP = 0.1  # share of a window that repeats the end of the one before
LEAST_ROOM = 4  # a window has this part of a row at least, beside a query that fills it
WINDOWS_AT_ONCE = 2048
SEPARATOR = "\x1f"  # between the id of a document, the room of a window and its number


@dataclass
class WindowCutter:
    """Cuts texts at words into windows. In scripts without spaces a letter is a word. The tokens of a window are the
    sum of those of its words, which for some tokenizers is a little more than they have together."""

    tokenizer: Any
    _tokens: dict[str, int] = field(default_factory=dict)  # of words

    def later_windows(self, text: str, room: int) -> list[str]:
        """The windows of a text behind the first one, each of at most `room` tokens (a longer word stands alone)."""
        found = list((WORD if is_unspaced(text) else SPACED_WORD).finditer(text))
        sizes = self._sizes([match.group() for match in found])
        windows, start = [], 0
        while (end := _end(sizes, start, room)) < len(sizes):
            start = max(start + 1, _start(sizes, end, int(room * OVERLAP)))
            stop = _end(sizes, start, room)
            windows.append(text[found[start].start() : found[stop - 1].end()])
        return windows

    def _sizes(self, words: Sequence[str]) -> list[int]:
        new = [word for word in dict.fromkeys(words) if word not in self._tokens]
        if new:
            self._tokens |= dict(zip(new, (count for count, _ in self.tokenizer.count_tokens(new)), strict=True))
        return [self._tokens[word] for word in words]


def _end(sizes: Sequence[int], start: int, room: int) -> int:
    """The place behind the last word of the window that begins at `start`; it has one word at least."""
    total, end = 0, start
    while end < len(sizes) and (end == start or total + sizes[end] <= room):
        total += sizes[end]
        end += 1
    return end


def _start(sizes: Sequence[int], end: int, overlap: int) -> int:
    """The place where the window after `end` begins: words before it of at most `overlap` tokens are repeated."""
    total, start = 0, end
    while start > 0 and total + sizes[start - 1] <= overlap:
        start -= 1
        total += sizes[start]
    return start


def later_windows(evaluator: RetrievalEvaluator) -> dict[str, list[str]]:
    """The windows behind the first one of every document that the model cuts."""
    tokenizer, prompt = evaluator.tokenizer, evaluator.document_prompt
    row = tokenize_part(tokenizer, ["a"], "document", [prompt])["input_ids"][0]
    room = max(tokenizer.limit_of("document")[1] - len(row) + tokenizer.count_tokens(["a"])[0][0], 1)
    cutter, found = WindowCutter(tokenizer), {}
    for name, text in _cut_documents(evaluator):
        if windows := cutter.later_windows(text, room):
            found[name] = windows
    return found


def _cut_documents(evaluator: RetrievalEvaluator) -> Iterator[tuple[str, str]]:
    documents = iter(evaluator.documents.items())
    for block in evaluator.document_sequences:
        lost = block.truncated
        for row in range(len(block)):
            document = next(documents)
            if lost is not None and lost[row].any():
                yield document


def search_windows(evaluator: RetrievalEvaluator, runner: Runner, windows: Mapping[str, Sequence[str]]) -> Run:
    """The documents of `windows` with the highest scores of a window, for every query. Call it on all ranks."""
    similarity, tokenizer, config = similarity_of(runner.model), evaluator.tokenizer, evaluator.config
    queries = similarity.comparable(embed(runner, evaluator.query_sequences, tokenizer, config.token_budget))
    depth = config.depth + most_own_documents(evaluator.own_documents, evaluator.queries)
    names = list(windows)
    scores, places = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    blocks = list(_blocks([len(windows[name]) for name in names]))
    for block in show_progress(blocks, "searching windows", len(blocks), "blocks"):
        texts = [text for place in block for text in windows[names[place]]]
        owner = torch.tensor([place - block.start for place in block for _ in windows[names[place]]])
        sequences = tokenize_texts(tokenizer, texts, "document", [evaluator.document_prompt] * len(texts))
        vectors = similarity.comparable(embed(runner, sequences, tokenizer, config.token_budget))
        found = similarity.matrix(queries, vectors).cpu()
        best = found.new_full((len(queries), len(block)), -torch.inf)
        best.scatter_reduce_(1, owner.expand(len(queries), -1), found, "amax")
        scores = torch.cat([scores.cpu(), best], dim=1)
        places = torch.cat([places, torch.arange(block.start, block.stop).expand(len(queries), -1)], dim=1)
        scores, order = scores.topk(min(depth, scores.shape[1]), dim=1)
        places = places.gather(1, order)
    return {
        query: {names[place]: score for place, score in zip(own, values, strict=True)}
        for query, own, values in zip(evaluator.queries, places.tolist(), scores.tolist(), strict=True)
    }


def _blocks(sizes: Sequence[int]) -> Iterator[range]:
    """Ranges of documents that have about `WINDOWS_AT_ONCE` windows together."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if total and total + size > WINDOWS_AT_ONCE:
            yield range(start, place)
            start, total = place, 0
        total += size
    if total:
        yield range(start, len(sizes))


def best_of(first: Run, others: Run, depth: int, left_out: Mapping[str, Any]) -> Run:
    """The higher score of each document in two rankings, the best `depth` of each query, without its own documents."""
    joined: dict[str, dict[str, float]] = {}
    for query, scores in first.items():
        best = dict(scores)
        for document, score in others.get(query, {}).items():
            if document not in left_out.get(query, ()):
                best[document] = max(score, best.get(document, score))
        joined[query] = dict(sorted(best.items(), key=lambda pair: -pair[1])[:depth])
    return joined


class WindowLists(ListScorer):
    """The windows behind the first one of the candidates that a reranker cuts, for each query."""

    def __init__(self, evaluator: RerankingEvaluator) -> None:
        self.tokenizer, self.queries = evaluator.tokenizer, evaluator.queries
        self.query_prompts, self.document_prompt = evaluator.query_prompts, evaluator.document_prompt
        texts: dict[str, str] = {}
        lists: dict[str, dict[str, float]] = {}
        cutter, count = WindowCutter(self.tokenizer), self.tokenizer.count_tokens
        for query, document in _cut_pairs(evaluator):
            beside = self._tokenize_pair(query) - count(["a"])[0][0] + count([self.queries[query]])[0][0]
            room = max(self.tokenizer.max_length - beside, self.tokenizer.max_length // LEAST_ROOM)
            for number, text in enumerate(cutter.later_windows(evaluator.documents[document], room)):
                name = SEPARATOR.join((document, str(room), str(number)))
                texts[name] = text
                lists.setdefault(query, {})[name] = 0.0
        self.documents, self.lists = texts, lists

    def _tokenize_pair(self, query: str) -> int:
        """The tokens of a row with one-token texts, its prompts among them, without those of the document."""
        given = {"query_prompt": self.query_prompts[query], "document_prompt": self.document_prompt}
        prompts = {name: prompt for name, prompt in given.items() if prompt is not None}
        row = self.tokenizer(["a"], ["a"], **prompts)["input_ids"][0]
        return len(row) - self.tokenizer.count_tokens(["a"])[0][0]

    def best_windows(self, runner: Runner, token_budget: int) -> Run:
        """The highest score of a window of each document. Call it on all ranks."""
        if not self.lists:
            return {}
        best: dict[str, dict[str, float]] = {}
        for query, scores in self.score(runner, token_budget).items():
            own = best.setdefault(query, {})
            for name, score in scores.items():
                document = name.rsplit(SEPARATOR, 2)[0]
                own[document] = max(score, own.get(document, score))
        return best


def _cut_pairs(evaluator: RerankingEvaluator) -> Iterator[tuple[str, str]]:
    """The pairs of a query and a candidate whose document is cut."""
    lost = evaluator.pairs.truncated
    names = [(query, document) for query, documents in evaluator.lists.items() for document in documents]
    if lost is not None:
        yield from (pair for pair, cut in zip(names, lost[:, 1] > 0, strict=True) if cut)
