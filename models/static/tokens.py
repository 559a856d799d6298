"""The tokenizer of a static embedder: tokenizer.json alone, without tokens of its own around a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from models.loading.folder import first_line
from models.tokenization import UNLIMITED

FILE = "tokenizer.json"


def read_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a folder, and the most tokens of a text. Raises ValueError if the file cannot be read."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{folder / FILE}: not a tokenizer ({first_line(error)}): copy it again") from error
    cut = tokenizer.truncation or {}
    side = str(cut.get("direction", "right")).lower()
    return without_own_tokens(tokenizer, side), int(cut.get("max_length", UNLIMITED))


def without_own_tokens(tokenizer: Tokenizer, truncation_side: str = "right") -> PreTrainedTokenizerBase:
    """The same tokenizer, which puts no tokens around a text, cuts none and pads none by itself."""
    content = json.loads(tokenizer.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
    unknown = _unknown(content["model"])
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content, ensure_ascii=False)),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=UNLIMITED,
        truncation_side=truncation_side,
        **({} if unknown is None else {"unk_token": unknown}),
    )
    plain.split_special_tokens = False  # a text may spell every token, as in sentence-transformers
    return plain


def _unknown(model: dict[str, Any]) -> str | None:
    """The token of what is in no vocabulary, if the model has one."""
    if model.get("unk_id") is not None:  # of Unigram, whose vocabulary is a list of (token, score)
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Write tokenizer.json, which cuts texts at `max_length` tokens."""
    tokens: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    tokens.no_padding()
    tokens.no_truncation()
    if max_length < UNLIMITED:
        tokens.enable_truncation(max_length, direction=tokenizer.truncation_side)
    tokens.save(str(folder / FILE))


def vocabulary_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of rows that a table for all tokens has."""
    return max(tokenizer.get_vocab().values()) + 1
