"""Exhausted memory names the chunk, its longest row and the options to change."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from running import make_trainer

from launch.cli.errors import explain


def refuse(trainer: Any, call: str) -> None:
    """The CPU's allocator refuses where a chunk has more than 20 tokens a row."""
    original, longest = getattr(trainer.engine, call), [0]

    def allocate(given: Any, **options: Any) -> Any:
        if call == "forward":
            longest[0] = given["input_ids"].shape[1]
        if call == "backward" or longest[0] > 20:
            torch.empty(10**17)
        return original(given, **options)

    setattr(trainer.engine, call, allocate)


@pytest.mark.parametrize("call", ["forward", "backward"])
def test_the_longest_row_is_named(call: str, tiny_run: list[str]) -> None:
    trainer = make_trainer(["+exp=reranker_contrastive", "trainer.max_steps=2", *tiny_run])
    trainer.evaluator = None
    refuse(trainer, call)
    with pytest.raises(MemoryError) as caught:
        trainer.fit()
    line = explain(caught.value)
    match = re.match(
        r"out of memory in a chunk of (\d+) rows of up to (\d+) tokens, \d+ in all, "
        r"the longest query (\w+), document (\w+): ",
        line,
    )
    assert match, line
    batch = trainer.batches.for_step(1)
    names = [batch.sequence_ids(row) for row in range(len(batch.sequences))]
    assert batch.sequences.lengths[names.index((match[3], match[4]))] == int(match[2])
    assert "lower trainer.kept_chunks (1), then trainer.token_budget (160 tokens a chunk)," in line
    assert "can't allocate memory: you tried to allocate 400000000000000000 bytes" in line


def test_evaluation_names_its_own_option(tiny_run: list[str]) -> None:
    trainer = make_trainer(["+exp=reranker_contrastive", "trainer.max_steps=2", *tiny_run])
    refuse(trainer, "forward")
    with pytest.raises(MemoryError, match=r"while scoring \d+ x \d+ tokens .*: lower eval.token_budget"):
        trainer.fit()


def test_rows_are_named_in_either_layout(tiny_run: list[str]) -> None:
    for experiment, first in (("reranker_contrastive", 0), ("embedder_infonce", 1)):
        options = [f"+exp={experiment}", *tiny_run, "eval.depth=100", f"run_name={experiment}"]
        batch = make_trainer(options).batches.for_step(1)
        example = batch.examples[1]
        start = len(batch.examples[0].sequences)
        assert batch.sequence_ids(start + first) == (example.query_id, example.document_ids[0])
        assert batch.sequence_ids(start - 1) == (batch.examples[0].query_id, batch.examples[0].document_ids[-1])
        if first:
            assert batch.sequence_ids(start) == (example.query_id, None)
