"""Adapters on the head or the embeddings of a language model that shares one weight between the two."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.lora import LoRAConfig

PAIR = (["what is the train"], ["a red apple"])
ADAPTERS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
    "both_alike": {"target_modules": ["lm_head", "embed_tokens"], "ensure_weight_tying": True},
    "saved_head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved_embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved_both": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "saved_and_target": {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
    "neither": {"target_modules": ["q_proj"]},
}
STAY_TIED = ("tokens", "neither")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    folder: Path = tiny_models.write_tiny_causal(tmp_path_factory.mktemp("tied") / "base")
    return folder


def save_adapter(base: Path, folder: Path, **options: Any) -> None:
    """Save an adapter that has moved far, with the tokenizer."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=2, **options)
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def score_of(language_model: Any, reranker: LLMReranker) -> float:
    """z_yes - z_no of a plain language model after the reranker's prompt."""
    ids, (yes, no) = torch.tensor(reranker.tokenizer(*PAIR)["input_ids"]), reranker.tokenizer.answer_ids()
    logits: Tensor = language_model.eval()(input_ids=ids).logits[0, -1]
    return (logits[yes] - logits[no]).item()


def our_score(reranker: LLMReranker) -> float:
    ids = torch.tensor(reranker.tokenizer(*PAIR)["input_ids"])
    score: float = reranker.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))["score"].item()
    return score


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ADAPTERS)
@torch.no_grad()
def test_its_scores_are_those_in_peft_and_the_export_keeps_them(kind: str, base: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as TheirCrossEncoder

    save_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    options = LLMRerankerConfig(str(tmp_path / "adapter"), 192, template="qwen3")
    options.check()
    model = options.build(seed=0)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    expected = score_of(adapted, model)
    assert our_score(model) == pytest.approx(expected, abs=1e-5)
    embeddings, head = model.language_model.get_input_embeddings(), model.language_model.get_output_embeddings()
    assert (embeddings.weight is head.weight) == (kind in STAY_TIED)
    assert all(parameter.requires_grad for parameter in model.parameters())

    model.export(tmp_path / "export")
    assert our_score(LLMReranker.load(tmp_path / "export")) == pytest.approx(expected, abs=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert score_of(plain, model) == pytest.approx(expected, abs=1e-5)
    theirs = TheirCrossEncoder(str(tmp_path / "export"), device="cpu", activation_fn=torch.nn.Identity())
    assert float(theirs.predict([(PAIR[0][0], PAIR[1][0])])[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_new_adapter_on_top_of_it_is_merged_into_the_untied_model(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter", **ADAPTERS["head"])
    options = LLMRerankerConfig(str(tmp_path / "adapter"), 192, template="qwen3", lora=LoRAConfig(r=2))
    model = options.build(seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
        expected = our_score(model)
    model.export(tmp_path / "export")
    with torch.no_grad():
        assert our_score(LLMReranker.load(tmp_path / "export")) == pytest.approx(expected, abs=1e-5)


def test_without_weights_it_is_untied_too(base: Path, tmp_path: Path) -> None:
    """The memory plan counts the head."""
    from models.loading.backbone import without_weights

    save_adapter(base, tmp_path / "adapter", **ADAPTERS["head"])
    with without_weights():
        model = LLMRerankerConfig(str(tmp_path / "adapter"), 192, template="qwen3").build(seed=0)
    assert {part.name for part in model.parts()} == {"backbone", "head"}


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_our_own_adapters_are_not_put_there(target: str, base: Path) -> None:
    options = LLMRerankerConfig(str(base), 192, template="qwen3", lora=LoRAConfig(target_modules=["q_proj", target]))
    with pytest.raises(ValueError, match=f"target_modules={target}: this model's linear layers are .*q_proj"):
        options.build(seed=0)
