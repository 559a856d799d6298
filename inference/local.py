"""Score pairs and embed texts on this process alone, for programs that use a trained model.

Each distinct text runs once, in an order that depends on the texts alone. So a result depends neither on the order in
which texts are given nor on how often, and equal texts have equal results, bit by bit. No collective is called: any
rank of a distributed program may call these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

from data.batch import TokenSequences
from data.collate import Collator
from data.progress import show_progress
from inference.runner import Runner, row_collator
from inference.score import run_chunks
from inference.shared_prefix import PACK_TOKENS, list_collator
from models.prompts.tokenizer import PromptTokenizer
from models.tokenization import PairTokenizer, TextTokenizer
from tensors.ragged import concatenate

# Padded tokens per forward pass: on a CPU the activations of more do not stay in its cache (benchmarks/rank.py).
CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET = 1024, 8192

Pair = tuple[str, str]  # a query and a document


def token_budget(device: torch.device) -> int:
    """The tokens of a forward pass."""
    return CPU_TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET


def score_pairs(
    runner: Runner,
    tokenizer: PairTokenizer | PromptTokenizer,
    pairs: Sequence[Pair],
    instruction: str | None = None,
    batch_size: int | None = None,
    *,
    progress: bool = False,
) -> tuple[Any, np.ndarray]:
    """Compute the raw scores [len(pairs)] float32 on the CPU, and the tokens [len(pairs), 2] int32 that were cut from
    the query and from the document of each pair.

    `instruction` None: the model's own. `batch_size`: the most pairs of a forward pass, which are then scored one by
    one. None: as many as fit into `token_budget`, and a model that can reads the common beginning of a query's pairs
    once.
    """
    if not pairs:
        return torch.zeros(0), np.zeros((0, 2), dtype=np.int32)
    distinct = sorted(set(pairs))
    queries, documents = ([pair[side] for pair in distinct] for side in (0, 1))
    sequences = TokenSequences.from_encoding(tokenizer(queries, documents, query_prompt=instruction))
    sizes = [len(list(own)) for _, own in groupby(queries)]
    budget = token_budget(runner.device)
    collator = row_collator(runner.model, tokenizer.padding, budget)
    if batch_size is None and getattr(runner.model, "reads_packs", False):
        collator = list_collator(runner.model, tokenizer.padding, max(budget, PACK_TOKENS)).of_lists(sequences, sizes)
    scores = _run(runner, sequences, collator, "score", batch_size, progress=progress)
    return _as_given(pairs, distinct, scores, sequences)


def embed_texts(
    runner: Runner,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    role: str | None,
    prompt: str | None = None,
    batch_size: int | None = None,
    *,
    progress: bool = False,
) -> tuple[Any, np.ndarray]:
    """Compute the embeddings [len(texts), dim] float32 on the CPU, and the tokens [len(texts), 2] int32 that were cut
    from texts that are queries, and from others.

    `role`: "query", "document" or None. `prompt` None: the model's own for the role. `texts` holds one at least.
    `batch_size`: the most texts of a forward pass; None: as many as fit into `token_budget`.
    """
    assert texts, "nothing to embed"
    distinct = sorted(set(texts))
    sequences = TokenSequences.from_encoding(tokenizer(distinct, role=role, prompt=prompt))
    collator = row_collator(runner.model, tokenizer.padding, token_budget(runner.device))
    embeddings = _run(runner, sequences, collator, "embedding", batch_size, progress=progress)
    return _as_given(texts, distinct, embeddings, sequences)


def _run(
    runner: Runner,
    sequences: TokenSequences,
    collator: Collator,
    name: str,
    batch_size: int | None,
    *,
    progress: bool,
) -> Any:
    """The output `name` of every sequence, on the CPU."""
    chunks = collator.plan(sequences.lengths.tolist())
    if batch_size is not None:
        starts = [(chunk, start) for chunk in chunks for start in range(0, len(chunk), batch_size)]
        chunks = [chunk[start : start + batch_size] for chunk, start in starts]
    what = "encoding" if name == "embedding" else "scoring"
    shown: Iterable[list[int]] = show_progress(chunks, what, len(chunks)) if progress else chunks
    outputs = [output[name] for output in run_chunks(runner, sequences, collator, shown, [name])]
    values, order = concatenate(outputs).cpu(), torch.tensor([index for chunk in chunks for index in chunk])
    return values[order.argsort()]


def _as_given(
    given: Sequence[str] | Sequence[Pair],
    distinct: Sequence[str] | Sequence[Pair],
    values: Any,
    rows: TokenSequences,
) -> tuple[Any, np.ndarray]:
    """The values and the cut tokens of all that was given, in its order."""
    place = {item: index for index, item in enumerate(distinct)}
    indices = [place[item] for item in given]
    cut = np.zeros((len(rows), 2), dtype=np.int32) if rows.truncated is None else rows.truncated
    return values[indices], cut[indices]
