"""The serving section of model cards: its Python code runs and gives the scores of training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from inference.golden import read_golden
from models.export.folder import card_on_hub
from recipes.serving.contract import Export
from recipes.serving.export import export_onnx
from recipes.serving.reference import Reference

pytestmark = pytest.mark.parity
PAIR = ("a query", "a document")


def snippets(folder: Path) -> dict[str, str]:
    """The Python code of a card, by the first library that each imports."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names = ("plackett", "onnxruntime", "AutoModelForSequenceClassification", "AutoModel", "sentence_transformers")
    return {next(name for name in names if name in code): code for code in found}


def run(code: str) -> dict:
    names: dict = {}
    exec(code, names)
    return names


def value(folder: Path, *texts: str, role: str = "query") -> torch.Tensor:
    """What the model gives for the texts of the card."""
    reference = Reference.load(Export(folder, read_golden(folder)))
    rows = reference.tokenizer(*([text] for text in texts), *([] if len(texts) > 1 else [role]))
    with torch.no_grad():
        return reference.values(rows)[0]


@pytest.fixture(scope="module")
def cards(exports) -> dict[str, dict[str, str]]:
    return {kind: snippets(folder) for kind, folder in exports.items()}


@pytest.mark.parametrize("kind", ["lora", "bi_encoder", "decoder"])
def test_code_of_an_embedding_model(kind, exports, cards):
    expected = value(exports[kind], PAIR[0])
    names = run(cards[kind]["plackett"])
    torch.testing.assert_close(torch.as_tensor(names["queries"])[0], expected, atol=1e-5, rtol=0)
    assert "AutoModel" in cards[kind] or kind == "bi_encoder", "a projection is no plain code"
    if "AutoModel" in cards[kind]:
        torch.testing.assert_close(run(cards[kind]["AutoModel"])["embedding"][0], expected, atol=1e-5, rtol=0)


def test_code_of_rerankers(exports, cards):
    for kind in ("cross_encoder", "llm"):
        reference = Reference.load(Export(exports[kind], read_golden(exports[kind])))
        expected = reference.model.activation(value(exports[kind], *PAIR))
        results = {result.document: result.score for result in run(cards[kind]["plackett"])["results"]}
        assert results[PAIR[1]] == pytest.approx(float(expected), abs=1e-4)
    score = run(cards["cross_encoder"]["AutoModelForSequenceClassification"])["score"]
    assert float(score) == pytest.approx(float(value(exports["cross_encoder"], *PAIR)), abs=1e-5)


@pytest.mark.parametrize("kind", ["lora", "cross_encoder", "llm"])
def test_code_of_onnx_runtime(kind, exports, cards, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    export_onnx(str(exports[kind]), Path("with_onnx"), int8=False)
    names = run(cards[kind]["onnxruntime"])
    if kind == "lora":
        embedding = torch.from_numpy(names["embedding"])[0]
        torch.testing.assert_close(embedding, value(exports[kind], PAIR[0]), atol=1e-5, rtol=0)
        return
    logits = torch.from_numpy(names["logits"])
    if kind == "llm":
        yes, no = Reference.load(Export(exports[kind], read_golden(exports[kind]))).tokenizer.answer_ids()
        found = logits[0, -1, yes] - logits[0, -1, no]
    else:
        found = logits[0, 0]
    assert float(found) == pytest.approx(float(value(exports[kind], *PAIR)), abs=1e-4)


def test_cards_say_what_was_not_run_and_name_the_repository_on_the_hub(exports):
    for kind, folder in exports.items():
        card = (folder / "README.md").read_text()
        assert "## Serve" in card
        if kind != "towers":
            assert "vllm serve" in card
            assert "not run" in card.replace("\n", " ")
        assert str(folder) not in card_on_hub(card, folder, "me/model"), kind


def test_prompts_stand_in_the_commands(exports):
    card = (exports["bi_encoder"] / "README.md").read_text()
    assert """-d '{"inputs": "what is the a query", "truncate": true}'""" in card
