"""What is trained: the parts that every kind of model declares, the line about them, the refusal of a frozen one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from launch.cli.compose import load
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.capabilities import ModelOptions, Part, RankingModel
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from recipes.cost_plan.workload import build_workload
from recipes.trained_parts import as_json, check_trained_parts, percent, trained_line
from recipes.training_run import train

LORA = LoRAConfig(r=2)
LEARNED = {"temperature": 0.1, "learn_temperature": True, "bias": 0.0, "learn_bias": True}


@pytest.fixture
def options_of(tiny_bert_dir: Path, tiny_causal_dir: Path) -> Callable[[str], ModelOptions]:
    """The options of a model by a short name; "lora" in it adds adapters."""

    def options(name: str) -> ModelOptions:
        lora = LORA if "lora" in name else None
        if name.startswith("reranker"):
            return CrossEncoderConfig(str(tiny_bert_dir), max_length=48, lora=lora)
        if name.startswith("llm"):
            return LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=192, lora=lora)
        towers = "towers" in name
        return BiEncoderConfig(str(tiny_bert_dir), lora=lora, projection=8, separate_towers=towers, **LEARNED)

    return options


SCALE = ["temperature", "bias"]
PARTS = {
    "embedder": ["backbone", "projection", *SCALE],
    "embedder lora": ["backbone", "adapters", "projection", *SCALE],
    "embedder towers": ["query backbone", "query projection", "document backbone", "document projection", *SCALE],
    "reranker": ["backbone", "head"],
    "reranker lora": ["backbone", "head", "adapters"],
    "llm": ["backbone"],
    "llm lora": ["backbone", "adapters"],
}


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_of_a_model_have_all_its_weights_once(name: str, options_of) -> None:
    options = options_of(name)
    model = options.build(0)
    check_trained_parts(options, model)
    parts = model.parts()
    assert [part.label for part in parts] == PARTS[name]
    weights = [id(parameter) for part in parts for parameter in part.parameters]
    assert sorted(weights) == sorted(map(id, model.parameters()))
    described = as_json(parts)
    assert described["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert described["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if "lora" in name:
        assert described["parts"]["backbone"]["trained"] == 0


FROZEN = [
    ("embedder", "backbone", "model.lora=null"),
    ("embedder", "projection", "model.projection=8"),
    ("embedder", "temperature", "model.learn_temperature=true"),
    ("embedder", "bias", "model.learn_bias=true"),
    ("embedder towers", "document backbone", "model.lora=null"),
    ("embedder lora", "adapters", "model.lora"),
    ("embedder lora", "temperature", "model.learn_temperature=true"),
    ("reranker", "backbone", "model.lora=null"),
    ("reranker", "head", "model.lora=null"),
    ("reranker lora", "adapters", "model.lora"),
    ("reranker lora", "head", "model.lora"),
    ("llm", "backbone", "model.lora=null"),
    ("llm lora", "adapters", "model.lora"),
]


@pytest.mark.parametrize(("name", "label", "option"), FROZEN)
def test_a_frozen_part_that_the_options_ask_to_train_is_refused(name: str, label: str, option: str, options_of) -> None:
    options = options_of(name)
    model = options.build(0)
    (part,) = [part for part in model.parts() if part.label == label]
    for parameter in part.parameters:
        parameter.requires_grad_(False)
    with pytest.raises(
        ValueError, match=rf"its part {label} is frozen \(0 of .* are trained\), and {option} asks"
    ) as caught:
        check_trained_parts(options, model)
    assert "\n" not in str(caught.value)


def test_a_missing_part_that_the_options_ask_to_train_is_refused(options_of) -> None:
    plain = options_of("reranker").build(0)
    with pytest.raises(ValueError, match=r"its part adapters is missing, and model.lora asks"):
        check_trained_parts(options_of("reranker lora"), plain)


def test_single_weights_may_be_frozen_on_purpose(options_of) -> None:
    options = options_of("reranker")
    model = options.build(0)
    model.prepare(shift_invariant=True)
    check_trained_parts(options, model)
    assert trained_line(model.parts()).endswith("head 32 of 33")


def test_a_kind_of_model_that_declares_nothing_has_one_part() -> None:
    class Plain(RankingModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.layer.bias.requires_grad_(False)

        def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None: ...

    model = Plain()
    check_trained_parts(BiEncoderConfig(""), model)
    assert trained_line(model.parts()) == "trained: 6 of 8 parameters (75.0 %): model 6 of 8"


def test_weights_in_four_bits_count_as_what_they_stand_for() -> None:
    packed = nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = type("QuantState", (), {"shape": torch.Size([8, 4])})()
    part = Part("backbone", (packed,))
    assert (part.size, part.trained) == (32, 0)


@pytest.mark.parametrize(
    ("count", "total", "words"), [(0, 0, "0 %"), (5, 5, "100 %"), (1, 10**6, "0.1 %"), (999_999, 10**6, "99.9 %")]
)
def test_only_nothing_and_everything_are_0_and_100_percent(count: int, total: int, words: str) -> None:
    assert percent(count, total) == words


def test_a_run_is_refused_before_anything_is_evaluated(
    tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = BiEncoderConfig.build

    def frozen(self: BiEncoderConfig, seed: int) -> BiEncoder:
        model = build(self, seed)
        model.tower.requires_grad_(False)
        return model

    monkeypatch.setattr(BiEncoderConfig, "build", frozen)
    learned = ["model=bi_encoder_learned", "loss.temperature=null", "eval.depth=100"]
    settings = load(["+exp=embedder_infonce", *tiny_run, *learned, "run_name=run"])
    for start in (train, lambda settings: build_workload(settings, None, autocast=None)):
        with pytest.raises(ValueError, match=r"its part backbone is frozen .* and model.lora=null asks to train it"):
            start(settings)
    assert not (tmp_path / "outputs" / "run" / "metrics.jsonl").exists()
