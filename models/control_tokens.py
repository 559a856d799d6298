"""Read texts as text: a control token that a user's text spells ("[SEP]", "<|im_end|>") is not read as that token.

transformers' `split_special_tokens` does so for a whole input, prompts included, and a vocabulary may still hold the
token: Unigram models find "</s>" in any text. Here the tokenizer is copied with other names of its control tokens. Then
texts stay as they are, and prompts name the tokens by their new names. All else is tokenised as before.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

# It opens the new names: a noncharacter of Unicode, which stands for nothing in any text.
MARK = "\ufdd0"
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class TextReader:
    """Tokenises texts made of `text` (a user's) and `prompt` (of settings and templates) by `tokenizer`."""

    tokenizer: PreTrainedTokenizerBase
    names: Mapping[str, str] = field(default_factory=dict)  # of the control tokens: their new ones
    in_any_case: Mapping[str, str] = field(default_factory=dict)  # those found in any case, by their lower case

    def text(self, text: str) -> str:
        """A user's text, as it is given to the tokenizer. It has as many characters."""
        return text.replace(MARK, REPLACEMENT) if self.names and MARK in text else text

    def prompt(self, text: str) -> str:
        """A prompt, as it is given to the tokenizer: its control tokens are read as such."""
        if not self.names or not text:
            return text
        longest_first = sorted(self.names, key=len, reverse=True)
        patterns = (f"(?i:{re.escape(t)})" if t.lower() in self.in_any_case else re.escape(t) for t in longest_first)
        return re.sub("|".join(patterns), lambda found: self._name(found[0]), self.text(text))

    def _name(self, found: str) -> str:
        # Letters such as the dotless i match in any case, and have another lower case.
        return self.names.get(found) or self.in_any_case.get(found.lower(), found)

    def shown(self, prompt: str) -> str:
        """What `prompt` was given, for a message."""
        for token, name in self.names.items():
            prompt = prompt.replace(name, token)
        return prompt


@lru_cache(maxsize=64)
def text_reader(tokenizer: PreTrainedTokenizerBase, template: str) -> TextReader:
    """The reader that reads the control tokens of `tokenizer` in prompts alone. `template`: all text of its prompts."""
    return _reader_of(tokenizer, tuple(control_tokens(tokenizer, template)))


@lru_cache(maxsize=8)
def _reader_of(tokenizer: PreTrainedTokenizerBase, tokens: tuple[str, ...]) -> TextReader:
    names = {token: f"{MARK}{number}{MARK}" for number, token in enumerate(tokens)}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    _rename(content, names)
    renamed: Any = copy.copy(tokenizer)
    renamed._tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    renamed.split_special_tokens = False
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    ignoring = {token.content for token in added if _ignores_case(tokenizer, token)}
    return TextReader(renamed, names, {token.lower(): name for token, name in names.items() if token in ignoring})


def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """The special tokens, and the other added tokens that steer the model: those of signs ("<think>", "[Q]") in the
    `template`, the text of its prompts."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return [
        token.content
        for token in added
        if token.content.strip()
        and (token.special or (_is_in(tokenizer, token, template) and re.search(r"[^\w\s]", token.content)))
    ]


def _is_in(tokenizer: PreTrainedTokenizerBase, token: AddedToken, text: str) -> bool:
    if token.content in text:
        return True
    return _ignores_case(tokenizer, token) and token.content.lower() in text.lower()


def _ignores_case(tokenizer: PreTrainedTokenizerBase, token: AddedToken) -> bool:
    """Whether the tokenizer finds an added token in any case: it looks for it in the text in lower case."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if token.special or not token.normalized or normalizer is None:
        return False
    upper, lower = token.content.upper(), token.content.lower()
    return upper != lower and normalizer.normalize_str(upper) == normalizer.normalize_str(lower)


def read_by_others(tokenizer: PreTrainedTokenizerBase, template: str = "") -> list[str]:
    """The control tokens that transformers reads in a text even with `split_special_tokens`."""
    found = []
    for token in control_tokens(tokenizer, template):
        ids = tokenizer(f"a {token} a{token}a", add_special_tokens=False, split_special_tokens=True).input_ids
        if tokenizer.convert_tokens_to_ids(token) in ids and token != tokenizer.unk_token:
            found.append(token)
    return found


def _rename(content: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in the content of a tokenizer.json, wherever they are looked up by name."""
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:  # Unigram
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        inside = len(model.get("continuing_subword_prefix") or "")
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        kept = [not {first, second, first + second, first + second[inside:]} & names.keys() for first, second in pairs]
        model["merges"] = [merge for merge, keeps in zip(model["merges"], kept, strict=True) if keeps]
    for token in content["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False)
