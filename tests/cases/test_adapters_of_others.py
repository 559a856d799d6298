"""Adapters that other libraries have saved: right scores, or one line that names adapter_config.json and its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from launch.rerank import main as rerank
from models.bi_encoder import BiEncoderConfig
from models.cpu.kernels import plain_class
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig

QUERY, DOCUMENT = "what is the train", "a red apple"
TARGETS = {"bert": ["query", "value"], "qwen2": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    tiny_models.write_tiny_bert(root / "encoder")
    tiny_models.write_tiny_bert(root / "reranker", reranker=True, seed=1)
    tiny_models.write_tiny_causal(root / "causal")
    return {folder.name: folder for folder in root.iterdir()}


def save_adapter(
    folder: Path,
    model: Any,
    task: str | None,
    *,
    head: list[str] | None = None,
    tokenizer: Path | None = None,
    bias: Any = "none",
) -> Any:
    """Save an adapter that is no longer 0 as peft does. Returns the model with it."""
    targets = TARGETS[model.config.model_type]
    options = LoraConfig(
        r=2, task_type=task, target_modules=targets, modules_to_save=head, init_lora_weights=False, bias=bias
    )
    adapted = get_peft_model(model, options).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and name.endswith("bias"):
                parameter.add_(0.1)
    adapted.save_pretrained(str(folder))
    if tokenizer is not None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return adapted


def edit(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def features(rows: Any) -> dict[str, Tensor]:
    tensors = {name: torch.tensor(ids) for name, ids in dict(rows).items() if name != "truncated"}
    return {**tensors, "attention_mask": torch.ones_like(tensors["input_ids"])}


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["SEQ_CLS", None])
@pytest.mark.parametrize("base", ["encoder", "causal"])
@torch.no_grad()
def test_a_rerankers_adapter_scores_as_in_peft(
    base: str, task: str | None, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Its folder has no tokenizer: peft saves none."""
    model = AutoModelForSequenceClassification.from_pretrained(bases[base], num_labels=1)
    head = ["classifier"] if base == "encoder" else ["score"]
    adapted = save_adapter(tmp_path / "adapter", model, task, head=head)
    ours = CrossEncoder.load(tmp_path / "adapter", max_length=48)
    rows = features(ours.tokenizer([QUERY], [DOCUMENT]))
    close(ours(**rows)["score"], adapted(**rows).logits[:, 0])


@pytest.mark.parametrize("task", ["SEQ_CLS", None])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("base", ["encoder", "reranker", "causal"])
@torch.no_grad()
def test_trained_biases_are_read_beside_a_saved_head(
    base: str, bias: str, task: str | None, bases: dict[str, Path], tmp_path: Path
) -> None:
    """peft writes the biases of a saved head by several names, and reads one."""
    model = AutoModelForSequenceClassification.from_pretrained(bases[base], num_labels=1)
    head = ["score"] if base == "causal" else ["classifier", "pooler"]
    save_adapter(tmp_path / "adapter", model, task, head=head, tokenizer=bases[base], bias=bias)
    fresh = AutoModelForSequenceClassification.from_pretrained(bases[base], num_labels=1)
    adapted = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    options = CrossEncoderConfig(str(tmp_path / "adapter"), max_length=48)
    options.check(needs_head=True)
    ours = options.build(0).eval()
    rows = features(ours.tokenizer([QUERY], [DOCUMENT]))
    close(ours(**rows)["score"], adapted(**rows).logits[:, 0])


@pytest.mark.parametrize("saved_on", ["encoder", "classifier"])
@torch.no_grad()
def test_an_encoders_adapter_is_loaded_inside_a_classifier_and_alone(
    saved_on: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Its names have the prefix `bert.` or not. Without a head it starts training, and ranks nothing."""
    kind = AutoModel if saved_on == "encoder" else BertForSequenceClassification
    adapted = save_adapter(tmp_path / "adapter", kind.from_pretrained(bases["encoder"]), "FEATURE_EXTRACTION")
    inside = adapted if saved_on == "encoder" else adapted.base_model.model.bert
    embedder = BiEncoderConfig(str(tmp_path / "adapter"), max_length=48).build(0).eval()
    rows = features(embedder.tokenizer([DOCUMENT]))
    close(embedder.tower.backbone(**rows).last_hidden_state, inside(**rows).last_hidden_state)
    options = CrossEncoderConfig(str(tmp_path / "adapter"), max_length=48)
    reranker = options.build(0).eval()
    assert reranker.fresh_head
    assert all(parameter.requires_grad for parameter in reranker.parameters())
    close(reranker.backbone.bert(**rows).last_hidden_state, inside(**rows).last_hidden_state)
    options.check()
    for use in (lambda: options.check(needs_head=True), lambda: CrossEncoder.load(tmp_path / "adapter")):
        with pytest.raises(ValueError, match=r"has no score head: .* model=bi_encoder"):
            use()
    with pytest.raises(ValueError, match="has no score head"):
        rerank([str(tmp_path / "adapter"), "--query", QUERY, DOCUMENT])


def test_an_adapter_without_a_head_on_a_reranker_has_the_head_of_its_base(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(bases["reranker"])
    adapted = save_adapter(tmp_path / "adapter", base, "FEATURE_EXTRACTION")
    ours = CrossEncoder.load(tmp_path / "adapter", max_length=48)
    rows = features(ours.tokenizer([QUERY], [DOCUMENT]))
    with torch.no_grad():
        close(ours(**rows)["score"], adapted(**rows).logits[:, 0])


@torch.no_grad()
def test_embeddings_that_an_adapter_has_enlarged_are_used(bases: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases["causal"])
    tokenizer.add_tokens(["zebra", "giraffe"])
    base = AutoModelForCausalLM.from_pretrained(bases["causal"])
    base.resize_token_embeddings(len(tokenizer))
    adapted = save_adapter(tmp_path / "adapter", base, "CAUSAL_LM")
    tokenizer.save_pretrained(tmp_path / "adapter")
    model = LLMRerankerConfig(str(tmp_path / "adapter"), 256, template="qwen3").build(0).eval()
    rows = features(model.tokenizer(["what is a zebra"], ["a giraffe"]))
    assert int(rows["input_ids"].max()) == len(tokenizer) - 1
    yes, no = model.tokenizer.answer_ids()
    logits = adapted(**rows).logits[0, -1]
    close(model(**rows)["score"][0], logits[yes] - logits[no])


def test_a_tokenizer_larger_than_the_bases_embeddings_may_be_removed(bases: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bases["encoder"], num_labels=1)
    folder = tmp_path / "adapter"
    save_adapter(folder, model, "SEQ_CLS", tokenizer=bases["encoder"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["stock", "brand", "colour"])
    tokenizer.save_pretrained(folder)
    options = CrossEncoderConfig(str(folder), max_length=48)
    with pytest.raises(ValueError, match=r"has \d+ tokens, .* remove the tokenizer's files there: that of the base is"):
        options.check()
    for file in folder.glob("*"):
        if not file.name.startswith("adapter"):
            file.unlink()
    options.check(needs_head=True)


@pytest.fixture
def of_kind(bases: dict[str, Path], tmp_path: Path) -> dict[str, tuple[Any, Path]]:
    """The options of each kind of model for a folder, and an adapter for it."""
    classifier = AutoModelForSequenceClassification.from_pretrained(bases["encoder"], num_labels=1)
    decoder = AutoModelForSequenceClassification.from_pretrained(bases["causal"], num_labels=1)
    models = {
        "SEQ_CLS": classifier,
        "SEQ_CLS decoder": decoder,
        "FEATURE_EXTRACTION": AutoModel.from_pretrained(bases["encoder"]),
        "FEATURE_EXTRACTION decoder": AutoModel.from_pretrained(bases["causal"]),
        "CAUSAL_LM": AutoModelForCausalLM.from_pretrained(bases["causal"]),
    }
    options = {
        "SEQ_CLS": lambda folder: CrossEncoderConfig(str(folder), max_length=48),
        "FEATURE_EXTRACTION": lambda folder: BiEncoderConfig(str(folder), max_length=48),
        "CAUSAL_LM": lambda folder: LLMRerankerConfig(str(folder), 256, template="qwen3"),
    }
    for name, model in models.items():
        base = bases["causal"] if model.config.model_type == "qwen2" else bases["encoder"]
        save_adapter(tmp_path / name, model, name.split()[0], tokenizer=base)
    return {name: (options[name.split()[0]], tmp_path / name) for name in models}


KINDS = ["SEQ_CLS", "SEQ_CLS decoder", "FEATURE_EXTRACTION", "FEATURE_EXTRACTION decoder", "CAUSAL_LM"]
OTHERS = {  # what each kind cannot read, and the remedy
    "SEQ_CLS": {"CAUSAL_LM": "model=llm_reranker model.template=NAME", "TOKEN_CLS": "merge it into its base"},
    "FEATURE_EXTRACTION": {"CAUSAL_LM": "model=llm_reranker", "SEQ_CLS": "choose model=cross_encoder"},
    "CAUSAL_LM": {"SEQ_CLS": "choose model=cross_encoder", "FEATURE_EXTRACTION": "choose model=bi_encoder"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_one_line_with_the_key(kind: str, of_kind: dict[str, tuple[Any, Path]]) -> None:
    options, folder = of_kind[kind]
    options(folder).check()
    file = folder / "adapter_config.json"
    original = file.read_text()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"task_type": task}, f"task_type={task}, .*{remedy}") for task, remedy in OTHERS[kind.split()[0]].items()
    ]
    cases += [
        ({"base_model_name_or_path": None}, "base_model_name_or_path is null: write the folder"),
        ({"base_model_name_or_path": ...}, "base_model_name_or_path is null: write the folder"),
        ({"base_model_name_or_path": "/mnt/moved/base"}, "base_model_name_or_path=/mnt/moved/base is not there: write"),
        ({"base_model_name_or_path": "someone/gone"}, "base_model_name_or_path=someone/gone is not there: write"),
        ({"base_model_name_or_path": str(folder)}, "base_model_name_or_path=.* is an adapter itself"),
        ({"peft_type": "PREFIX_TUNING"}, "peft_type=PREFIX_TUNING cannot be merged"),
        ({"target_modules": ["nowhere"]}, "adapter_config.json"),
    ]
    for change, message in cases:
        edit(folder, **change)
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            options(folder).check()
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
        file.write_text(original)
    options(folder).check()


def test_a_moved_base_is_found_once_the_key_is_right(
    of_kind: dict[str, tuple[Any, Path]], bases: dict[str, Path]
) -> None:
    options, folder = of_kind["SEQ_CLS"]
    moved = shutil.copytree(bases["encoder"], folder.parent / "moved")
    edit(folder, base_model_name_or_path=str(moved))
    options(folder).check(needs_head=True)


@pytest.mark.parametrize("kind", ["SEQ_CLS", "FEATURE_EXTRACTION"])
def test_an_adapter_of_another_architecture_is_not_left_out(
    kind: str, of_kind: dict[str, tuple[Any, Path]], bases: dict[str, Path]
) -> None:
    options, folder = of_kind[kind]
    edit(folder, base_model_name_or_path=str(bases["causal"]))
    with pytest.raises(ValueError, match=r"set base_model_name_or_path in adapter_config.json to the model"):
        options(folder).check()


def test_a_head_of_two_labels_is_no_rerankers(bases: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bases["encoder"], num_labels=2)
    save_adapter(tmp_path / "adapter", model, "SEQ_CLS", tokenizer=bases["encoder"])
    with pytest.raises(ValueError, match=r"adapter_config.json: the modules_to_save hold a score head of 2 labels"):
        CrossEncoderConfig(str(tmp_path / "adapter"), max_length=48).check()


def test_pickled_weights_are_said_to_be_such(bases: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", AutoModel.from_pretrained(bases["encoder"]), None)
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"lacks adapter_model.safetensors \(pickled weights are not read"):
        BiEncoderConfig(str(tmp_path / "adapter")).check()


def test_linear_layers_of_the_backbone_are_all_that_is_left(bases: dict[str, Path], tmp_path: Path) -> None:
    """A merged model is a plain one, also without its weights, as launch/plan.py builds it."""
    save_adapter(tmp_path / "adapter", AutoModel.from_pretrained(bases["encoder"]), None)
    model = BiEncoderConfig(str(tmp_path / "adapter"), max_length=48).build(0)
    assert not [name for name, module in model.named_modules() if "lora" in name]
    assert {plain_class(module) for name, module in model.named_modules() if name.endswith("self.query")} == {nn.Linear}
