"""Read texts as text: a control token that a user's text spells ("[SEP]", "<|im_end|>") is not read as that token.

transformers' `split_special_tokens` does so for a whole input, prompts included, and a vocabulary may still hold the
token: Unigram models find "</s>" in any text. Here the tokenizer is copied with names of its control tokens that no
text spells. Then texts stay as they are, and prompts name the tokens by their new names. All else is tokenised as
before.
Exports of LLM rerankers have those names in their files, for other libraries; `with_plain_names` reads such a folder.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

# It opens and closes the new names: a noncharacter of Unicode, which stands for nothing in any text.
MARK = "\ufdd0"
REPLACEMENT = "\ufffd"
NORMALIZED = "normalized_control_tokens"  # in tokenizer_config.json: those that are looked for in the normalised text


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
    names = {token: f"{MARK}{token}{MARK}" for token in tokens}
    renamed: Any = copy.copy(tokenizer)
    renamed._tokenizer = _backend(tokenizer, names)
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


def has_unspellable_names(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the control tokens of a folder's tokenizer have names that no text spells."""
    return bool(_plain_names(tokenizer))


def with_plain_names(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of an export with the names that its control tokens had in training; another one as it is."""
    names = _plain_names(tokenizer)
    if not names:
        return tokenizer
    plain: Any = copy.copy(tokenizer)
    plain.init_kwargs = rename_strings(tokenizer.init_kwargs, names)
    plain._tokenizer = _backend(tokenizer, names, plain.init_kwargs.pop(NORMALIZED, ()))
    plain._special_tokens_map = rename_strings(plain._special_tokens_map, names)
    plain._extra_special_tokens = rename_strings(plain._extra_special_tokens, names)
    for name, token in names.items():
        plain.chat_template = (plain.chat_template or "").replace(name, token) or None
    return plain


def _plain_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The plain name of each token whose name no text spells."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # one in Python has none
    added = [] if backend is None else [token.content for token in backend.get_added_tokens_decoder().values()]
    return {name: name[1:-1] for name in added if len(name) > 2 and name[0] == name[-1] == MARK}


def _backend(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str], normalized: Sequence[str] = ()) -> Tokenizer:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    rename_tokens(content, names, normalized)
    return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def rename_strings(content: Any, names: Mapping[str, str]) -> Any:
    """Rename tokens in settings of any depth: strings that are a name, not those that hold one."""
    if isinstance(content, str | AddedToken):
        return names.get(str(content), content)
    if isinstance(content, Mapping):
        return {key: rename_strings(value, names) for key, value in content.items()}
    return [rename_strings(value, names) for value in content] if isinstance(content, list | tuple) else content


def rename_tokens(content: dict[str, Any], names: Mapping[str, str], normalized: Sequence[str] = ()) -> None:
    """Rename tokens in the content of a tokenizer.json, wherever they are looked up by name. Those that are
    `normalized`, by their new name, are looked for in the normalised text."""
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
            name = names[token["content"]]
            token.update(content=name, normalized=name in normalized)
