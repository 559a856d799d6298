"""Tiny models with random weights, built offline in a second: what the tests of every folder train and load."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

WORDS = "what is the a of to in red green blue apple pear train rank list query document python returns value".split()  # noqa: SIM905


def write_tokenizer(folder: Path, *, max_length: int = 128) -> None:
    """An uncased WordPiece tokenizer of a few words and all single characters."""
    characters = list(string.ascii_lowercase + string.digits + string.punctuation)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    BertTokenizerFast(vocab=ids, do_lower_case=True, model_max_length=max_length).save_pretrained(folder)


def tiny_config(**options: Any) -> BertConfig:
    size = len(dict.fromkeys(string.ascii_lowercase + string.digits + string.punctuation))
    defaults = {
        "vocab_size": 5 + 2 * size + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # large, so that scores of random weights differ well
    }
    return BertConfig(**(defaults | options))


def write_tiny_bert(folder: Path, *, reranker: bool = False, seed: int = 0, **options: Any) -> Path:
    """A BERT encoder (or, with `reranker`, one with a score head) as a transformers folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if reranker:
            model = BertForSequenceClassification(tiny_config(**({"num_labels": 1} | options)))
        else:
            model = BertModel(tiny_config(**options))
    write_tokenizer(folder)
    model.save_pretrained(folder)
    return folder
