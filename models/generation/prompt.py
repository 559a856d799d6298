"""The prompt of a model that writes: a text with slots, put into the model's chat format, read as token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from models.control_tokens import TextReader, text_reader

SLOTS = ("document", "query")  # the first that a prompt has is cut if the prompt is too long
SLOT = re.compile(f"{{({'|'.join(SLOTS)})}}")
MARK = "\ufdd1"  # a noncharacter of Unicode: it stands around the names of slots while the chat format is filled
MARKED = re.compile(f"{MARK}({'|'.join(SLOTS)}){MARK}")
MIN_TEXT_TOKENS = 8  # the fewest tokens that must be left for the text that is cut


def slots_of(template: str) -> list[str]:
    """The names of the slots of a template, in the order of SLOTS.

    >>> slots_of("Write a query like {query} for: {document} {other}")
    ['document', 'query']
    """
    found = set(SLOT.findall(template))
    return [name for name in SLOTS if name in found]


@dataclass(frozen=True)
class FilledPrompt:
    """The token ids of a prompt, and whether its text was cut."""

    ids: list[int]
    was_cut: bool


@dataclass(frozen=True)
class PromptReader:
    """Reads prompts. With `chat` a prompt is the user's message in the chat format of the tokenizer.

    Control tokens that a document or query spells ("<|im_end|>") are read as text; those of the template and the chat
    format are read as such.
    """

    tokenizer: Any
    max_length: int
    chat: bool
    is_seq2seq: bool

    def pieces(self, template: str) -> list[str]:
        """The whole prompt as [text, slot, text, ...]."""
        marked = SLOT.sub(rf"{MARK}\1{MARK}", template)
        if self.chat:
            message = [{"role": "user", "content": marked}]
            # Models that may think first are asked not to; other chat formats do not read the variable.
            marked = self.tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        return MARKED.split(marked)

    def read(self, template: str, texts: Mapping[str, str]) -> FilledPrompt:
        """The prompt with these texts in its slots, at most `max_length` tokens: the text of the first slot is cut.

        Raises ValueError if the rest of the prompt leaves no room for it.
        """
        pieces = self.pieces(template)
        reader = self._reader("".join(pieces[::2]))
        texts = {name: reader.text(text) for name, text in texts.items()}
        ids = self._ids(reader, pieces, texts)
        if len(ids) <= self.max_length:
            return FilledPrompt(ids, was_cut=False)
        slot = next((name for name in SLOTS if name in pieces[1::2]), None)
        if slot is None:
            raise self._no_room(len(ids))
        offsets = reader.tokenizer(texts[slot], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in offsets["offset_mapping"]]
        kept, rest = len(ends), len(ids) - len(ends)
        while len(ids) > self.max_length:  # once, unless words join differently at the cut
            kept -= len(ids) - self.max_length
            if kept < MIN_TEXT_TOKENS:
                raise self._no_room(rest)
            ids = self._ids(reader, pieces, {**texts, slot: texts[slot][: ends[kept - 1]]})
        return FilledPrompt(ids, was_cut=True)

    def _ids(self, reader: TextReader, pieces: Sequence[str], texts: Mapping[str, str]) -> list[int]:
        parts = [texts[part] if index % 2 else reader.prompt(part) for index, part in enumerate(pieces)]
        ids: list[int] = reader.tokenizer("".join(parts), add_special_tokens=not self.chat, verbose=False)["input_ids"]
        if not self.is_seq2seq and not self.chat and len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]  # after the end of a text a decoder writes another one
        return ids

    def _reader(self, text: str) -> TextReader:
        return text_reader(self.tokenizer, text)

    def _no_room(self, tokens: int) -> ValueError:
        return ValueError(
            f"model.max_length={self.max_length}: the prompt takes {tokens} tokens beside the text that it is about: "
            f"raise it to {tokens + MIN_TEXT_TOKENS} or more, or shorten the prompt (prompts.NAME)"
        )

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text by the tokenizer."""
        return frozenset({self.tokenizer.eos_token_id, self.tokenizer.pad_token_id} - {None})
