"""A kind of model from a folder outside the repository: a table of token vectors, averaged, without transformers.

It is chosen by `model=token_table` with --config-dir, and trains, is evaluated, exported and resumed, without an edit
of this repository.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.cli.compose import load
from recipes.cost_plan.workload import build_workload
from recipes.evaluate.run import evaluate
from recipes.training_run import train

MODEL = '''
"""A text's embedding is the mean of its tokens' vectors."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import normalize

from models.capabilities import ModelOptions, RankingModel


@dataclass(frozen=True)
class HashedWords:
    max_length: int
    size: int
    layout = "texts"
    padding = {}

    def __call__(self, texts, role=None, prompt=None):
        words = [f"{prompt or ''}{text}".split()[: self.max_length] or [""] for text in texts]
        return {"input_ids": [[zlib.crc32(word.encode()) % self.size for word in row] for row in words]}

    def encode_list(self, query, documents, query_prompt=None, document_prompt=None):
        rows = self([query], prompt=query_prompt)["input_ids"] + self(documents, prompt=document_prompt)["input_ids"]
        return {"input_ids": rows}


@dataclass(frozen=True)
class TokenTableConfig(ModelOptions):
    outputs = frozenset({"embedding"})
    layout = "texts"
    default_evaluation = "retrieval"

    name_or_path: str = ""
    size: int = 512
    dimension: int = 16
    max_length: int = 32

    def build(self, seed):
        model = TokenTable(self)
        if folder := self.folder():
            model.load_state_dict(load_file(folder / "table.safetensors"))
        else:
            model.table.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
        return model.train()


class TokenTable(RankingModel):
    outputs = TokenTableConfig.outputs
    similarity = "cosine"

    def __init__(self, options):
        super().__init__()
        self.tokenizer = HashedWords(options.max_length, options.size)
        self.dimension, self.source = options.dimension, options.name_or_path
        self.table = nn.Embedding(options.size, options.dimension)

    def forward(self, input_ids, attention_mask):
        tokens = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return {"embedding": normalize(tokens.sum(1) / attention_mask.sum(1, keepdim=True), dim=-1).float()}

    def export(self, folder, *, card=None, adapter_only=False):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "table.safetensors")
        (folder / "README.md").write_text(card or "")
'''
YAML = """
# A table of token vectors, averaged.
_target_: my_models.token_table.TokenTableConfig
name_or_path: "" # folder of an export; "": random vectors
size: 512 # vectors
dimension: 16 # of a vector
max_length: 32 # words of a text
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder: a package, which is importable, and a configuration directory."""
    files = {"my_models/token_table.py": MODEL, "my_conf/model/token_table.yaml": YAML}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_models"]:
        del sys.modules[name]


@pytest.fixture
def options(outside: Path, tiny_run: list[str]) -> list[str]:
    """A run of seconds with the user's model."""
    own = [
        "+exp=embedder_infonce",
        "model=token_table",
        "eval.depth=100",
        "trainer.max_steps=4",
        "trainer.save_every=1",
    ]
    own += ["trainer.eval_every=1", "trainer.learning_rate=20"]
    replaced = ("model.name_or_path=", "eval.depth=")
    return [*(option for option in tiny_run if not option.startswith(replaced)), *own]


def configured(outside: Path, options: list[str], config_name: str = "train") -> Any:
    return load(options, config_name, config_dir=outside / "my_conf")


def results(run: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The lines of metrics.jsonl without times, and the exported weights."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {"seconds", "rows_per_s", "tokens_per_s"}
    plain = [{name: value for name, value in line.items() if name not in times} for line in lines]
    return plain, load_file(run / "model" / "table.safetensors")


def test_it_trains_is_evaluated_and_exported(outside: Path, options: list[str]) -> None:
    train(configured(outside, options))
    run = outside / "outputs" / "embedder_infonce"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4
    lines, weights = results(run)
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4]
    assert all(line["grad_norm"] > 0 for line in lines if line["split"] == "train")
    assert summary["best_step"] > 0
    assert not torch.equal(weights["table.weight"], configured(outside, options).model.build(42).table.weight)
    assert "Trained by plackett" in (run / "model" / "README.md").read_text()
    data = [option for option in options if option.startswith("data")]
    output = outside / "results.json"
    chosen = ["model=token_table", f"model.name_or_path={run / 'model'}", "eval.depth=100", f"output={output}"]
    value = evaluate(configured(outside, [*data, *chosen], "evaluate"))
    assert json.loads(output.read_text())["method"] == "retrieved from the whole corpus"
    assert value == pytest.approx(summary["after"], abs=1e-6)


def test_an_interrupted_run_goes_on(outside: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from my_models.token_table import TokenTable

    train(configured(outside, [*options, "run_name=whole"]))
    runs, forward = outside / "outputs", TokenTable.forward

    def interrupted(self, **features):
        if self.training and (runs / "stopped" / "checkpoints" / "step-000002").is_dir():
            raise KeyboardInterrupt
        return forward(self, **features)

    with monkeypatch.context() as patch:
        patch.setattr(TokenTable, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(configured(outside, [*options, "run_name=stopped"]))
    train(configured(outside, [*options, "run_name=stopped"]))
    (whole, weights), (stopped, resumed) = results(runs / "whole"), results(runs / "stopped")
    assert stopped == whole
    assert torch.equal(weights["table.weight"], resumed["table.weight"])


def test_its_memory_is_planned(outside: Path, options: list[str]) -> None:
    settings = configured(outside, options)
    subject = build_workload(settings, settings.data.build(), autocast=None)
    assert subject.parameters.total == 512 * 16
    assert subject.model.chunk(subject.features, 4, 16).held > 0


def test_what_it_cannot_do_is_refused(outside: Path, options: list[str]) -> None:
    with pytest.raises(
        ValueError, match="needs a vocabulary, over which an answer has a probability, and the model gives embedding"
    ):
        train(configured(outside, [*options, "loss=token_policy_vocabulary", "trainer=grpo"]))
    with pytest.raises(ValueError, match="adapter_only=true: there is no adapter"):
        train(configured(outside, [*options, "adapter_only=true"]))
    with pytest.raises(ValueError, match="loss Matryoshka2D needs the embeddings of the earlier layers"):
        train(configured(outside, [*options, "loss=matryoshka_2d"]))
