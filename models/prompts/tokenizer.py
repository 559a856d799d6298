"""Tokenise pairs to the prompts of a yes/no reranker, by a picklable callable that the data workers run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from models.capabilities import Layout
from models.prompts.template import PromptTemplate
from models.tokenization import ModelTokenizer, TokenIds

MIN_TEXT_TOKENS = 16  # the fewest tokens that must be left for query and document together
FILLERS = ("0", "1 2 3 4")  # documents of which no token joins with another's or with the prompt's


@dataclass(frozen=True)
class PromptTokenizer(ModelTokenizer):
    """Tokenises (query, document) pairs to unpadded rows: the ids of the template's pieces, joined.

    A query is cut to `max_query_length` tokens, and to three quarters of the tokens that the prompt leaves. Then the
    document is cut so that a row has at most `max_length` tokens. The instruction is never cut. The `query_prompt` of a
    list is its instruction; `document_prompt` is put before its documents (None: the template's own).
    """

    template: PromptTemplate | None = None
    max_query_length: int | None = None  # tokens; None: three quarters of max_length

    layout: ClassVar[Layout] = "pairs"

    def __call__(
        self,
        queries: list[str],
        documents: list[str],
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> TokenIds:
        """Tokenise to {"input_ids": a row per pair, "truncated": [tokens cut from the query, from the document] per
        pair}.

        Raises ValueError if the instruction leaves no room, or if the template has no slot for it.
        """
        before = self._before(document_prompt)
        pieces = self._pieces(query_prompt)
        room = self._available_tokens(pieces, query_prompt, before)
        queries, documents = self._prepend("", queries), [before + text for text in self._prepend("", documents)]
        shortened = {query: self._shorten(query, room) for query in dict.fromkeys(queries)}
        texts = [(shortened[query][0], document) for query, document in zip(queries, documents, strict=True)]
        rows, cut = self._join(pieces, texts, kept=len(before))
        lost = [[shortened[query][1], more] for query, more in zip(queries, cut, strict=True)]
        return {"input_ids": rows, "truncated": lost}

    def encode_list(
        self, query: str, documents: list[str], query_prompt: str | None = None, document_prompt: str | None = None
    ) -> TokenIds:
        """Make a row per pair (query, document). A prompt of None is the model's own."""
        return self([query] * len(documents), documents, query_prompt, document_prompt)

    @property
    def fingerprint(self) -> str:
        """A text that is equal for two tokenizers if they give the same rows."""
        return f"{super().fingerprint} {self.template} {self.max_query_length}"

    @property
    def prompt_template(self) -> PromptTemplate:
        assert self.template is not None
        return self.template

    def all_prompts(self) -> list[str]:
        """The model's instructions, and the parts of its template."""
        template = self.prompt_template
        parts = [*template.pieces, template.instruction_format, template.instruction, template.document_prompt]
        return [*super().all_prompts(), *parts, template.true_answer, template.false_answer]

    def answer_ids(self) -> tuple[int, int]:
        """The tokens of the true and the false answer. Raises ValueError if one is not a single token."""
        return self._single("true_answer"), self._single("false_answer")

    @property
    def query_limit(self) -> int:
        """The most tokens of a query that is not cut, with the template's own instruction."""
        return self._max_query_tokens(self._available_tokens(self._pieces(None), None, self._before(None)))

    @property
    def end(self) -> list[int] | None:
        """The tokens behind the document, which a cut leaves; None if the query or the instruction is among them."""
        if not self.prompt_template.query_first:
            return None
        first, second = (self(["0"], [text])["input_ids"][0] for text in FILLERS)
        return common_end(first, second)

    def check(self) -> None:
        """Raise ValueError if the template does not fit the tokenizer or the length."""
        self.answer_ids()
        self._available_tokens(self._pieces(None), None, self._before(None))

    def with_prompts(self, query_prompt: str | None, document_prompt: str | None) -> PromptTokenizer:
        """The same tokenizer with these prompts in its template; None keeps the template's own."""
        template = self.prompt_template
        if query_prompt is not None:
            template = replace(template, instruction=query_prompt)
        if document_prompt is not None:
            template = replace(template, document_prompt=document_prompt)
        return replace(self, template=template)

    def _single(self, name: str) -> int:
        answer = getattr(self.prompt_template, name)
        ids = self._ids(self.reader.prompt(answer))
        if len(ids) != 1:
            pieces = ", ".join(self.tokenizer.convert_ids_to_tokens(ids))
            raise ValueError(
                f"template.{name}={answer!r} is {len(ids)} tokens of this model ({pieces}): choose a text that is one"
            )
        return ids[0]

    def _pieces(self, instruction: str | None) -> list[list[str]]:
        """The template's pieces [text, slot, text, ...] with the instruction, as the tokenizer reads them."""
        template = self.prompt_template
        pieces = template.instructed(template.instruction if instruction is None else instruction)
        return [
            [part if index % 2 else self.reader.prompt(part) for index, part in enumerate(piece)] for piece in pieces
        ]

    def _before(self, document_prompt: str | None) -> str:
        """The text before a document, as the tokenizer reads it."""
        return self.reader.prompt(self.prompt_template.document_prompt if document_prompt is None else document_prompt)

    def _available_tokens(self, pieces: list[list[str]], instruction: str | None, before: str) -> int:
        """The number of tokens that the prompt, with the text `before` the document, leaves for query and document."""
        texts = ["".join(piece[::2]) for piece in pieces] + [before] * bool(before)
        fixed = sum(total for _, total in self._counted(texts))
        if self.max_length - fixed < MIN_TEXT_TOKENS:
            given = self.prompt_template.instruction if instruction is None else instruction
            more = f" and {self.reader.shown(before)[:40]!r} before the document" if before else ""
            raise ValueError(
                f"model.max_length={self.max_length}: the prompt takes {fixed} tokens with its instruction "
                f"{given[:40]!r}{more} and is never cut: raise it to {fixed + MIN_TEXT_TOKENS} or more"
            )
        return self.max_length - fixed

    def _max_query_tokens(self, room: int) -> int:
        """The most tokens of a query if the prompt leaves `room` tokens."""
        return min(self.max_query_length or self.max_length * 3 // 4, room * 3 // 4)

    def _shorten(self, query: str, room: int) -> tuple[str, int]:
        """Cut the query to its maximum. Returns it with the number of tokens that were cut."""
        most = self._max_query_tokens(room)
        if len(query.encode()) <= most:  # no more tokens than bytes
            return query, 0
        offsets = self._encoding(query)["offset_mapping"]
        return (query, 0) if len(offsets) <= most else (query[: offsets[most - 1][1]], len(offsets) - most)

    def _join(
        self, pieces: list[list[str]], texts: list[tuple[str, str]], *, kept: int
    ) -> tuple[list[list[int]], list[int]]:
        """Make the rows of (query, document) texts. Also returns the number of tokens cut from each document. The first
        `kept` characters of a document are not cut."""
        of_query = {query: [self._query_piece(piece, query) for piece in pieces] for query, _ in texts}
        place = next(index for index, piece in enumerate(pieces) if "document" in piece)
        bodies = self._counted([_fill_slots(pieces[place], query, document) for query, document in texts])
        rows, cut = [], []
        for (query, document), (body, total) in zip(texts, bodies, strict=True):
            before, after = of_query[query][:place], of_query[query][place + 1 :]
            excess = sum(map(len, (*before, *after))) + total - self.max_length
            if excess > 0:
                body = self._cut(pieces[place], query, document, excess, kept)
            rows.append([token for part in (*before, body, *after) for token in part])
            cut.append(max(excess, 0))
        return rows, cut

    def _query_piece(self, piece: list[str], query: str) -> list[int]:
        """The ids of a piece without the document; empty if the piece contains the document."""
        return [] if "document" in piece[1::2] else self._ids(_fill_slots(piece, query, ""))

    def _cut(self, piece: list[str], query: str, document: str, excess: int, kept: int) -> list[int]:
        """The ids of the document's piece without the last `excess` tokens that belong to the document only."""
        slot = 1 + 2 * piece[1::2].index("document")
        end = len(_fill_slots(piece[: slot + 1], query, document))
        start = end - len(document) + kept
        encoding = self._encoding(_fill_slots(piece, query, document))
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        inside = [
            index for index, (begin, stop) in enumerate(offsets) if start <= begin and stop <= end and begin < stop
        ]
        if len(inside) < excess:
            raise ValueError(f"model.max_length={self.max_length} leaves no room for the document: raise it")
        dropped = set(inside[len(inside) - excess :])
        return [token for index, token in enumerate(ids) if index not in dropped]

    def _encoding(self, text: str) -> Mapping[str, list]:
        return self.reader.tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
        )

    def _ids(self, text: str) -> list[int]:
        """The tokens of a text that fits into a row."""
        return self._counted([text])[0][0]


def common_end(first: list[int], second: list[int]) -> list[int]:
    """The tokens at the end of both rows."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return first[len(first) - count :]


def _fill_slots(piece: list[str], query: str, document: str) -> str:
    """The text of [text, slot, text, ...]."""
    values = {"query": query, "document": document}
    return "".join(values[part] if index % 2 else part for index, part in enumerate(piece))
