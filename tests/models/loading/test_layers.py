"""Students that are cut from their teacher: which layers, and exports that are models of that size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.loading.layers import kept_indices
from models.lora import LoRAConfig

PAIRS = [("what is red", "red apple"), ("rank the list", "a python list of pear")]


def features(encoding):
    """The tensors of rows of one length."""
    rows = {name: torch.tensor(value) for name, value in encoding.items() if name != "truncated"}
    return rows | {"attention_mask": torch.ones_like(rows["input_ids"])}


def scores(model):
    with torch.no_grad():
        encoded = [features(model.tokenizer.encode_list(query, [document])) for query, document in PAIRS]
        return torch.cat([model(**each)["score"] for each in encoded])


@pytest.fixture
def modernbert(tmp_path: Path, tiny_models) -> Path:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path / "modernbert"
    tiny_models.write_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), num_labels=1, local_attention=4, initializer_range=0.2, **sizes, **ids
    )
    torch.manual_seed(0)
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("total", "number", "which", "kept"),
    [
        (12, 6, "even", [0, 2, 4, 7, 9, 11]),  # DistilBERT's
        (6, 3, "even", [0, 2, 5]),
        (6, 2, "even", [0, 5]),
        (6, 1, "even", [0]),
        (6, 6, "even", [0, 1, 2, 3, 4, 5]),
        (12, 4, "first", [0, 1, 2, 3]),
    ],
)
def test_which_layers(total, number, which, kept):
    assert kept_indices(total, number, which) == kept


@pytest.mark.parametrize("total", range(1, 30))
def test_all_layers_are_different_and_in_order(total):
    for number in range(1, total + 1):
        for which in ("even", "first"):
            kept = kept_indices(total, number, which)
            assert len(kept) == number
            assert kept == sorted(set(kept))
            assert kept[0] == 0
            assert kept[-1] < total


@pytest.mark.parametrize(("which", "kept"), [("even", [0, 2, 5]), ("first", [0, 1, 2])])
def test_a_bert_reranker(which, kept, tmp_path: Path, tiny_models):
    folder = tiny_models.write_tiny_bert(tmp_path / "teacher", reranker=True, num_hidden_layers=6)
    teacher = CrossEncoder.load(folder)
    student = CrossEncoderConfig(str(folder), num_layers=3, kept_layers=which).build(seed=0).eval()
    own, theirs = student.backbone.bert.encoder.layer, teacher.backbone.bert.encoder.layer
    for layer, index in zip(own, kept, strict=True):
        for name, weight in layer.named_parameters():
            assert torch.equal(weight, theirs[index].get_parameter(name))
    assert not student.fresh_head
    student.export(tmp_path / "student")
    assert AutoConfig.from_pretrained(tmp_path / "student").num_hidden_layers == 3
    again = CrossEncoder.load(tmp_path / "student")
    torch.testing.assert_close(scores(again), scores(student), atol=1e-6, rtol=0)
    assert not torch.equal(scores(student), scores(teacher))


def test_modernbert_keeps_the_kind_of_attention_of_every_layer(tmp_path: Path, modernbert: Path):
    teacher = CrossEncoder.load(modernbert)
    types = list(teacher.backbone.config.layer_types)
    assert len(set(types)) == 2
    student = CrossEncoderConfig(str(modernbert), num_layers=3).build(seed=0).eval()
    kept = kept_indices(7, 3, "even")
    assert student.backbone.config.layer_types == [types[index] for index in kept]
    student.export(tmp_path / "student")
    saved = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (saved["num_hidden_layers"], saved["layer_types"]) == (3, [types[index] for index in kept])
    torch.testing.assert_close(scores(CrossEncoder.load(tmp_path / "student")), scores(student), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_language_models(architecture: str, tmp_path: Path, tiny_models):
    folder = tiny_models.write_tiny_causal(tmp_path / "teacher", architecture=architecture, num_hidden_layers=5)
    student = LLMRerankerConfig(str(folder), 192, template="qwen3", num_layers=2).build(seed=0).eval()
    student.export(tmp_path / "student")
    config = AutoConfig.from_pretrained(tmp_path / "student")
    assert config.num_hidden_layers == 2
    assert len(getattr(config, "layer_types", None) or [0, 1]) == 2
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "student").model.layers) == 2
    again = LLMReranker.load(tmp_path / "student", 192)
    torch.testing.assert_close(scores(again), scores(student), atol=1e-6, rtol=0)


def test_a_t5_encoder(tmp_path: Path, tiny_models):
    folder = tiny_models.write_tiny_t5(tmp_path / "teacher", num_layers=4)
    student = BiEncoderConfig(str(folder), num_layers=2).build(seed=0).eval()
    student.export(tmp_path / "student")
    assert AutoConfig.from_pretrained(tmp_path / "student").num_layers == 2
    rows = features(student.tokenizer(["red apple"], role="query"))
    with torch.no_grad():
        torch.testing.assert_close(
            BiEncoder.load(tmp_path / "student")(**rows)["embedding"], student(**rows)["embedding"], atol=1e-6, rtol=0
        )


def test_both_towers_and_adapters(tmp_path: Path, tiny_models):
    folder = tiny_models.write_tiny_bert(tmp_path / "teacher", num_hidden_layers=4)
    options = BiEncoderConfig(str(folder), num_layers=2, separate_towers=True, lora=LoRAConfig(r=2))
    student = options.build(seed=0).eval()
    student.export(tmp_path / "student")
    for part in (tmp_path / "student").glob("*_0_Transformer"):
        assert len(AutoModel.from_pretrained(part).encoder.layer) == 2
    with pytest.raises(
        ValueError, match=r"adapter_only=true: other libraries would load .*: leave it or model.num_layers"
    ):
        CrossEncoderConfig(str(folder), num_layers=2, lora=LoRAConfig()).check_adapter_only()


def test_a_later_stage_starts_from_the_layers_that_were_kept(tmp_path: Path, tiny_models):
    folder = tiny_models.write_tiny_bert(tmp_path / "teacher", reranker=True, num_hidden_layers=4)
    options = CrossEncoderConfig(str(folder), num_layers=2)
    options.build(seed=0).export(tmp_path / "student")
    assert options.starting_from(tmp_path / "student").num_layers is None
    same = CrossEncoderConfig(str(tmp_path / "student"), num_layers=2).build(seed=0).eval()
    torch.testing.assert_close(scores(same), scores(CrossEncoder.load(tmp_path / "student")), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, r"model.num_layers=0 must be null \(all layers\) or at least 1"),
        ({"num_layers": 3}, r"model.num_layers=3: .* has 2 layers: give 1 to 2, or null \(all\)"),
        ({"num_layers": 1, "kept_layers": "last"}, r"model.kept_layers=last: choose even or first"),
    ],
)
def test_wrong_numbers(options, message, tiny_reranker_dir: Path):
    """They are told before data is read: without weights."""
    with pytest.raises(ValueError, match=message):
        CrossEncoderConfig(str(tiny_reranker_dir), **options).check()


def test_shared_layers_cannot_be_cut(tmp_path: Path, tiny_models):
    from transformers import AlbertConfig, AlbertForSequenceClassification

    folder = tmp_path / "albert"
    tiny_models.write_tokenizer(folder)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = AlbertConfig(vocab_size=300, intermediate_size=64, max_position_embeddings=128, num_labels=1, **sizes)
    AlbertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"the layers of .* \(albert\) are not one list of 4: choose another model"):
        CrossEncoderConfig(str(folder), num_layers=2).check()
