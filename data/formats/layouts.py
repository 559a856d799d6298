"""Recognise the layout of rows by the names of their columns, never by their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.formats.remedies import ignoring, setting

# Names of columns by field. `prompt` is the query if there is no other query (TRL), else the text before the query.
NAMES = {
    "query": ("query", "anchor", "question", "query_text", "sentence1", "messages", "conversations", "conversation"),
    "document": ("document", "passage", "doc", "text", "sentence2", "completion", "response"),
    "documents": ("documents", "docs", "passages", "candidates"),
    "positive": ("positive", "positives", "pos", "answer", "positive_passages", "positive_ctxs", "positive_messages"),
    "negative": (
        *("negative", "negatives", "neg", "negative_passages", "negative_ctxs", "negative_messages"),
        *("hard_negative", "hard_negatives", "hard_negative_ctxs", "rejected_response"),
    ),
    "chosen": ("chosen",),
    "rejected": ("rejected", "rejected_messages"),
    "label": ("label", "labels", "relevance"),
    "score": ("score", "scores", "teacher_scores"),
    "positive_scores": ("positive_scores", "pos_scores", "score_chosen"),
    "negative_scores": ("negative_scores", "neg_scores", "score_rejected"),
    "weight": ("weight",),
    "prompt": ("prompt", "system"),
    "id": ("id", "_id", "query_id", "qid", "idx", "index"),
}
FIELDS = {name: field for field, names in NAMES.items() for name in names}
NUMBERED = re.compile(r"(hard_)?neg(ative)?s?_?\d+")
LAYOUTS = (
    "query, document (label or score)",
    "query, positive (negative, or negative_1 ... negative_n, and scores)",
    "query, documents, labels or scores",
    "prompt, chosen, rejected",
    "prompt, completion, label",
    "messages (negative_messages, rejected_messages or label)",
)
# Columns of chats. The chat of the query may hold the relevant document as well, as the answer of the assistant.
CHATS = ("messages", "conversations", "conversation", "positive_messages", "negative_messages", "rejected_messages")


def field_of_column(name: str) -> str | None:
    """The field of a column by its name, in any case, with spaces or hyphens for underscores; None if it is unknown."""
    plain = plain_name(name)
    return "negative" if NUMBERED.fullmatch(plain) else FIELDS.get(plain)


def plain_name(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.strip().lower())


def is_known(name: str) -> bool:
    return field_of_column(name) is not None


@dataclass(frozen=True)
class Layout:
    """The layout of a row. `columns` maps a field of NAMES to its column (several for "negative")."""

    kind: str  # pairs, tuples, lists or preferences
    columns: Mapping[str, list[str]]

    @classmethod
    def recognise(
        cls, where: str, names: Sequence[str], mapping: Mapping[str, str], ignored: Iterable[str] = ()
    ) -> Layout:
        """Recognise the layout of columns with these `names`.

        Raises ValueError if a column is unknown, a field has two columns, or the fields do not form a layout.
        """
        own = {column: field for field, column in mapping.items()}
        absent = [
            f"data.columns.{field}={column} is not there" for field, column in mapping.items() if column not in names
        ]
        hint = f" ({absent[0]})" if absent else ""
        columns: dict[str, list[str]] = {}
        fields = {name: own.get(name) or field_of_column(name) for name in names if name not in set(ignored)}
        if "positive_ctxs" in fields and fields.get("answers", "") is None:
            del fields["answers"]  # short answers, which tell whether a passage is right
        if {"query", "pos"} <= fields.keys() and fields.get("type", "") is None:
            del fields["type"]  # of the task, in rows of FlagEmbedding
        if unknown := [name for name, found in fields.items() if found is None]:
            raise ValueError(f"{where}: {_unknown_columns(unknown, hint)}; recognised: {'; '.join(LAYOUTS)}")
        for name, found in fields.items():
            columns.setdefault(str(found), []).append(name)
        if "query" not in columns and {"chosen", "document"} & set(columns) and "prompt" in columns:
            prompts = columns.pop("prompt")
            systems = [name for name in prompts if plain_name(name) == "system" and name not in own]
            asked = [name for name in prompts if name not in systems]
            columns |= {field: names for field, names in (("query", asked), ("prompt", systems)) if names}
        if {"document", "negative"} <= set(columns) and "positive" not in columns:
            columns["positive"] = columns.pop("document")
        for found, several in columns.items():
            if len(several) > 1 and found != "negative":
                kept = next((name for name in several if name in own), several[0])
                rest = [name for name in several if name != kept]
                raise ValueError(
                    f"{where}: columns {' and '.join(several)} all name the {found}: leave all but one out, such as "
                    f"{ignoring(rest)}"
                )
        is_chat = plain_name(columns.get("query", [""])[0]) in CHATS
        if is_chat and {"prompt", "chosen"} <= set(columns) and plain_name(columns["prompt"][0]) == "prompt":
            both = columns["query"] + columns["prompt"]
            raise ValueError(f"{where}: columns {' and '.join(both)} may both be the query: {ignoring(both[:1])}")
        kind = _kind(set(columns), is_chat)
        if kind is None:
            surplus = [name for found in _surplus(set(columns), is_chat) for name in columns[found]]
            or_leave_out = f", {ignoring(surplus)} leaves out what is too much" if surplus else ""
            raise ValueError(
                f"{where}: columns {', '.join(names)} form no known layout{hint}; recognised: {'; '.join(LAYOUTS)}; "
                f"data.columns.FIELD=COLUMN says what a column is{or_leave_out}"
            )
        columns["negative"] = sorted(columns.get("negative", ()), key=_number_in)
        return cls(kind, columns)


def _unknown_columns(names: Sequence[str], hint: str) -> str:
    """What to do about unknown columns, all of them in one line."""
    shown, names_it = ", ".join(map(repr, names)), setting("data.columns.FIELD", names[0])
    first, what, them = ("unknown column", "it is", "it") if len(names) == 1 else ("unknown columns", "each is", "them")
    return (
        f"{first} {shown}{hint}: say what {what} ({names_it}, FIELD one of {', '.join(NAMES)}) or leave {them} out "
        f"({ignoring(names)})"
    )


def _kinds(fields: set[str], is_chat: bool) -> dict[str, tuple[set[str], set[str]]]:
    """The fields that a row of each kind needs, and those that it may have. `is_chat`: the query is a chat, which may
    hold the relevant document."""
    kinds = {
        "pairs": ({"query", "document"}, {"label", "score"}),
        "tuples": ({"query", "positive"}, {"negative", "positive_scores", "negative_scores"}),
        "lists": ({"query", "documents"}, {"label", "score"}),
        "preferences": ({"query", "chosen", "rejected"}, {"positive_scores", "negative_scores"}),
    }
    if {"positive", "negative"} <= fields:
        kinds["tuples"][1].update({"label", "score"})  # a teacher's, of the positive and the negatives
    elif "negative" in fields:
        kinds["tuples"] = ({"query", "negative"}, {"negative_scores"})  # without a relevant document
    if {"chosen", "rejected"} <= fields:
        kinds["preferences"][0].discard("query")  # it may be what both chats begin with
        kinds["preferences"][1].add("query")
    if is_chat and not {"document", "documents", "positive", "chosen"} & fields:
        kinds["pairs"][0].remove("document")
        kinds["preferences"][0].remove("chosen")
    return {
        kind: (required, required | further | {"weight", "prompt", "id"}) for kind, (required, further) in kinds.items()
    }


def _kind(fields: set[str], is_chat: bool) -> str | None:
    kinds = _kinds(fields, is_chat)
    return next((kind for kind, (required, valid) in kinds.items() if required <= fields <= valid), None)


def _surplus(fields: set[str], is_chat: bool) -> set[str]:
    """The fewest fields without which the others form a layout; empty if there are none."""
    found = [fields - valid for required, valid in _kinds(fields, is_chat).values() if required <= fields]
    return min(found, key=len, default=set())


def _number_in(column: str) -> int:
    digits = re.search(r"\d+$", column)
    return int(digits[0]) if digits else 0
