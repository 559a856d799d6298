"""LoRA: only adapters and the head move, the starting model stays at hand, and what is saved scores the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.lora import LoRAConfig, reference


def build(folder: Path, seed: int = 0, **options) -> CrossEncoder:
    options = {"max_length": 64, "lora": LoRAConfig(r=4, alpha=8), "dropout": 0.0} | options
    return CrossEncoderConfig(str(folder), **options).build(seed)


def features(model: CrossEncoder) -> dict[str, Tensor]:
    encoding = model.tokenizer(["what is python?"] * 3, ["a red apple", "the value", "a list of documents"])
    width = max(len(row) for row in encoding["input_ids"])
    padded = {name: torch.tensor([row + [0] * (width - len(row)) for row in rows]) for name, rows in encoding.items()}
    return padded | {"attention_mask": (padded["input_ids"] != 0).long()}


def train(model: CrossEncoder, steps: int = 3) -> CrossEncoder:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**features(model))["score"].log_softmax(0)[0].neg().backward()
        optimizer.step()
    return model


def scores(model: CrossEncoder) -> Tensor:
    with torch.no_grad():
        return model(**features(model))["score"]


def test_adapters_start_at_zero_and_alike_everywhere(tiny_bert_dir):
    first, again, plain = build(tiny_bert_dir, 5), build(tiny_bert_dir, 5), build(tiny_bert_dir, 5, lora=None)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    torch.testing.assert_close(scores(first), scores(plain), atol=1e-6, rtol=0)


def test_only_adapters_and_head_are_trained_and_move(tiny_bert_dir):
    model = build(tiny_bert_dir)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model)
    for name, parameter in model.named_parameters():
        is_trained = "lora_" in name or "modules_to_save" in name
        assert parameter.requires_grad == is_trained, name
        assert torch.equal(before[name], parameter) != is_trained, name
    targets = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name in before if "lora_A" in name}
    assert targets == {"query", "key", "value", "dense"}


def test_a_fresh_pooler_belongs_to_the_head(tmp_path, tiny_models):
    from safetensors.torch import load_file, save_file

    folder = tiny_models.write_tiny_bert(tmp_path / "encoder")
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if "pooler" not in k}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    trained = [name for name, parameter in build(folder).named_parameters() if parameter.requires_grad]
    assert sum("pooler.modules_to_save" in name for name in trained) == 2
    assert not any("pooler" in name and "lora" in name for name in trained)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "modernbert", "qwen2"])
def test_the_head_is_found_whatever_its_name(architecture, tiny_bert_dir, tmp_path, tiny_models):
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    if architecture == "qwen2":
        sizes["num_key_value_heads"] = 1
    config = AutoConfig.for_model(architecture, **sizes, vocab_size=200, pad_token_id=0, max_position_embeddings=80)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_models.write_tokenizer(tmp_path)
    model = build(tmp_path, attention="eager")
    head = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert head
    assert all("modules_to_save" in name for name in head)
    train(model)
    expected = scores(model.eval())
    model.export(tmp_path / "export")
    torch.testing.assert_close(scores(CrossEncoder.load(tmp_path / "export")), expected, atol=1e-5, rtol=0)


def test_reference_is_the_starting_model(tiny_reranker_dir):
    model = build(tiny_reranker_dir)
    start = scores(model)
    trained = scores(train(model))
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with reference(model) as frozen:
        torch.testing.assert_close(scores(frozen), start, atol=1e-6, rtol=0)
    torch.testing.assert_close(scores(model), trained, atol=1e-6, rtol=0)
    assert (trained - start).abs().max() > 1e-2
    assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match="need LoRA"), reference(build(tiny_reranker_dir, lora=None)):
        pass


@pytest.mark.parametrize("adapter_only", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_saved_and_reloaded_scores_are_equal(adapter_only, fresh, tiny_bert_dir, tiny_reranker_dir, tmp_path):
    model = train(build(tiny_bert_dir if fresh else tiny_reranker_dir, dropout=0.1)).eval()
    expected, state = scores(model), copy.deepcopy(model.state_dict())
    model.export(tmp_path / "export", adapter_only=adapter_only)
    reloaded = CrossEncoder.load(tmp_path / "export")
    torch.testing.assert_close(scores(reloaded), expected, atol=1e-5, rtol=0)
    assert type(reloaded.activation) is type(model.activation)
    assert (tmp_path / "export" / "model.safetensors").exists() != adapter_only
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"the export changed {name}"


def test_training_goes_on_from_a_saved_adapter(tiny_reranker_dir, tmp_path):
    model = train(build(tiny_reranker_dir))
    model.export(tmp_path / "export", adapter_only=True)
    continued = build(tmp_path / "export")
    with reference(continued):
        torch.testing.assert_close(scores(continued), scores(model), atol=1e-5, rtol=0)
    assert not continued.fresh_head


def test_checkpointing_gives_equal_gradients(tiny_bert_dir):
    gradients = []
    for checkpointing in (False, True):
        model = train(build(tiny_bert_dir, gradient_checkpointing=checkpointing).train(), steps=2)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5)


def test_mistakes_name_the_valid_layers(tiny_bert_dir):
    with pytest.raises(ValueError, match=r"target_modules=q_proj: .*dense, key, query, value"):
        build(tiny_bert_dir, lora=LoRAConfig(target_modules=["query", "q_proj"]))
    with pytest.raises(ValueError, match="r=0"):
        LoRAConfig(r=0)
