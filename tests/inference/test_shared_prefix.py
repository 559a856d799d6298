"""Lists scored with their common prefix once get the scores of the plain path, on any packs, chunks and ranks."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import TokenSequences
from inference.runner import ModuleRunner, row_collator
from inference.score import score_sequences
from inference.shared_prefix import SharedPrefixCollator, list_collator, pack_features, plan_packs, score_lists
from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.prompts.template import PromptTemplate

SIZES = [5, 1, 0, 8, 3]
CPU = torch.device("cpu")


def reranker(folder: Path, template: Any = "qwen3", **options: Any) -> LLMReranker:
    return LLMRerankerConfig(str(folder), template=template, max_length=256, **options).build(0)


def lists_of(model: LLMReranker) -> TokenSequences:
    """Rows of `SIZES` lists with documents of 0 to 60 words, one of which is the beginning of another."""
    draw = random.Random(0)
    words = ["what", "Python", "is.", "10", "red,", "日本"]
    parts = []
    for number, size in enumerate(filter(None, SIZES)):
        documents = [" ".join(draw.choices(words, k=draw.randint(0, 60))) for _ in range(size)]
        documents[-1] = documents[0] + " red"
        parts.append(TokenSequences.from_encoding(model.tokenizer.encode_list(f"query {number}.", documents)))
    return TokenSequences.concatenate(parts)


def both(model: LLMReranker, rows: TokenSequences, budget: int = 700) -> tuple[Tensor, Tensor]:
    runner, padding = ModuleRunner(model, CPU), model.tokenizer.padding
    plain = score_sequences(runner, rows, row_collator(model, padding, budget))
    return plain, score_lists(runner, rows, SIZES, padding, budget)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("template", ["qwen3", "mxbai"])
def test_scores_are_those_of_the_plain_path(attention, architecture, template, tiny_models, tmp_path):
    folder = tiny_models.write_tiny_causal(tmp_path, architecture=architecture)
    model = reranker(folder, template, attention=attention)
    rows = lists_of(model)
    assert model.reads_packs
    for budget in (200, 700, 100_000):
        plain, packed = both(model, rows, budget)
        assert plain.std() > 0.1
        torch.testing.assert_close(packed, plain, atol=1e-4, rtol=0)
    assert model.training, "the mode is restored"


def test_the_prefix_is_computed_once_per_list(tiny_causal_dir):
    model = reranker(tiny_causal_dir)
    rows = lists_of(model)
    packs = list(plan_packs(rows.lengths.tolist(), SIZES, rows.common_prefixes(SIZES), limit=100_000))
    assert [pack.sequences for pack in packs] == [[0, 1, 2, 3, 4], [5], [*range(6, 14)], [14, 15, 16]]
    starts = np.concatenate([[0], np.cumsum(rows.lengths)])
    texts = [rows.features["input_ids"][starts[i] : starts[i + 1]].tolist() for i in range(len(rows))]
    for pack in packs:
        own = [texts[row] for row in pack.sequences]
        assert {tuple(text[: pack.prefix]) for text in own} == {tuple(own[0][: pack.prefix])}
        assert len({text[pack.prefix] for text in own}) > 1 or pack.prefix == min(map(len, own)) - 1
        assert f"query {packs.index(pack)}." in model.tokenizer.tokenizer.decode(own[0][: pack.prefix])
    features = pack_features(rows, packs, padding=0)
    together = sum(len(text) for text in texts)
    shared = sum(pack.prefix * (len(pack.sequences) - 1) for pack in packs)
    assert int(features["attention_mask"].sum()) == together - shared
    assert shared > together / 3


def test_packs_keep_within_their_limit(tiny_causal_dir):
    rows = lists_of(reranker(tiny_causal_dir))
    for limit in (10, 200, 400):
        packs = list(plan_packs(rows.lengths.tolist(), SIZES, rows.common_prefixes(SIZES), limit))
        assert [row for pack in packs for row in pack.sequences] == [*range(len(rows))]
        lengths = [pack.length(rows.lengths) for pack in packs]
        assert all(length <= limit or len(pack.sequences) == 1 for length, pack in zip(lengths, packs, strict=True))


def test_chunks_of_packs_keep_within_the_budget_and_hold_every_sequence_once(tiny_causal_dir):
    model = reranker(tiny_causal_dir)
    rows = lists_of(model)
    lengths = rows.lengths.tolist()
    collator = list_collator(model, model.tokenizer.padding, 400).of_lists(rows, SIZES)
    assert isinstance(collator, SharedPrefixCollator)
    chunks = collator.plan(lengths)
    assert len(chunks) > 1
    assert sorted(row for chunk in chunks for row in chunk) == [*range(len(rows))]
    for chunk in chunks:
        features = collator.collate(rows, chunk)
        assert collator.cost(lengths, chunk) == features["input_ids"].numel() <= 400
        ends = collator.per_sequence(features["ends"], features)
        own = collator.per_sequence(features["position_ids"].gather(1, features["ends"].clamp(min=0)), features)
        assert len(ends) == len(chunk)
        assert (own + 1).tolist() == [lengths[row] for row in chunk]  # each at the end of its own sequence


def test_what_cannot_be_packed_is_scored_row_by_row(tiny_causal_dir, tiny_models, tmp_path):
    document_first = PromptTemplate(
        pieces=["{document}\n{query}\n{instruction}\n"], true_answer="yes", false_answer="no", instruction="find"
    )
    instruction_last = replace(document_first, pieces=["{query}\n{document}\n{instruction}\n"])
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    sliding = tiny_models.write_tiny_causal(tmp_path / "sliding", **window)
    local = {"attention_types": [[["global", "local"], 1]], "window_size": 8}
    distances = {"alibi": True, "new_decoder_architecture": False}
    models = {
        "document first": reranker(tiny_causal_dir, document_first),
        "instruction last": reranker(tiny_causal_dir, instruction_last),
        "switched off": reranker(tiny_causal_dir, shared_prefix=False),
        "sliding window": reranker(sliding),
        "local layers": reranker(tiny_models.write_tiny_causal(tmp_path / "local", architecture="gpt_neo", **local)),
        "alibi": reranker(tiny_models.write_tiny_causal(tmp_path / "alibi", architecture="falcon", **distances)),
    }
    for name, model in models.items():
        assert not model.reads_packs, name
        assert bool(model.why_no_packs) == (name != "switched off")
        plain, found = both(model, lists_of(model))
        assert torch.equal(plain, found), name
