"""Rank documents for one query with a trained reranker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.batch import TokenSequences
from data.formats.documents import Document
from data.truncation import Truncation, cut_line
from engines.distributed.process_group import device
from inference.runner import ModuleRunner
from inference.shared_prefix import score_lists
from models.loading.reranker import load_reranker

TOKEN_BUDGET = 8192  # padded tokens per forward pass


@dataclass(frozen=True)
class RankedDocument:
    """A document with its score and its rank, from 1."""

    rank: int
    score: float
    id: str
    text: str


def rank_documents(
    name_or_path: str,
    query: str,
    documents: Sequence[Document],
    max_length: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
    template: str | None = None,
    special_tokens: bool = False,
) -> list[RankedDocument]:
    """Rank `documents`, best first, ties in their given order. `instruction` replaces the model's own; `template` names
    the prompt template of a language model whose folder has none. With `special_tokens` the control tokens that query
    and documents spell are read as such; else as the folder says.

    The score is that of sentence-transformers' `CrossEncoder.predict`: the logit after the model's own activation, or
    the logit itself if `raw`. Documents are sorted by the logits, because a sigmoid makes ties.
    """
    model = load_reranker(name_or_path, max_length, template).to(device())
    if special_tokens:
        model.tokenizer = replace(model.tokenizer, split_special_tokens=False)
    model.expect_prompts([instruction])
    sequences = TokenSequences.from_encoding(
        model.tokenizer.encode_list(query, [document.text for document in documents], query_prompt=instruction)
    )
    count = Truncation.of_rows(sequences.truncated, [len(sequences)], len(documents))
    if line := cut_line({"": count}, model.tokenizer.max_length, option="--max-length"):
        print(line, file=sys.stderr)
    runner = ModuleRunner(model, device())
    logits = score_lists(runner, sequences, [len(documents)], model.tokenizer.padding, TOKEN_BUDGET).cpu()
    scores = logits if raw else model.activation(logits)
    order = logits.argsort(descending=True, stable=True).tolist()
    return [
        RankedDocument(rank, float(scores[index]), documents[index].id, documents[index].text)
        for rank, index in enumerate(order, start=1)
    ]
