"""T5, mT5 and UMT5 as embedding models: the encoder alone, as sentence-transformers reads gtr and sentence-t5."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from data.batch import TokenSequences
from data.collate import Collator
from launch.cli.compose import load
from models.attention import can_pack
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.lora import LoRAConfig
from recipes.build import make_trainer
from recipes.cost_plan.estimate import Machine, make_plans
from recipes.training_run import train
from runs.directory import RunDirectory
from runs.loggers.logger import NoLogger
from runs.settings_tree import as_tree

KINDS = ("t5", "mt5", "umt5")
TEXTS = [
    "what is the train",
    "a pear",
    "",
    "the value of a list in python returns the train of a red apple " * 6,  # cut
    "<extra_id_0> </s> is text",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    """By kind and layout: a plain folder with a decoder, one with modules and the encoder alone."""
    root = tmp_path_factory.mktemp("t5")
    for kind in KINDS:
        tiny_models.write_tiny_t5(root / f"{kind} plain", kind=kind)
        tiny_models.write_tiny_t5(root / f"{kind} modules", kind=kind, whole=False, modules=True)
    tiny_models.write_tiny_t5(root / "gated modules", whole=False, modules=True, feed_forward_proj="gated-gelu")
    return {folder.name: folder for folder in root.iterdir()}


def embed(model: BiEncoder, texts: list[str], role: str | None = None, prompt: str | None = None) -> torch.Tensor:
    sequences = TokenSequences.from_encoding(model.tokenizer(texts, role, prompt))
    features = Collator(model.tokenizer.padding, 10_000).collate(sequences, range(len(texts)))
    with torch.no_grad():
        return model.eval()(**features)["embedding"]


NAMES = [*(f"{kind} {layout}" for kind in KINDS for layout in ("plain", "modules")), "gated modules"]


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_those_of_sentence_transformers_and_of_the_export(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    st = pytest.importorskip("sentence_transformers")
    ours = BiEncoderConfig(str(folders[name]), split_special_tokens=False).build(0)
    assert ours.dimension == (32 if "plain" in name else 24)
    ours.export(tmp_path / "export")
    again = BiEncoder.load(tmp_path / "export")
    for folder in (folders[name], tmp_path / "export"):
        theirs = st.SentenceTransformer(str(folder), device="cpu")
        for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
            expected = torch.from_numpy(encode(TEXTS, normalize_embeddings=True))
            for model in (ours, again):
                torch.testing.assert_close(embed(model, TEXTS, role), expected, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "export" / "config.json").read_text())["architectures"][0].endswith("EncoderModel")


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_and_order_and_text_do(name: str, folders: dict[str, Path]) -> None:
    model = BiEncoderConfig(str(folders[name])).build(0)
    together = embed(model, TEXTS)
    alone = torch.cat([embed(model, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    swapped = embed(model, ["the train", "train the"])
    assert (swapped[0] - swapped[1]).abs().max() > 1e-3, "the relative position bias is read"


def test_an_instruction_is_left_out_of_the_mean(folders: dict[str, Path], tmp_path: Path) -> None:
    """As in INSTRUCTOR: its tokens are read by the others, and not pooled. With them the embedding is another."""
    model = BiEncoderConfig(str(folders["t5 modules"])).build(0)
    rows = model.tokenizer(["a red pear"], "query")
    assert rows["pooled"] == [[0] * 4 + [1] * (len(rows["input_ids"][0]) - 4)]
    features = {n: torch.tensor(v) for n, v in rows.items() if n not in ("truncated", "attention_mask")}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    with torch.no_grad():
        states = model.eval().tower.backbone(features["input_ids"], features["attention_mask"]).last_hidden_state
        expected = torch.nn.functional.normalize(model.tower.dense(states[:, 4:].mean(1)), dim=-1)
        torch.testing.assert_close(model(**features)["embedding"], expected, atol=1e-6, rtol=0)
        whole = torch.nn.functional.normalize(model.tower.dense(states.mean(1)), dim=-1)
    assert (whole - expected).abs().max() > 1e-3
    model.export(tmp_path / "export")
    assert json.loads((tmp_path / "export" / "1_Pooling" / "config.json").read_text())["include_prompt"] is False


@pytest.mark.parametrize("name", ["hkunlp/instructor-base", "someone/my-instructor"])
def test_instructor_by_its_hub_id(
    name: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folders on the hub do not say that the instruction is not pooled. Another folder is pooled, and a line says
    it."""
    folder = tmp_path / "instructor"
    shutil.copytree(folders["t5 modules"], folder)
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    del config["include_prompt"]
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("models.pretrained.resolve", lambda *_, **__: folder)
    with caplog.at_level(logging.WARNING):
        model = BiEncoderConfig(name).build(0)
    is_known = name.startswith("hkunlp")
    assert model.tokenizer.include_prompt == (not is_known)
    assert ("pools its instruction" in caplog.text) == (not is_known)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["t5", "umt5"])
def test_a_run_trains_it_and_the_export_has_its_scores(
    kind: str, lora: bool, folders: dict[str, Path], tiny_run: list[str], tmp_path: Path
) -> None:
    st = pytest.importorskip("sentence_transformers")
    start = folders[f"{kind} modules"]
    options = ["+exp=embedder_infonce", *tiny_run, f"model.name_or_path={start}", "eval.depth=100", "run_name=run"]
    options += ["model=bi_encoder_lora", "model.lora.r=4"] if lora else []
    settings = load([*options, "trainer.max_steps=3", "trainer.learning_rate=0.5"])
    run, model = RunDirectory.open(as_tree(settings)), settings.model.build(settings.seed)
    trainer = make_trainer(settings, settings.data.build(), run, model, sets={}, logger=NoLogger())
    trainer.evaluator = None  # the last weights are exported, not the best on dev
    trainer.fit()
    folder = tmp_path / "export"
    model.export(folder)
    ours, before = BiEncoder.load(folder), BiEncoder.load(start)
    texts = TEXTS[:4]  # without the control tokens, which it does not read as text
    theirs = torch.from_numpy(st.SentenceTransformer(str(folder), device="cpu").encode_document(texts))
    torch.testing.assert_close(embed(ours, texts, "document"), theirs, atol=1e-5, rtol=0)
    assert (embed(before, texts, "document") - theirs).abs().max() > 1e-3, "it was not trained"


def test_lora_adapts_every_linear_layer_of_the_encoder_and_an_adapter_alone_can_be_loaded(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = BiEncoderConfig(str(folders["t5 plain"]), lora=LoRAConfig(r=2)).build(0)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q", "k", "v", "o", "wi", "wo"}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    expected = embed(model, TEXTS)
    for adapter_only in (False, True):
        model.export(tmp_path / str(adapter_only), adapter_only=adapter_only)
        torch.testing.assert_close(
            embed(BiEncoder.load(tmp_path / str(adapter_only)), TEXTS), expected, atol=1e-5, rtol=0
        )
    with pytest.raises(
        ValueError, match=r"model.lora.target_modules=query: this model's linear layers are k, o, q, v, wi"
    ):
        BiEncoderConfig(str(folders["t5 plain"]), lora=LoRAConfig(target_modules=["query"])).build(0)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_dropout_checkpointing_and_two_towers(kind: str, folders: dict[str, Path]) -> None:
    folder = str(folders[f"{kind} plain"])
    model = BiEncoderConfig(folder, dropout=0.0, gradient_checkpointing=True).build(0)
    model.prepare(wanted_outputs={"layers"})
    rows = model.tokenizer(["a red pear"])
    features: dict[str, Any] = {"input_ids": torch.tensor(rows["input_ids"])}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    outputs = model.train()(**features)
    assert outputs["layers"].shape == (1, 2, 32)
    torch.testing.assert_close(outputs["embedding"].detach(), embed(model, ["a red pear"]), atol=1e-6, rtol=0)
    model.train()(**features)["embedding"][0, 0].backward()
    without = {n for n, weight in model.named_parameters() if weight.requires_grad and weight.grad is None}
    assert not without
    towers = BiEncoderConfig(folder, separate_towers=True).build(0)
    torch.testing.assert_close(embed(towers, TEXTS, "query"), embed(towers, TEXTS, "document"), atol=1e-6, rtol=0)


def test_a_reranker_is_refused_with_what_it_is_for(folders: dict[str, Path], tiny_run: list[str]) -> None:
    folder = folders["t5 plain"]
    line = "t5 is an encoder-decoder, whose encoder is read as an embedding model only: choose model=bi_encoder"
    with pytest.raises(ValueError, match=line):
        CrossEncoderConfig(str(folder)).check()
    with pytest.raises(ValueError, match=line):
        train(load(["+exp=reranker_listwise", *tiny_run, f"model.name_or_path={folder}"]))


def test_its_rows_are_never_packed(folders: dict[str, Path]) -> None:
    """Its position bias is that of distances along the row."""
    backbone: Any = BiEncoderConfig(str(folders["t5 plain"]), attention="eager").build(0).tower.backbone
    assert not can_pack(backbone.config)


def test_a_linear_layer_with_pickled_weights_is_one_line(tiny_models: ModuleType, tmp_path: Path) -> None:
    folder = tiny_models.write_tiny_t5(tmp_path / "gtr", whole=False, modules=True)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"2_Dense lacks model.safetensors \(pickled weights are not read"):
        BiEncoderConfig(str(folder)).check()


def test_the_memory_plan_knows_it(folders: dict[str, Path], tiny_run: list[str]) -> None:
    options = ["+exp=embedder_infonce", *tiny_run, f"model.name_or_path={folders['t5 plain']}", "eval.depth=100"]
    (plan,) = make_plans(load(options), Machine("cpu", 2**34, None), ranks=[1], reads_data=True).values()
    sizes = sum(weight.numel() for weight in BiEncoderConfig(str(folders["t5 plain"])).build(0).parameters())
    assert plan.workload.parameters.total == sizes
