"""Tokenise texts for late interaction: lengths per role, query expansion, tokens whose vectors are not compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.tokenization import IS_QUERY, TextTokenizer, TokenIds

# Token-level features that the transformer does not read.
SCORED = "scored"  # 1 at the tokens whose vectors are compared
HIDDEN = "hidden"  # 1 at the tokens of a query's expansion to which no token attends

STRATEGIES = ("fixed", "min")


@dataclass(frozen=True)
class Expansion:
    """The tokens by which a query is made longer; their vectors are compared as those of its words (ColBERT's query
    augmentation; Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2).

    "fixed": every query has `length` tokens, a longer one is cut. "min": it has as many at least. `attend`: all tokens
    attend to those of the expansion; if not, they read the query and are not read.
    """

    strategy: str
    length: int
    token_id: int
    token: str | None = None  # its name; None: the tokenizer's mask, or the end of the text
    attend: bool = False

    def settings(self) -> dict[str, Any]:
        """The settings as sentence-transformers writes them."""
        return {"strategy": self.strategy, "attend": self.attend, "token": self.token, "length": self.length}


@dataclass(frozen=True)
class TokenVectorTokenizer(TextTokenizer):
    """Tokenises single texts to unpadded rows, queries and documents each to their own length.

    Beside the ids there are "scored" and, if a query's expansion is hidden, "hidden".
    """

    query_length: int | None = None  # tokens of a query at most, None: max_length
    document_length: int | None = None
    cuts_both: bool = False  # max_length is an option's, above which no other option raises a length
    expansion: Expansion | None = None
    skipped: tuple[int, ...] = ()  # ids of tokens whose vectors are not compared
    skipped_roles: tuple[str, ...] = ("document",)  # in texts of these roles

    @property
    def fingerprint(self) -> str:
        own = (self.query_length, self.document_length, self.expansion, self.skipped, self.skipped_roles)
        return f"{super().fingerprint} {own}"

    def limit_of(self, role: str | None) -> tuple[str, int]:
        length = self.length_of(role)
        if self.cuts_both and length >= self.max_length:
            return "model.max_length", length
        return f"model.{'query' if role == 'query' else 'document'}_length", length

    def length_of(self, role: str | None) -> int:
        """The most tokens of a text of that role."""
        if role != "query":
            return self.document_length or self.max_length
        if self.expansion is None:
            return self.query_length or self.max_length
        if self.expansion.strategy == "fixed":
            return self.expansion.length
        return max(self.expansion.length, self.query_length or self.max_length)

    def check_prompts(self) -> None:
        """Check the prompts of the roles, and that the length of each leaves room for a text."""
        special = len(self.reader.tokenizer("").input_ids)
        for option, length in self.limits.items():
            if length <= special:
                raise ValueError(f"{option}={length}: {special} tokens are the tokenizer's own: raise it for a text")
        super().check_prompts()

    def __call__(self, texts: list[str], role: str | None = None, prompt: str | None = None) -> TokenIds:
        """Tokenise to a list of values per text: "input_ids", "token_type_ids" if the model has them, "scored",
        "hidden" and "is_query" if they are read, and "truncated"."""
        cut: TokenVectorTokenizer = replace(self, max_length=self.length_of(role), marks_queries=False)
        encoded = dict(TextTokenizer.__call__(cut, texts, role, prompt))
        lengths = [len(row) for row in encoded["input_ids"]]
        if self.expansion is not None and role == "query":
            missing = [max(0, self.expansion.length - length) for length in lengths]
            fill = {**self.padding, "input_ids": self.expansion.token_id}
            for name in encoded.keys() & {"input_ids", "token_type_ids"}:
                encoded[name] = [[*row, *[fill[name]] * n] for row, n in zip(encoded[name], missing, strict=True)]
        skipped = set(self.skipped) if (role or "document") in self.skipped_roles else set()
        encoded[SCORED] = [[int(token not in skipped) for token in row] for row in encoded["input_ids"]]
        if self.expansion is not None and not self.expansion.attend:
            rows = zip(lengths, encoded["input_ids"], strict=True)
            encoded[HIDDEN] = [[0] * length + [1] * (len(row) - length) for length, row in rows]
        if self.marks_queries:
            encoded[IS_QUERY] = [[int(role == "query")] * len(row) for row in encoded["input_ids"]]
        return encoded

    def settings(self) -> Mapping[str, Any]:
        """The lengths and the expansion as sentence-transformers writes them, without those that are not set."""
        found = {
            "query_length": self.query_length,
            "document_length": self.document_length,
            "query_expansion": self.expansion and self.expansion.settings(),
        }
        return {name: value for name, value in found.items() if value is not None}
