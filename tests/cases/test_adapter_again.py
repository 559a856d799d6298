"""Training with all weights from an export that holds only adapters: every weight is trained, whatever else is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.cli.compose import load
from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions, RankingModel
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from recipes.build import prepare
from recipes.training_run import train

LORA = LoRAConfig(r=2)


@dataclass(frozen=True)
class Case:
    """How a kind of model is trained: the options of the adapters' export, and the settings of a run from it."""

    first: ModelOptions
    settings: list[str]


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bert_dir: Path,
    tiny_reranker_dir: Path,
    tiny_causal_dir: Path,
    tiny_models: ModuleType,
) -> dict[str, Case]:
    untied = tiny_models.write_tiny_causal(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)
    embedder = BiEncoderConfig(str(tiny_bert_dir), max_length=48, lora=LORA)
    reranker = CrossEncoderConfig(str(tiny_reranker_dir), max_length=48, lora=LORA)
    llm = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=192, lora=LORA)
    infonce, contrastive = ["+exp=embedder_infonce", "eval.depth=100"], ["+exp=reranker_contrastive"]
    sft = ["+exp=llm_reranker_sft", "model=llm_reranker", "model.max_length=192", "trainer.token_budget=1024"]
    learned = ["model=bi_encoder_learned", "model.learn_bias=true", "model.bias=-1", "loss=siglip"]
    learned += ["loss.temperature=null", "loss.bias=null"]
    return {
        "embedder": Case(embedder, infonce),
        "learned temperature and bias": Case(embedder, [*infonce, *learned]),
        "projection": Case(embedder, [*infonce, "model.projection=8"]),
        "exported projection": Case(replace(embedder, projection=8), infonce),
        "separate towers": Case(embedder, [*infonce, "model.separate_towers=true"]),
        "cross-encoder": Case(reranker, contrastive),
        "fresh head": Case(replace(reranker, name_or_path=str(tiny_bert_dir)), contrastive),
        "cross-encoder, bias trained": Case(reranker, ["+exp=reranker_bce"]),
        "llm": Case(llm, sft),
        "llm with a head of its own": Case(replace(llm, name_or_path=str(untied)), sft),
    }


NAMES = [
    "embedder",
    "learned temperature and bias",
    "projection",
    "exported projection",
    "separate towers",
    "cross-encoder",
    "fresh head",
    "cross-encoder, bias trained",
    "llm",
    "llm with a head of its own",
]
TRAINED_TENSORS = {  # of a BERT of two layers: 37 without the pooler, 41 with it and a head
    "embedder": 37,
    "learned temperature and bias": 39,
    "projection": 38,
    "exported projection": 38,
    "separate towers": 74,
    "cross-encoder": 40,  # the bias of the score is frozen: the loss does not depend on it
    "fresh head": 40,
    "cross-encoder, bias trained": 41,
}


def export_adapters(case: Case, folder: Path) -> Path:
    """Export adapters that are no longer 0, alone."""
    model = case.first.build(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    model.export(folder, adapter_only=True)
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    return folder


def run_settings(case: Case, common: list[str], start: Path) -> Any:
    replaced = ("model.name_or_path=", *(option.partition("=")[0] + "=" for option in case.settings))
    kept = [option for option in common if not option.startswith(replaced)]
    run = ["run_name=again", "trainer.max_steps=2", "trainer.save_every=2", "trainer.eval_every=2"]
    return load([*case.settings, *kept, *run, f"model.name_or_path={start}"])


def trained_names(model: RankingModel) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """The trained weights of a run's last checkpoint."""
    (last,) = sorted((folder / "checkpoints").glob("step-000002"))
    weights = load_file(last / "rank-00000.safetensors").items()
    return {name.removeprefix("weight/"): value for name, value in weights if name.startswith("weight/")}


def still(start: RankingModel, trained: dict[str, torch.Tensor]) -> list[str]:
    """The trained weights that have not moved. Keys' biases have no gradient: softmax does not see them."""
    before = dict(start.named_parameters())
    names = [name for name in trained if not name.endswith(("key.bias", "k_proj.bias"))]
    return [name for name in names if torch.equal(trained[name], before[name].detach().flatten())]


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_are_trained(name: str, cases: dict[str, Case], tiny_run: list[str], tmp_path: Path) -> None:
    case = cases[name]
    adapters = export_adapters(case, tmp_path / "adapters")
    settings = run_settings(case, tiny_run, adapters)
    start = settings.model.build(settings.seed)
    prepare(start, settings.loss)
    merged = tmp_path / "merged"
    case.first.build(0).export(merged)
    from_weights = replace(settings.model, name_or_path=str(merged)).build(settings.seed)
    prepare(from_weights, settings.loss)
    assert trained_names(start) == trained_names(from_weights)
    assert len(trained_names(start)) == TRAINED_TENSORS.get(name, len(trained_names(from_weights)))

    train(settings)
    trained = checkpoint(tmp_path / "outputs" / "again")
    assert set(trained) == set(trained_names(start))
    assert not still(start, trained)
    exported = {file.name for file in (tmp_path / "outputs" / "again" / "model").rglob("*")}
    assert "model.safetensors" in exported
    assert "adapter_config.json" not in exported


def test_the_run_says_what_it_trains(
    cases: dict[str, Case], tiny_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = cases["learned temperature and bias"]
    train(run_settings(case, tiny_run, export_adapters(case, tmp_path / "adapters")))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trained: ")]
    assert line == (
        "trained: 26,466 of 27,522 parameters (96.2 %): backbone 26,464 of 27,520, temperature 1 of 1, bias 1 of 1"
    )
    assert json.loads((tmp_path / "outputs" / "again" / "environment.json").read_text())["parameters"] == {
        "total": 27522,
        "trained": 26466,
        "parts": {
            "backbone": {"total": 27520, "trained": 26464},
            "temperature": {"total": 1, "trained": 1},
            "bias": {"total": 1, "trained": 1},
        },
    }


def test_every_stage_trains_all_weights(
    cases: dict[str, Case], tiny_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = ["+exp=reranker_three_stage", "stages=[contrastive,preference]", "trainer.learning_rate=0.05"]
    case = replace(cases["cross-encoder"], settings=stages)
    common = [option for option in tiny_run if not option.startswith("trainer.list_size")]
    train(run_settings(case, common, export_adapters(case, tmp_path / "adapters")))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trained: ")]
    assert lines == ["trained: 27,552 of 27,553 parameters (99.9 %): backbone 27,520 of 27,520, head 32 of 33"] * 2
    folders = sorted((tmp_path / "outputs" / "again" / "stages").glob("[0-9]*"))
    assert [len(checkpoint(folder)) for folder in folders] == [40, 40]


def test_new_adapters_go_on_from_an_adapter(cases: dict[str, Case], tiny_run: list[str], tmp_path: Path) -> None:
    case = replace(cases["embedder"], settings=["+exp=embedder_infonce_lora", "eval.depth=100"])
    train(run_settings(case, tiny_run, export_adapters(case, tmp_path / "adapters")))
    assert all("lora_" in name for name in checkpoint(tmp_path / "outputs" / "again"))
