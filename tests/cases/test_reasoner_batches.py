"""A reasoning reranker gives a prompt the same score whatever prompts are beside it, whatever its kind of positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from models.prompts.reasoning_template import ReasoningTemplate
from models.reasoner import Reasoner

TEMPLATE = ReasoningTemplate(
    pieces=["query: {query}\ndocument: {document}\n<think>\n{reasoning}\n</think>\n\n"],
    true_answer="yes",
    false_answer="no",
)
SIZES = {"hidden_size": 32, "num_attention_heads": 2}
MODELS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},  # absolute positions
    "opt": {**SIZES, "num_hidden_layers": 2, "ffn_dim": 64, "word_embed_proj_dim": 32},  # absolute, after an offset
    "qwen2": {**SIZES, "num_hidden_layers": 2, "intermediate_size": 64, "num_key_value_heads": 2},  # rotary
}


def language_model(architecture: str, tokenizer) -> nn.Module:
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **MODELS[architecture], **ids)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)  # so that a wrong position shows
    return model


@pytest.mark.parametrize("architecture", MODELS)
def test_score_does_not_depend_on_the_batch(architecture: str, tiny_causal_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal_dir)
    model = language_model(architecture, tokenizer)
    answers = tuple(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
    reasoner = Reasoner(model, tokenizer, TEMPLATE, answers, 4)
    texts = ["apple", "what is the rank of a list", "red apple list query document " * 4, "pear"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    together = reasoner(ids, mask)["score"]
    alone = torch.cat([reasoner(torch.tensor([row]), torch.ones(1, len(row)))["score"] for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert together.std() > 1e-2, "the prompts differ"
    closing = tokenizer(TEMPLATE.closing, add_special_tokens=False)["input_ids"]
    thoughts = [reasoner.reason([row], torch.device("cpu"))[0] for row in rows]
    for row, thought, score in zip(rows, thoughts, together, strict=True):
        logits = model(torch.tensor([row + thought + closing])).logits[0, -1]
        torch.testing.assert_close(score, logits[answers[0]] - logits[answers[1]], atol=1e-4, rtol=0)
