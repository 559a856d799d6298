"""Count the tokens of queries and documents as a model reads them, and those that it cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from data.batch import TokenSequences
from data.inspection.content import Content, Limits, spread_evenly
from data.progress import show_progress
from data.sampling.training_lists import ListTokenizer
from data.truncation import Truncation, limits_of

MAX_CHARACTERS = 200_000  # of a text that are counted
BATCH = 64  # texts that are counted at once
DOCUMENTS = 2  # of a corpus, to each query that is counted


class CountingTokenizer(ListTokenizer, Protocol):
    """A tokenizer of lists that also counts the tokens of texts, as those of models.tokenization do."""

    @property
    def max_length(self) -> int:
        """The most tokens of a row."""

    def count_tokens(self, texts: list[str]) -> list[tuple[int, int]]:
        """The number of tokens of each text, and how many of them are unknown ones; without prompts and a limit."""


@dataclass(frozen=True)
class TokenList:
    """A query with documents, as a tokenizer of lists reads them."""

    query: str
    documents: tuple[str, ...]
    prompt: str | None = None


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of the sampled texts by role, the share of unknown ones, and how many texts are cut (None: the
    tokenizer does not count them)."""

    model: str
    limits: Mapping[str, int]  # the most tokens of a query and of a document, by the option that sets them
    lengths: dict[str, tuple[int, ...]]
    unknown: dict[str, float]
    truncation: Truncation | None
    sampled: str  # of what, if not of everything

    @property
    def cut_shares(self) -> dict[str, float]:
        """The share of the texts of each role that are cut."""
        cut = self.truncation
        return {} if cut is None else {"query": cut.query_share, "document": cut.document_share}


def count_tokens(
    content: Content,
    tokenizer: CountingTokenizer,
    model: str,
    limits: Limits,
    query_prompt: str | None,
    document_prompt: str | None,
) -> TokenCounts:
    """Count the tokens of a sample of the lists, or of the queries and documents of a corpus."""
    lists, sampled = token_lists(content, limits)
    texts = {
        "query": list(dict.fromkeys(each.query for each in lists)),
        "document": list(dict.fromkeys(text for each in lists for text in each.documents)),
    }
    counts = {role: _counted(tokenizer, own) for role, own in texts.items()}
    total = {role: sum(number for number, _ in own) for role, own in counts.items()}
    unknown = {role: sum(number for _, number in own) / max(total[role], 1) for role, own in counts.items()}
    lengths = {role: tuple(number for number, _ in own) for role, own in counts.items()}
    truncation = _truncation(lists, tokenizer, query_prompt, document_prompt)
    return TokenCounts(model, limits_of(tokenizer), lengths, unknown, truncation, sampled)


def token_lists(content: Content, limits: Limits) -> tuple[list[TokenList], str]:
    """The lists whose texts are counted, and what they are a sample of; of a corpus, documents at equal distances,
    shared out over the queries."""
    if not content.has_ids:
        rows = spread_evenly(content.records, limits.tokenised)
        sampled = f"a sample of {len(rows):,} of {len(content.records):,} rows" * (len(rows) < len(content.records))
        return [TokenList(r.query[:MAX_CHARACTERS], _cut(r.documents), r.prompt) for r in rows], sampled
    asked, known = [text for _, text in content.query_texts()], list(content.documents)
    queries, keys = spread_evenly(asked, limits.tokenised), spread_evenly(known, limits.tokenised * DOCUMENTS)
    documents = [content.documents[key].text for key in keys]
    parts = [TokenList(query[:MAX_CHARACTERS], _cut(documents[i :: len(queries)])) for i, query in enumerate(queries)]
    is_whole = len(queries) == len(asked) and len(keys) == len(known) and content.is_complete
    return parts, "" if is_whole else f"a sample of {len(queries):,} queries and {len(documents):,} documents"


def _cut(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text[:MAX_CHARACTERS] for text in texts)


def _counted(tokenizer: CountingTokenizer, texts: list[str]) -> list[tuple[int, int]]:
    starts = range(0, len(texts), BATCH)
    shown = show_progress(starts, "counting tokens", len(starts))
    return [each for i in shown for each in tokenizer.count_tokens(texts[i : i + BATCH])]


def _truncation(
    lists: Sequence[TokenList], tokenizer: ListTokenizer, query_prompt: str | None, document_prompt: str | None
) -> Truncation | None:
    """How many queries and documents the tokenizer cuts; None if it does not count them."""
    total = Truncation()
    for each in show_progress(lists, "counting tokens", len(lists), "lists"):
        prompts = {"query_prompt": query_prompt if each.prompt is None else each.prompt}
        prompts["document_prompt"] = document_prompt
        given = {name: prompt for name, prompt in prompts.items() if prompt is not None}
        if not each.documents:
            continue
        rows = TokenSequences.from_encoding(tokenizer.encode_list(each.query, list(each.documents), **given))
        count = Truncation.of_rows(rows.truncated, [len(rows)], len(each.documents))
        if count is None:
            return None
        total += count
    return total
