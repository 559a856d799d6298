"""One row: a single document, pair, query or candidate is scored, evaluated and trained on, on one rank and on two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import Collator
from data.collection import Split
from engines.distributed.testing import run_ranks
from evaluation.evaluator import EvaluatorConfig
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.retrieval_evaluator import RetrievalConfig
from inference.runner import ModuleRunner
from inference.score import represent_sequences
from launch.cli.compose import load
from launch.rerank import main as rerank
from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions, RankingModel
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from recipes.training_run import train

CPU = torch.device("cpu")
QUERY = "what is a red apple"
DOCUMENTS = ["the apple is red", "a list of documents in python", "blue pear"]


def scores(capsys: pytest.CaptureFixture[str], model: Path, documents: list[str]) -> dict[str, float]:
    rerank([str(model), "--query", QUERY, "--raw", "--json", *documents])
    return {row["text"]: row["score"] for row in json.loads(capsys.readouterr().out)["results"]}


@pytest.mark.parametrize("kind", ["cross-encoder", "llm"])
def test_one_document_is_ranked_with_the_score_that_it_has_among_others(
    kind: str, tiny_reranker_dir: Path, tiny_causal_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_reranker_dir
    if kind == "llm":
        model = tmp_path / "llm"
        LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=192).build(0).export(model)
        capsys.readouterr()
    among_others = scores(capsys, model, DOCUMENTS)
    for document in DOCUMENTS:
        assert scores(capsys, model, [document]) == pytest.approx({document: among_others[document]}, abs=1e-5)


def options(kind: str, folder: Path) -> ModelOptions:
    """A reranker, or an embedder of an odd number of dimensions."""
    if kind == "score":
        return CrossEncoderConfig(str(folder), max_length=48)
    return BiEncoderConfig(str(folder), max_length=48, projection=int(kind), temperature=0.1)


def represent(model: RankingModel, count: int, token_budget: int) -> dict[str, Tensor]:
    model.prepare(wanted_outputs=model.outputs)
    rows = [row for text in DOCUMENTS for row in model.tokenizer.encode_list(QUERY, [text])["input_ids"]]
    sequences = TokenSequences.from_encoding({"input_ids": rows[:count]})
    return represent_sequences(ModuleRunner(model, CPU), sequences, Collator(model.tokenizer.padding, token_budget))


def evaluate(config: EvaluatorConfig, model: RankingModel, candidates: int) -> Tensor:
    """The scores of the candidates of a single judged query."""
    documents = dict(zip("abc", DOCUMENTS[:candidates], strict=False))
    split = Split({"q": QUERY}, {"q": {"a": 1}}, {"q": [(name, 1.0) for name in documents]})
    result = config.build(split, documents, model.tokenizer).evaluate(ModuleRunner(model, CPU))
    assert result.metrics.mean["recall@10"] == 1.0
    return torch.tensor([result.run["q"][name] for name in documents])


def everything(folder: Path) -> dict[str, Tensor]:
    """All representations and evaluated scores of 1, 2 and 3 rows, by a name of the case. With a budget of 1 token
    every chunk has one row, so that a rank may have none."""
    found = {}
    for kind in ("score", "1", "3"):
        model = options(kind, folder).build(0)
        evaluations = [RerankingConfig()] if kind == "score" else [RerankingConfig(), RetrievalConfig()]
        for count in (1, 2, 3):
            for budget in (1, 512):
                values = represent(model, count, budget)
                found |= {f"{name} {kind} of {count}, budget {budget}": value for name, value in values.items()}
            for config in evaluations:
                found[f"{type(config).__name__} {kind} of {count}"] = evaluate(config, model, count)
    return found


def test_few_rows_have_the_same_values_on_one_rank_and_on_two_and_among_others(tiny_reranker_dir: Path) -> None:
    one = everything(tiny_reranker_dir)
    for name, value in one.items():
        before, _, rest = name.partition(" of ")
        among_three = one[f"{before} of 3{rest[1:]}"]
        assert len(value) == int(rest[0])
        torch.testing.assert_close(value, among_three[: len(value)], atol=1e-5, rtol=0, msg=name)
    for two in run_ranks(everything, 2, tiny_reranker_dir):
        assert set(two) == set(one)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def likes(file: Path, count: int) -> Path:
    """Documents with a label 0 or 1, each of a query of its own."""
    rows = [f"red apple {n},an apple of row {n},{n % 2}\n" for n in range(count)]
    file.write_text("".join(["query,document,label\n", *rows]))
    return file


def train_here(overrides: list[str]) -> float | None:
    return train(load(overrides))


def settings(tiny_overrides: Callable[[Path], list[str]], folder: Path, *, rows: int) -> list[str]:
    replaced = ("data", "trainer.batch_size", "trainer.list_size", "eval.depth")
    common = [option for option in tiny_overrides(folder) if not option.startswith(replaced)]
    data = ["data=file", f"data.path={likes(folder / 'likes.csv', rows)}", f"data.cache_dir={folder / 'cache'}"]
    return [*common, *data, "trainer.list_size=1", "run_name=run", "trainer.max_steps=2", "trainer.save_every=1"]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "outputs" / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def test_a_step_of_one_pair_trains_alike_on_one_rank_and_on_two(
    tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        options = ["+exp=reranker_bce", *settings(tiny_overrides, folder, rows=20), "trainer.batch_size=1"]
        run_ranks(train_here, ranks, [*options, "trainer.log_every=1"])
        found.append(losses(folder))
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_step_of_one_row_gets_reference_scores(tiny_overrides: Callable[[Path], list[str]], tmp_path: Path) -> None:
    options = ["+exp=reranker_preference", "loss=kto", *settings(tiny_overrides, tmp_path, rows=12)]
    train(load([*options, "trainer.batch_size=1"]))
    assert losses(tmp_path)
