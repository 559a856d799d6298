"""The CPU's kernels in models: which run, and that weights, keys, modes and exports do not notice."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel

from inference.fingerprint import model_key
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.cpu import kernels
from models.cpu.kernels import use_cpu_kernels, use_torch_kernels
from models.cpu.linear import OneDnnLinear
from models.cpu.word_dropout import WordDropout
from models.lora import LoRAConfig

FEATURES = {"input_ids": torch.arange(5, 29).view(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether linear layers are oneDNN's, whatever this processor prefers."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: request.param)
    return request.param


def build(folder: Path, **options: object) -> BiEncoder:
    return BiEncoderConfig(str(folder), max_length=48, **options).build(seed=0)


def gradients(model: nn.Module, seed: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    model(**FEATURES)["embedding"].square().cumsum(1).sum().backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_models_have_them(onednn: bool, tiny_bert_dir: Path) -> None:
    model = build(tiny_bert_dir, lora=LoRAConfig(r=4, dropout=0.2))
    classes = {type(module) for module in model.modules() if isinstance(module, nn.Dropout | nn.Linear)}
    assert classes == {WordDropout, OneDnnLinear if onednn else nn.Linear}
    probabilities = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert probabilities == {0.1, 0.2}


@pytest.mark.parametrize("options", [{}, {"lora": LoRAConfig(r=4)}, {"attention": "eager"}])
def test_without_dropout_they_compute_what_torch_does(onednn: bool, options: dict, tiny_bert_dir: Path) -> None:
    model = build(tiny_bert_dir, dropout=0.0, **options)
    plain = copy.deepcopy(model)
    found = gradients(model)
    use_torch_kernels(plain)
    try:
        assert_close(found, gradients(plain))
    finally:
        use_cpu_kernels(plain)


def test_without_dropout_attention_is_torchs_fused_one(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the attention with dropout ran")

    monkeypatch.setattr(kernels, "attention_with_dropout", fail)
    gradients(build(tiny_bert_dir, dropout=0.0))
    build(tiny_bert_dir, dropout=0.5).eval()(**FEATURES)
    with pytest.raises(AssertionError, match="the attention with dropout ran"):
        gradients(build(tiny_bert_dir, dropout=0.5))


def test_dropout_follows_the_seed_and_ends_in_evaluation(onednn: bool, tiny_bert_dir: Path) -> None:
    model = build(tiny_bert_dir, dropout=0.3)
    first, other = gradients(model), gradients(model, seed=5)
    assert_close(gradients(copy.deepcopy(model)), first)
    name = next(name for name in first if name.endswith("query.weight"))
    assert not torch.allclose(first[name], other[name])
    model.eval()
    assert torch.equal(model(**FEATURES)["embedding"], model(**FEATURES)["embedding"])


def test_recomputed_activations_have_the_same_masks(onednn: bool, tiny_bert_dir: Path) -> None:
    whole = gradients(build(tiny_bert_dir, dropout=0.3))
    assert_close(gradients(build(tiny_bert_dir, dropout=0.3, gradient_checkpointing=True)), whole)


def test_attention_of_all_heads_with_padding_agrees_with_the_eager_one(tiny_bert_dir: Path) -> None:
    """The mean over masks, since the two draw them in another order."""
    features = FEATURES | {"attention_mask": (torch.arange(12) < torch.tensor([[12], [5]])).long()}
    many = {name: value.repeat(400, 1) for name, value in features.items()}
    means = []
    for attention in ("sdpa", "eager"):
        model = build(tiny_bert_dir, dropout=0.3, attention=attention)
        with torch.no_grad():
            means.append(model(**many)["embedding"].unflatten(0, (400, 2)).mean(0))
    torch.testing.assert_close(*means, atol=0.06, rtol=0)


def test_keys_weights_and_exports_are_those_of_the_plain_model(
    tiny_bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: False)
    plain = build(tiny_bert_dir)
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: True)
    model = build(tiny_bert_dir)
    assert model_key(model) == model_key(plain)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.export(tmp_path / "export")
    loaded = AutoModel.from_pretrained(tmp_path / "export")
    assert {type(module) for module in loaded.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    features = FEATURES | {"token_type_ids": torch.zeros_like(FEATURES["input_ids"])}
    tokens = loaded(**features).last_hidden_state
    embedding = functional.normalize(tokens.mean(1), dim=-1)
    torch.testing.assert_close(embedding, model.eval()(**FEATURES)["embedding"], atol=1e-5, rtol=0)


def test_autocast(tiny_bert_dir: Path) -> None:
    model = build(tiny_bert_dir, dropout=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**FEATURES)["embedding"]
    output.float().sum().backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)
