"""What the trainer gets of a bi-encoder, option by option."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from bi_encoders import TEXTS, embed, features
from torch import nn

from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.dropout import disable_dropout
from models.lora import LoRAConfig, has_adapters, merge_adapters, reference
from models.tokenization import PairTokenizer


def build(folder: Path, seed: int = 0, **options) -> BiEncoder:
    return BiEncoderConfig(str(folder), **({"max_length": 32} | options)).build(seed)


def test_starts_alike_everywhere_and_leaves_the_random_numbers_alone(tiny_bert_dir):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (build(tiny_bert_dir, seed, projection=8, lora=LoRAConfig(r=2)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.tower.dense[0].linear.weight, other.tower.dense[0].linear.weight)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_without_its_package_is_one_line(tiny_bert_dir):
    with pytest.raises(
        ValueError, match=r"^model.attention=flash_attention_2: .* installed: leave it out \(null: "
    ) as error:
        build(tiny_bert_dir, attention="flash_attention_2")
    assert "\n" not in str(error.value)


def test_embeddings_have_unit_length_under_cosine(tiny_bert_dir):
    assert embed(build(tiny_bert_dir).eval()).norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    raw = embed(build(tiny_bert_dir, similarity="dot").eval())
    assert (raw.norm(dim=1) - 1).abs().min() > 0.1
    torch.testing.assert_close(nn.functional.normalize(raw), embed(build(tiny_bert_dir).eval()))


def test_earlier_layers(tiny_bert_dir):
    model = build(tiny_bert_dir, projection=8, dropout=0.0)
    assert set(model(**features(model, TEXTS))) == {"embedding"}
    model.prepare(wanted_outputs={"layers"})
    assert set(model.eval()(**features(model, TEXTS))) == {"embedding"}
    model.train()
    inputs = features(model, TEXTS)
    output = model(**inputs)
    hidden = model.tower.backbone(**inputs, output_hidden_states=True).hidden_states
    assert output["layers"].shape == (4, len(hidden) - 2, 8)
    mask = inputs["attention_mask"][:, :, None]
    mean = (hidden[1] * mask).sum(1) / mask.sum(1)
    expected = nn.functional.normalize(mean @ model.tower.dense[0].linear.weight.T)
    torch.testing.assert_close(output["layers"][:, 0], expected)
    torch.testing.assert_close(output["embedding"], embed(build(tiny_bert_dir, projection=8).eval()))


def test_a_fixed_temperature_is_given_in_every_row(tiny_bert_dir):
    model = build(tiny_bert_dir, temperature=0.05, bias=-2.0)
    output = model(**features(model, TEXTS))
    assert output["scale"].tolist() == [20.0] * 4
    assert output["bias"].tolist() == [-2.0] * 4
    assert not output["scale"].requires_grad
    assert not [name for name, _ in model.named_parameters() if "scale" in name]


def test_a_learned_temperature_has_an_exact_gradient_from_one_row(tiny_bert_dir):
    model = build(tiny_bert_dir, temperature=0.05, learn_temperature=True, bias=1.0, learn_bias=True)
    output = model(**features(model, TEXTS))
    assert output["scale"].tolist() == pytest.approx([20.0] * 4)
    (3 * output["scale"][0] + 5 * output["bias"][0]).backward()
    assert model.scale.log_scale.grad.item() == pytest.approx(3 * 20.0)  # d s / d log s = s
    assert model.scale.bias.grad.item() == 5.0


def test_a_learned_scale_is_at_most_100_and_can_come_back(tiny_bert_dir):
    model = build(tiny_bert_dir, temperature=0.01, learn_temperature=True)
    with torch.no_grad():
        model.scale.log_scale += 3
    scale = model(**features(model, TEXTS))["scale"]
    assert scale.tolist() == pytest.approx([100.0] * 4, rel=1e-5)
    scale[0].backward()
    assert model.scale.log_scale.grad.item() == pytest.approx(100.0, rel=1e-5)


def test_dropout(tiny_bert_dir):
    torch.manual_seed(0)
    model = build(tiny_bert_dir, dropout=0.5)
    inputs = features(model, TEXTS)
    assert model.requested_dropout == 0.5
    assert not torch.equal(model(**inputs)["embedding"], model(**inputs)["embedding"])
    disable_dropout(model)
    assert torch.equal(model(**inputs)["embedding"], model(**inputs)["embedding"])
    assert build(tiny_bert_dir, lora=LoRAConfig(dropout=0.1)).requested_dropout == 0.1


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
def test_checkpointing_gives_equal_gradients(tiny_bert_dir, lora):
    gradients = []
    for checkpointing in (False, True):
        model = build(tiny_bert_dir, gradient_checkpointing=checkpointing, lora=lora, dropout=0.0)
        model(**features(model, TEXTS))["embedding"].pow(3).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient is not None for gradient in gradients[0].values()), "every trained weight takes part"
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5)


def test_the_start_is_at_hand_under_lora_unless_more_is_trained(tiny_bert_dir):
    model = build(tiny_bert_dir, lora=LoRAConfig(r=4), separate_towers=True, dropout=0.0)
    start = embed(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert (embed(model) - start).abs().max() > 1e-2
    assert has_adapters(model)
    with reference(model) as starting:
        torch.testing.assert_close(embed(starting), start)
    for options in ({"projection": 8}, {"temperature": 0.1, "learn_temperature": True}):
        model = build(tiny_bert_dir, lora=LoRAConfig(r=4), **options)
        assert not has_adapters(model)
        with pytest.raises(ValueError, match="no other trained weights"), reference(model):
            pass
    assert not has_adapters(build(tiny_bert_dir))


def test_separate_towers_start_alike_and_part(tiny_bert_dir):
    model = build(tiny_bert_dir, separate_towers=True, dropout=0.0)
    whole = build(tiny_bert_dir, dropout=0.0)
    encoding = model.tokenizer.encode_list("what is python?", TEXTS)
    assert [row[0] for row in encoding["is_query"]] == [1, 0, 0, 0, 0]
    for role in ("query", "document"):
        torch.testing.assert_close(embed(model, role=role), embed(whole))
    queries, documents = features(model, TEXTS, "query"), features(model, TEXTS, "document")
    mixed = {name: torch.cat([documents[name][:1], queries[name][1:3], documents[name][3:]]) for name in queries}
    model(**mixed)["embedding"][1:3].pow(3).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(g.abs().sum() > 0 for n, g in grads.items() if "tower.query" in n and "LayerNorm.weight" in n)
    assert all(g.eq(0).all() for n, g in grads.items() if "tower.document" in n), "in the graph, and untouched"
    with torch.no_grad():
        model.tower.query.backbone.embeddings.LayerNorm.weight.mul_(torch.linspace(0.5, 2, 32))
    output = model(**mixed)["embedding"]
    torch.testing.assert_close(output[[0, 3]], embed(whole)[[0, 3]])
    torch.testing.assert_close(output[1:3], embed(model, role="query")[1:3])
    assert (output[1:3] - embed(whole)[1:3]).abs().max() > 1e-2


def test_both_towers_run_for_rows_of_one_role(tiny_bert_dir):
    model = build(tiny_bert_dir, separate_towers=True)
    model(**features(model, TEXTS, "query"))["embedding"].sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_prompts_by_role_and_by_call(tiny_bert_dir):
    tokenizer = build(tiny_bert_dir, prompts={"query": "rank ", "passage": "list "}).tokenizer
    plain = build(tiny_bert_dir).tokenizer
    assert tokenizer(["x"], "query") == plain(["rank x"])
    assert tokenizer(["x"], "document") == plain(["list x"])
    assert tokenizer(["x"], "query", prompt="") == tokenizer(["x"]) == plain(["x"])
    own = tokenizer.encode_list("x", ["y", "z"])
    assert own == plain.encode_list("x", ["y", "z"], "rank ", "list ")
    given = tokenizer.encode_list("x", ["y"], query_prompt="what is ", document_prompt="")
    assert given["input_ids"] == [*plain(["what is x"])["input_ids"], *plain(["y"])["input_ids"]]
    assert pickle.loads(pickle.dumps(tokenizer)).encode_list("x", ["y", "z"]) == own


def test_prompts_of_pairs(tiny_bert_dir):
    plain = build(tiny_bert_dir).tokenizer
    pairs = PairTokenizer(plain.tokenizer, 32, {"web": "rank "}, "web")
    assert pairs.encode_list("x", ["y", "z"]) == pairs(["x", "x"], ["y", "z"]) == pairs(["x"] * 2, ["y", "z"], "rank ")
    prompted = pairs.encode_list("x", ["y"], query_prompt="what is ", document_prompt="value ")
    assert prompted == PairTokenizer(plain.tokenizer, 32)(["what is x"], ["value y"])


def test_a_prompt_that_leaves_no_room_is_refused(tiny_bert_dir):
    long = "python returns the value of a list " * 5
    message = r"^prompt 'python returns .* tokens of model.max_length=32: shorten it, or raise model.max_length$"
    with pytest.raises(ValueError, match=message):
        build(tiny_bert_dir, prompts={"query": long})
    with pytest.raises(ValueError, match="shorten it"):
        build(tiny_bert_dir).tokenizer.encode_list("x", ["y"], query_prompt=long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "first"}, "model.pooling=first: choose cls, max, mean"),
        ({"similarity": "euclidean"}, "model.similarity=euclidean: choose null, cosine, dot"),
        ({"normalize": False}, "model.normalize=false: cosine needs"),
        ({"projection": 0}, "model.projection=0 must be"),
        ({"dropout": 1.0}, "model.dropout=1.0 must be"),
        ({"temperature": 0.0}, "model.temperature=0.0 must be"),
        ({"temperature": 0.005, "learn_temperature": True}, "a learned one starts at 0.01 or above"),
        ({"learn_temperature": True}, "model.learn_temperature=true needs a start.*set model.temperature"),
        ({"temperature": 0.1, "learn_bias": True}, "model.learn_bias=true needs a start.*set model.bias"),
        ({"bias": math.nan}, "model.bias=nan must be"),
        ({"quantization": "8bit", "lora": LoRAConfig()}, "model.quantization=8bit: choose null or 4bit"),
        ({"quantization": "4bit"}, "model.quantization=4bit freezes the weights: train adapters"),
    ],
)
def test_mistakes_are_one_line(tiny_bert_dir, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(tiny_bert_dir, **options)
    assert "\n" not in str(caught.value)


def test_quantization_is_refused_before_anything_is_loaded_where_it_cannot_run(monkeypatch):
    config = BiEncoderConfig("no/such/model", quantization="4bit", lora=LoRAConfig())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^model.quantization=4bit needs a CUDA device"):
        config.build(seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"^model.quantization=4bit needs bitsandbytes"):
        config.build(seed=0)


def test_quantized_weights_are_merged_in_float32(tiny_bert_dir, monkeypatch):
    """With a stand-in for bitsandbytes: weights as integers, with their constants beside them in the state."""
    model = build(tiny_bert_dir, lora=LoRAConfig(r=4))
    expected = merge_adapters(
        model.tower.backbone, {n: v.clone() for n, v in model.tower.backbone.state_dict().items()}
    )
    stand_in = types.ModuleType("bitsandbytes.functional")
    stand_in.dequantize_4bit = lambda data, constants: constants
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", stand_in)
    state = {name: value.clone() for name, value in model.tower.backbone.state_dict().items()}
    name = "base_model.model.encoder.layer.0.attention.self.query.base_layer"
    weight = model.tower.backbone.get_submodule(name).weight
    weight.quant_state = weight.data.clone()
    state[f"{name}.weight"] = torch.zeros(512, 1, dtype=torch.uint8)
    state[f"{name}.weight.absmax"] = torch.zeros(16)
    model.tower.backbone.get_base_model().config.quantization_config = {"load_in_4bit": True}
    merged = merge_adapters(model.tower.backbone, state)
    assert not hasattr(merged.config, "quantization_config")
    for key, value in merged.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key])


def test_a_prompt_of_no_role_is_refused():
    with pytest.raises(ValueError, match=r"model.prompts.qury is not a role of a text: choose query, document,"):
        BiEncoderConfig(prompts={"qury": "query: "})
