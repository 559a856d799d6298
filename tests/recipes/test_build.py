"""What is built for a run: the tokens of training texts are kept, a text is tokenised in one batch, whatever epochs and
runs follow; a model reads the texts of all data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import models.tokenization
from data.cache import entries
from data.collection import Collection
from data.sampling.mixture import Mixture
from launch.cli.compose import load
from recipes.build import make_trainer, read_corpus
from runs.directory import RunDirectory
from runs.loggers.logger import NoLogger
from runs.settings_tree import as_tree

SETTINGS = ["trainer.eval_every=100", "trainer.max_steps=16"]  # two epochs of 8 batches


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are tokenised, in their order."""
    texts: list[str] = []
    count = models.tokenization.count_tokens

    def counted(tokenizer: Any, given: list[str]) -> Any:
        texts.extend(given)
        return count(tokenizer, given)

    monkeypatch.setattr(models.tokenization, "count_tokens", counted)
    return texts


def batches(overrides: list[str], tokenised: list[str]) -> list[tuple[list[Any], int]]:
    """The tokens and counts of each batch of two epochs, with the number of texts that it had tokenised."""
    settings = load([*SETTINGS, *overrides])
    data, model = settings.data.build(), settings.model.build(settings.seed)
    run = RunDirectory.open(as_tree(settings))
    trainer = make_trainer(settings, data, run, model, sets={}, logger=NoLogger())
    found = []
    for step in range(1, 17):
        before = len(tokenised)
        rows = trainer.batches.for_step(step).sequences
        values = [rows.lengths.tolist(), *(values.tolist() for values in rows.features.values())]
        found.append(([*values, rows.truncated.tolist()], len(tokenised) - before))
    return found


@pytest.mark.parametrize("experiment", ["embedder_infonce", "reranker_contrastive"])
def test_a_text_is_tokenised_once(experiment: str, tiny_run: list[str], tokenised: list[str]) -> None:
    settings = [*tiny_run, f"+exp={experiment}", "eval.depth=100", "model.max_length=16"]
    without = batches([*settings, "trainer.cache_tokens=false", "run_name=without"], tokenised)
    assert min(count for _, count in without) > 5, "in every batch"
    tokenised.clear()
    cached = batches([*settings, "run_name=cached"], tokenised)
    assert [rows for rows, _ in cached] == [rows for rows, _ in without]
    assert 24 < len(tokenised) == len(set(tokenised)) <= 24 + 60, "queries and documents, each once in two epochs"
    assert sum(count for _, count in cached[8:]) < 20, "documents that the first epoch has not drawn"
    again = batches([*settings, "run_name=again"], tokenised)
    assert [rows for rows, _ in again] == [rows for rows, _ in without]
    assert sum(count for _, count in again) == 0, "the next run, or a resumed one, finds all of it"


def test_the_cache_is_an_entry_that_can_be_removed(tiny_run: list[str], tokenised: list[str], tmp_path: Path) -> None:
    batches([*tiny_run, "+exp=reranker_contrastive"], tokenised)
    (entry,) = [entry for entry in entries(tmp_path / "cache") if entry.name.startswith("tokens/")]
    assert entry.is_finished
    assert entry.num_bytes > 4096


class Reader:
    """A model that starts from the texts that it will search."""

    reads_corpus = True
    texts: Sequence[str] = ()

    def read_corpus(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)


def test_a_model_that_starts_from_the_texts_reads_those_of_an_evaluated_source_too() -> None:
    trained, tested = (Collection(name, {"d": f"{name} text"}, {}, name) for name in ("trained", "tested"))
    reader = Reader()
    read_corpus(reader, Mixture({"trained": trained}, None, tested, held_out_alone=True))
    assert reader.texts == ["trained text", "tested text"]
    read_corpus(reader, Mixture({"trained": trained}, None, trained), trained)
    assert reader.texts == ["trained text"]
