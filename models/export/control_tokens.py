"""What an export says of control tokens that texts spell: to other libraries in their files, and in the model card."""

from __future__ import annotations

from collections.abc import Sequence

from models.control_tokens import control_tokens, read_by_others
from models.loading.folder import SPLIT_SPECIAL_TOKENS
from models.tokenization import ModelTokenizer

LISTED_TOKENS = 12  # control tokens in a model card: some tokenizers have hundreds
REMEDY = "Remove them there from texts that you do not trust."
AS_TOKENS = "Control tokens that a query or document spells ({tokens}) are read as such, as in training."
AS_TEXT = "Control tokens that a query or document spells ({tokens}) are read as text. "
SPLIT = (
    "sentence-transformers and transformers do so too, by `split_special_tokens` in tokenizer_config.json{but}. "
    f"Servers that read tokenizer.json alone (text-embeddings-inference) do not. {REMEDY}"
)
SANITIZED = (
    "transformers 5.23 does so too, with `sanitize_control_tokens` as below; sentence-transformers and servers do not, "
    f"since a chat template gives them one text. {REMEDY}"
)
BY_US_ALONE = f"Only plackett does so. {REMEDY}"


def splits_for_others(tokenizer: ModelTokenizer) -> bool:
    """Whether transformers' `split_special_tokens`, which reads the special tokens of prompts as text too, is right for
    the prompts of the model."""
    special, prompts = control_tokens(tokenizer.tokenizer, ""), tokenizer.all_prompts()
    return tokenizer.split_special_tokens and not any(token in prompt for prompt in prompts for token in special)


def can_sanitize(tokenizer: ModelTokenizer) -> bool:
    """Whether `sanitize_control_tokens` of transformers' chat templates works: it fails at a token that it cannot
    split."""
    return tokenizer.split_special_tokens and not read_by_others(tokenizer.tokenizer)


def own_settings(tokenizer: ModelTokenizer) -> dict[str, bool]:
    """The setting that plackett reads beside those of sentence-transformers, if it is not the default."""
    return {} if tokenizer.split_special_tokens else {SPLIT_SPECIAL_TOKENS: False}


def note(tokenizer: ModelTokenizer, *, has_template: bool = False) -> str:
    """Markdown on control tokens in texts, of a model with prompts or with a prompt template."""
    tokens = control_tokens(tokenizer.tokenizer, tokenizer.template_text)
    if not tokenizer.split_special_tokens:
        return f"\n{AS_TOKENS.format(tokens=_listed(tokens))}\n"
    if has_template:
        others = SANITIZED if can_sanitize(tokenizer) else BY_US_ALONE
    elif splits_for_others(tokenizer):
        stay = read_by_others(tokenizer.tokenizer, tokenizer.template_text)
        others = SPLIT.format(but=f", except {_listed(stay)}" if stay else "")
    else:
        others = BY_US_ALONE
    return f"\n{AS_TEXT.format(tokens=_listed(tokens))}{others}\n"


def _listed(tokens: Sequence[str]) -> str:
    more = [f"{len(tokens) - LISTED_TOKENS} more"] if len(tokens) > LISTED_TOKENS else []
    return ", ".join([f"`{token}`" for token in tokens[:LISTED_TOKENS]] + more)
