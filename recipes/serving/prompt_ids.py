"""The tokens of an LLM reranker's prompt as plain code of transformers makes them, with the document cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from models.control_tokens import has_unspellable_names
from models.loading.folder import ModelFolder
from models.prompts.template_folder import read_template
from models.prompts.tokenizer import FILLERS, common_end
from recipes.serving.contract import CUTS_NOTHING, READS_CONTROL_TOKENS


@dataclass(frozen=True)
class PromptIds:
    """Makes the tokens of (query, document) as the model card does: by the chat template and by the tokens `end` behind
    the document, which a cut leaves. `end` None: the query is among them, and nothing is cut."""

    tokenizer: Any
    max_length: int
    end: list[int] | None

    @classmethod
    def of(cls, folder: Path, max_length: int, template: Path | None = None) -> PromptIds:
        """Read the tokenizer in `folder`. `template`: the export with the prompt template, if that is another."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = read_template(ModelFolder.read(template or folder), tokenizer)
        if found is None or not found.query_first:
            return cls(tokenizer, max_length, None)
        rows = [_ids(tokenizer, FILLERS[0], text) for text in FILLERS]
        return cls(tokenizer, max_length, common_end(*rows))

    def __call__(self, query: str, document: str) -> list[int]:
        ids = _ids(self.tokenizer, query, document)
        if self.end is None or len(ids) <= self.max_length:
            return ids
        count = len(self.end)
        return ids[: self.max_length - count] + ids[len(ids) - count :]

    @property
    def limits(self) -> dict[str, str]:
        """Why these tokens are known not to be those of training, by the golden rows that this concerns."""
        reads = {} if has_unspellable_names(self.tokenizer) else READS_CONTROL_TOKENS
        return reads | (CUTS_NOTHING if self.end is None else {})


def _ids(tokenizer: Any, query: str, document: str) -> list[int]:
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=False)
    return ids
