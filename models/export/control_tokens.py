"""What an export says of control tokens that texts spell: to other libraries in their files, and in the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from models.control_tokens import NORMALIZED, control_tokens, read_by_others, rename_strings, rename_tokens
from models.loading.folder import SPLIT_SPECIAL_TOKENS, read_json
from models.tokenization import ModelTokenizer

LISTED_TOKENS = 12  # control tokens in a model card: some tokenizers have hundreds
REMEDY = "Remove them there from texts that you do not trust."
AS_TOKENS = "Control tokens that a query or document spells ({tokens}) are read as such, as in training."
AS_TEXT = "Control tokens that a query or document spells ({tokens}) are read as text. "
SPLIT = (
    "sentence-transformers and transformers do so too, by `split_special_tokens` in tokenizer_config.json{but}. "
    f"Servers that read tokenizer.json alone (text-embeddings-inference) do not. {REMEDY}"
)
UNSPELLABLE = (
    "So do sentence-transformers, transformers and servers: in the tokenizer of this folder these tokens have names "
    "that no text spells (between two noncharacters, U+FDD0), which its chat template writes. Their ids are as before."
)
BY_US_ALONE = f"Only plackett does so. {REMEDY}"


def splits_for_others(tokenizer: ModelTokenizer) -> bool:
    """Whether transformers' `split_special_tokens`, which reads the special tokens of prompts as text too, is right for
    the prompts of the model."""
    special, prompts = control_tokens(tokenizer.tokenizer, ""), tokenizer.all_prompts()
    return tokenizer.split_special_tokens and not any(token in prompt for prompt in prompts for token in special)


def write_unspellable_names(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str], folder: Path) -> None:
    """Give the control tokens of `tokenizer`, whose files are in `folder`, other `names` there: then no library reads
    one in a text."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    normalized = [token.content for token in added if token.content in names and token.normalized]
    content = read_json(folder / "tokenizer.json")
    rename_tokens(content, names)
    settings = rename_strings(read_json(folder / "tokenizer_config.json"), names)
    settings |= {NORMALIZED: normalized} if normalized else {}
    for name, value in (("tokenizer.json", content), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def own_settings(tokenizer: ModelTokenizer) -> dict[str, bool]:
    """The setting that plackett reads beside those of sentence-transformers, if it is not the default."""
    return {} if tokenizer.split_special_tokens else {SPLIT_SPECIAL_TOKENS: False}


def note(tokenizer: ModelTokenizer, *, has_template: bool = False) -> str:
    """Markdown on control tokens in texts, of a model with prompts or with a prompt template."""
    tokens = control_tokens(tokenizer.tokenizer, tokenizer.template_text)
    if not tokenizer.split_special_tokens:
        return f"\n{AS_TOKENS.format(tokens=_listed(tokens))}\n"
    if has_template:
        others = UNSPELLABLE
    elif splits_for_others(tokenizer):
        stay = read_by_others(tokenizer.tokenizer, tokenizer.template_text)
        others = SPLIT.format(but=f", except {_listed(stay)}" if stay else "")
    else:
        others = BY_US_ALONE
    return f"\n{AS_TEXT.format(tokens=_listed(tokens))}{others}\n"


def _listed(tokens: Sequence[str]) -> str:
    more = [f"{len(tokens) - LISTED_TOKENS} more"] if len(tokens) > LISTED_TOKENS else []
    return ", ".join([f"`{token}`" for token in tokens[:LISTED_TOKENS]] + more)
