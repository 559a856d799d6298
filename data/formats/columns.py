"""Convert one row of a data file to a list of documents, by the layout that `data.formats.layouts` recognised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from data.collection import is_empty, normalised
from data.formats.chats import Chat, Question, Reply, Turn, answered, common_question, is_message, parsed, shown
from data.formats.layouts import CHATS, Layout, plain_name
from data.formats.remedies import ignoring
from data.formats.rows import DecimalComma

DOCUMENTS = ("document", "documents", "positive", "negative", "chosen", "rejected")
TRUTH_VALUES = {"True": 1.0, "False": 0.0, "true": 1.0, "false": 0.0}  # as pandas and others write them to CSV
SHOWN = 60  # characters of a cell in a message
ANSWERS = frozenset({"yes", "no", "relevant", "irrelevant", "positive", "negative"})


@dataclass(frozen=True)
class ListRecord:
    """One row of a file: a query and documents, with labels or teacher scores or both."""

    where: str
    kind: str  # pairs, tuples, lists or preferences
    query: str
    documents: list[str]
    labels: list[float] | None
    scores: list[float] | None = None
    weight: float = 1.0
    prompt: str | None = None
    labelled: bool = True  # False: labels come from "positive" and "negative", not from a column
    num_empty: int = 0  # documents without a text, which are left out
    is_system: bool = False  # the prompt is a system message

    @property
    def text_before_query(self) -> str | None:
        """The prompt as it is put before the query: after a system message comes a line break."""
        return f"{self.prompt}\n" if self.prompt and self.is_system else self.prompt


@dataclass(frozen=True)
class Row:
    """One row, read field by field."""

    where: str
    row: Mapping[str, Any]
    layout: Layout

    def record(self) -> ListRecord:
        """Convert the row."""
        documents, labels, scores = getattr(self, f"_{self.layout.kind}")()
        if not documents:
            raise ValueError(f"{self.where}: no document")
        kept = [index for index, text in enumerate(documents) if not is_empty(text)]
        num_empty = len(documents) - len(kept)
        if num_empty:
            documents, labels, scores = self._only(kept, documents, labels, scores)
        if is_empty(self._asked.text):
            raise ValueError(f"{self.where}: {self._column('query')!r} is empty")
        weight = self._number("weight") if self._has("weight") else 1.0
        if weight < 0:
            raise ValueError(f"{self.where}: {self._column('weight')!r} must be at least 0, got {weight:g}")
        prompt, is_system = self._prompt()
        labelled = self.layout.kind in ("pairs", "lists") and bool({"label", "score"} & set(self.layout.columns))
        return ListRecord(
            self.where,
            self.layout.kind,
            self._asked.text,
            documents,
            labels,
            scores,
            weight,
            prompt,
            labelled,
            num_empty,
            is_system,
        )

    @cached_property
    def _asked(self) -> Question:
        """The query, with further messages of the documents' chats that all documents answer."""
        question = self._question()
        if not any(chat for _, chat in self._chats):
            return question
        try:
            replies = [
                Reply(column) if chat is None else chat.reply(self.where, column, question)
                for column, chat in self._chats
            ]
        except ValueError as error:
            raise ValueError(f"{error}{self._or_common_question()}") from None
        if question.answer is not None and not {"document", "documents", "positive", "chosen"} & set(
            self.layout.columns
        ):
            replies.insert(0, Reply(self._column("query")))
        return answered(self.where, question, replies)

    def _or_common_question(self) -> str:
        """The setting by which the chats of both documents say the query, if they begin with the same message."""
        columns = [*self.layout.columns.get("query", ()), *self.layout.columns.get("prompt", ())]
        layout = replace(
            self.layout, columns={n: c for n, c in self.layout.columns.items() if n not in ("query", "prompt")}
        )
        if self.layout.kind != "preferences" or Row(self.where, self.row, layout).mistake:
            return ""
        return f"; {ignoring([*self.layout.ignored, *columns])} takes what both chats begin with as the query"

    @property
    def mistake(self) -> str:
        """What is wrong with the row; empty if it is read."""
        try:
            self.record()
        except (ValueError, KeyError) as error:  # a field that is needed may have no column
            return str(error)
        return ""

    def _question(self) -> Question:
        """The column of the query. Without one it is what the chats of both documents begin with."""
        if "query" in self.layout.columns:
            what, value = self._what("query"), self._value("query")
            chat = Chat.read(what, value)
            return Question(text_of(what, value)) if chat is None else chat.question(what)
        chosen, rejected = (Chat.read(self._what(name), self._value(name)) for name in ("chosen", "rejected"))
        if chosen is None or rejected is None:
            raise ValueError(
                f"{self.where}: no query: chosen and rejected are no chats, so add a column 'prompt' (or "
                "data.columns.query=COLUMN)"
            )
        return common_question(self.where, chosen, rejected)

    @cached_property
    def _chats(self) -> list[tuple[str, Chat | None]]:
        """The column and, if it is one, the chat of every document that is not empty."""
        columns = [column for name in DOCUMENTS for column in self.layout.columns.get(name, ())]
        items = [(column, item) for column in columns for item in _as_list(self._cell(column)) if item]
        return [(column, Chat.read(f"{self.where}: {column!r}", item)) for column, item in items]

    def _prompt(self) -> tuple[str | None, bool]:
        """The text before the query, and whether it is a system message: of the query's chat, or of a document's.

        Raises ValueError if two of them differ.
        """
        asked = [(self._column("query"), self._asked.system)] if self._asked.system else []
        found = asked + [(column, chat.system) for column, chat in self._chats if chat is not None and chat.system]
        first, system = found[0] if found else ("", None)
        for column, other in found:
            if normalised(other) != normalised(str(system)):
                raise ValueError(
                    f"{self.where}: the system messages in {first!r} and {column!r} differ ({shown(str(system))}, "
                    f"{shown(other)}), and a row has one prompt: leave the row out, or make them equal"
                )
        if not self._has("prompt"):
            return system, system is not None
        prompt, column = self._one("prompt"), self._column("prompt")
        if system and normalised(prompt) != normalised(system):
            raise ValueError(
                f"{self.where}: a system message and column {column} may both be the prompt: "
                f"{ignoring([*self.layout.ignored, column])}"
            )
        return (prompt.strip() or None, True) if plain_name(column) == "system" else (prompt, False)

    def _relevant(self, name: str) -> str:
        """The text of the one relevant document: of the column of a field, or the answer in the query's chat."""
        if name in self.layout.columns:
            return self._one(name)
        if self._asked.answer is None:
            raise ValueError(f"{self._what('query')}: no message of the assistant after the user's last one")
        return self._asked.answer

    def _only(
        self, kept: Sequence[int], documents: list[str], labels: list[float] | None, scores: list[float] | None
    ) -> tuple[list[str], list[float] | None, list[float] | None]:
        """The documents at these places. Raises ValueError if no document is left, or no relevant one of several; the
        negatives of a tuple may stay alone."""
        had_positive = labels is not None and max(labels) > 0 and self.layout.kind != "tuples"
        if not kept or (had_positive and not any(labels[index] > 0 for index in kept)):  # type: ignore[index]
            names = {"pairs": "document", "tuples": "positive", "lists": "documents", "preferences": "chosen"}
            name = names[self.layout.kind] if names[self.layout.kind] in self.layout.columns else "negative"
            raise ValueError(f"{self.where}: no value in column {self._column(name)!r} ({name})")
        labels, scores = (None if v is None else [v[index] for index in kept] for v in (labels, scores))
        return [documents[index] for index in kept], labels, scores

    def _pairs(self) -> tuple[list[str], list[float] | None, list[float] | None]:
        document = [self._relevant("document")]
        if "label" in self.layout.columns:
            return document, self._labels("label", 1), self._scores("score", 1)
        return document, self._labels("score", 1) if "score" in self.layout.columns else [1.0], None

    def _tuples(self) -> tuple[list[str], list[float] | None, list[float] | None]:
        negatives = self._texts("negative") if self._has("negative") else []
        positives = self._texts("positive", optional=bool(negatives)) if "positive" in self.layout.columns else []
        if "positive" not in self.layout.columns and self._asked.answer is not None:
            positives = [self._asked.answer]
        scores = self._split_scores(len(positives), len(negatives))
        teacher = "score" if "score" in self.layout.columns else "label"
        if teacher in self.layout.columns:
            scores = self._numbers(teacher)
            if len(scores) == 1 and len(positives) == len(negatives) == 1:
                # The teacher's margin, as MarginMSE's data have it. The positive is 0 in all rows of a query.
                scores = [0.0, -scores[0]]
            self._check_number_of(teacher, scores, len(positives) + len(negatives))
        return positives + negatives, [1.0] * len(positives) + [0.0] * len(negatives), scores or self._inline_scores()

    def _lists(self) -> tuple[list[str], list[float] | None, list[float] | None]:
        documents = self._texts("documents")
        labels = self._labels("label", len(documents))
        scores = self._scores("score", len(documents)) or self._inline_scores()
        if labels is None and scores is None:
            raise ValueError(f"{self.where}: the documents have neither labels nor scores: add a column of either name")
        return documents, labels, scores

    def _preferences(self) -> tuple[list[str], list[float] | None, list[float] | None]:
        return [self._relevant("chosen"), self._one("rejected")], [1.0, 0.0], self._split_scores(1, 1)

    def _split_scores(self, positives: int, negatives: int) -> list[float] | None:
        """Read the scores of positives and negatives from separate columns."""
        first, second = self._scores("positive_scores", positives), self._scores("negative_scores", negatives)
        if first is None and second is None:
            return None
        first = [] if first is None and not positives else first
        if first is None or (second is None and negatives):
            missing = "positive_scores" if first is None else "negative_scores"
            raise ValueError(f"{self.where}: no {missing}: either all documents have a score or none has")
        return first + (second or [])

    def _inline_scores(self) -> list[float] | None:
        """Read the scores inside the documents, if these are objects."""
        columns = [c for name in ("positive", "negative", "documents") for c in self.layout.columns.get(name, ())]
        if any(column.endswith("_ctxs") for column in columns):  # DPR: of BM25, and 1000 for passages of the answer
            return None
        items = [item for column in columns for item in _as_list(self.row.get(column) or [])]
        if not all(isinstance(item, Mapping) and item.get("score") is not None for item in items):
            return None
        return [self._to_number("score", item["score"]) for item in items]

    def _has(self, name: str) -> bool:
        return any(self.row.get(column) is not None for column in self.layout.columns.get(name, ()))

    def _column(self, name: str) -> str:
        return self.layout.columns[name][0]

    def _value(self, name: str) -> Any:
        value = self._cell(self._column(name))
        if value is None:
            raise ValueError(f"{self.where}: no value in column {self._column(name)!r} ({name})")
        return value

    def _what(self, name: str) -> str:
        return f"{self.where}: {self._column(name)!r}"

    def _cell(self, column: str) -> Any:
        value = self.row.get(column)
        return parsed(f"{self.where}: {column!r}", value) if plain_name(column) in CHATS else value

    def _one(self, name: str) -> str:
        return text_of(self._what(name), self._value(name), self._asked.all_turns)

    def _texts(self, name: str, *, optional: bool = False) -> list[str]:
        """Read all texts of a field: one text, a list of texts, or one per column. Raises ValueError if there is none,
        unless it is `optional`."""
        values = [(column, self._cell(column)) for column in self.layout.columns[name]]
        texts = [
            "" if item is None else text_of(f"{self.where}: {column!r}", item, self._asked.all_turns)
            for column, value in values
            if value is not None
            for item in _as_list(value)
        ]
        if not texts and not optional and name != "negative":
            raise ValueError(f"{self.where}: no value in column {self._column(name)!r} ({name})")
        return texts

    def _numbers(self, name: str) -> list[float]:
        value = self._value(name)
        return [self._to_number(self._column(name), item) for item in (value if isinstance(value, list) else [value])]

    def _number(self, name: str) -> float:
        return self._to_number(self._column(name), self._value(name))

    def _scores(self, name: str, count: int) -> list[float] | None:
        """Read a number for each of `count` documents; None if the row has none."""
        if not self._has(name):
            return None
        numbers = self._numbers(name)
        self._check_number_of(name, numbers, count)
        return numbers

    def _labels(self, name: str, count: int) -> list[float] | None:
        if name in self.layout.columns and not self._has(name):
            self._value(name)  # raises the error that it is missing
        labels = self._scores(name, count)
        if labels is not None and min(labels, default=0) < 0:
            raise ValueError(
                f"{self.where}: {self._column(name)!r} is {min(labels):g}: labels start at 0 (not relevant); shift them"
            )
        return labels

    def _check_number_of(self, name: str, numbers: Sequence[float], count: int) -> None:
        if len(numbers) != count:
            raise ValueError(f"{self.where}: {self._column(name)!r} has {len(numbers)} numbers for {count} documents")

    def _to_number(self, column: str, value: Any) -> float:
        try:
            number = float(TRUTH_VALUES.get(value, value) if isinstance(value, str) else value)
        except (TypeError, ValueError):
            remedy = ": write 1 for yes and 0 for no" if str(value).strip().lower() in ANSWERS else ""
            remedy = ": write a point for the decimal comma" if DecimalComma.PATTERN.fullmatch(str(value)) else remedy
            raise ValueError(f"{self.where}: {column!r} must be a number, got {_shown(value)}{remedy}") from None
        if not math.isfinite(number):
            raise ValueError(f"{self.where}: {column!r} must be finite, got {number}")
        return number


def text_of(what: str, value: Any, asked: Sequence[Turn] = ()) -> str:
    """Read a text: a string, the title and text of an object, or of a chat its answer to the messages that were
    `asked`. Raises ValueError, which names `what`, for any other value."""
    if (chat := Chat.read(what, value)) is not None:
        return text_of(what, chat.answer(what, asked))
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "content" in item for item in value):
        return "\n".join(text_of(what, message["content"]) for message in value)
    if isinstance(value, Mapping):
        key = next((key for key in ("text", "contents", "content", "segment", "body", "doc") if key in value), None)
        if key is not None:
            title = value.get("title") or ""
            return f"{title} {text_of(what, value[key])}".strip()
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, got {type(value).__name__} (a number? write it in quotes)")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can escape and no tokenizer reads
        raise ValueError(f"{what} is not valid Unicode (lone surrogate at character {error.start + 1})") from None
    return str(value)  # of a number with a decimal comma its text alone


def _shown(value: Any) -> str:
    """The beginning of a cell that is wrong, which may be a whole document."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _as_list(value: Any) -> list[Any]:
    """The texts of a cell that holds one or several. A chat is one text."""
    is_chat = isinstance(value, list) and any(map(is_message, value))
    return value if isinstance(value, list) and not is_chat else [value]
