"""Recognise the layout of rows by the names of their columns, never by their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
# Names of unknown columns that are likely the query or the document of an example in a message.
ASKING = ("instruction", "input", "q", "title", "question_text", "source", "user", "claim", "premise", "sentence_a")
TELLING = ("output", "a", "context", "target", "content", "body", "abstract", "summary", "evidence", "hypothesis")
TRIED = 10  # columns, and layouts of rows, that are tried for it
NO_TEXT = ("label", "score", "positive_scores", "negative_scores", "weight", "id")  # fields that are no texts
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


class LayoutError(ValueError):
    """Columns that form no layout. `surplus`: those that have to be left out first; none if something is missing.
    `leave_out`: how the message goes on with the setting (`typed`) that leaves out all that is too much, which may be
    `also` more than the surplus."""

    def __init__(self, message: str, surplus: Sequence[str], leave_out: str) -> None:
        super().__init__(message)
        self.surplus = surplus
        self.leave_out = leave_out


@dataclass(frozen=True)
class Layout:
    """The layout of a row. `columns` maps a field of NAMES to its column (several for "negative")."""

    kind: str  # pairs, tuples, lists or preferences
    columns: Mapping[str, list[str]]
    ignored: tuple[str, ...] = ()  # the columns that the user has left out, for messages

    @classmethod
    def recognise(
        cls,
        where: str,
        names: Sequence[str],
        mapping: Mapping[str, str],
        ignored: Iterable[str] = (),
        *,
        mistake: Callable[[Layout], str] = lambda layout: "",
        later: Iterable[Sequence[str]] = (),
    ) -> Layout:
        """Recognise the layout of columns with these `names`.

        Raises ValueError if a column is unknown, a field has two columns, or the fields do not form a layout. Its
        message says what to do about this row, in which `mistake` finds what is wrong under a layout, and about
        those with the columns `later`.
        """
        try:
            return cls._of(names, mapping, ignored)
        except LayoutError as error:
            rows = [names, *dict.fromkeys(map(tuple, later))]
            unknown = _unknown(names, mapping, ignored)
            if unknown is not None:  # those of all rows
                unknown = _unknown(list(dict.fromkeys(name for each in rows for name in each)), mapping, ignored)
            remedy = _remedy(unknown or error, rows, mapping, tuple(ignored), mistake)
            raise ValueError(f"{where}: {unknown or error}{remedy}; recognised: {'; '.join(LAYOUTS)}") from None

    @classmethod
    def _of(cls, names: Sequence[str], mapping: Mapping[str, str], ignored: Iterable[str]) -> Layout:
        """The layout. Raises LayoutError if there is none."""
        ignored = tuple(ignored)
        if (error := _unknown(names, mapping, ignored)) is not None:
            raise error
        own = {column: field for field, column in mapping.items()}
        hint = _absent(names, mapping)
        columns = _by_field({name: str(found) for name, found in _fields(names, mapping, ignored).items()}, own)
        for found, several in columns.items():
            if len(several) > 1 and found != "negative":
                kept = next((name for name in several if name in own), several[0])
                rest = [name for name in several if name != kept]
                message = f"columns {' and '.join(several)} all name the {found}: leave all but one out"
                raise LayoutError(message, rest, ", such as {typed}")
        is_chat = plain_name(columns.get("query", [""])[0]) in CHATS
        if is_chat and {"prompt", "chosen"} <= set(columns) and plain_name(columns["prompt"][0]) == "prompt":
            both = columns["query"] + columns["prompt"]
            raise LayoutError(f"columns {' and '.join(both)} may both be the query", both[:1], ": {typed}")
        kind = _kind(set(columns), is_chat)
        if kind is None:
            surplus = [name for found in _surplus(set(columns), is_chat) for name in columns[found]]
            shown = ", ".join(name for name in names if name not in ignored)
            message = f"columns {shown} form no known layout{hint}; data.columns.FIELD=COLUMN says what a column is"
            raise LayoutError(message, surplus, ", {typed} leaves out what is too much")
        columns["negative"] = sorted(columns.get("negative", ()), key=_number_in)
        return cls(kind, columns, ignored)


def _fields(names: Sequence[str], mapping: Mapping[str, str], ignored: Iterable[str]) -> dict[str, str | None]:
    """The field of every column that is not ignored; None if it is unknown."""
    own = {column: field for field, column in mapping.items()}
    left_out = set(ignored)
    fields = {name: own.get(name) or field_of_column(name) for name in names if name not in left_out}
    if "positive_ctxs" in fields:  # DPR: short answers, which tell whether a passage is right, and the name of the set
        fields = {name: own for name, own in fields.items() if own is not None or name not in ("answers", "dataset")}
    if {"query", "pos"} <= fields.keys() and fields.get("type", "") is None:
        del fields["type"]  # of the task, in rows of FlagEmbedding
    return fields


def _unknown(names: Sequence[str], mapping: Mapping[str, str], ignored: Iterable[str]) -> LayoutError | None:
    """The error of unknown columns, all of them in one line; None if there are none."""
    unknown = [name for name, found in _fields(names, mapping, ignored).items() if found is None]
    if not unknown:
        return None
    first, what, them = (
        ("unknown column", "it is", "it") if len(unknown) == 1 else ("unknown columns", "each is", "them")
    )
    headless = len(unknown) == len(names) and any(len(name.split()) > 3 for name in names)
    hint = " (texts, not names: is a first line with the names missing, such as query and positive?)" * headless
    message = (
        f"{first} {', '.join(map(repr, unknown))}{_absent(names, mapping)}{hint}: say what {what} "
        f"({setting('data.columns.FIELD', unknown[0])}, FIELD one of {', '.join(NAMES)})"
    )
    return LayoutError(message, unknown, f" or leave {them} out{{also}} ({{typed}})")


def _by_field(fields: Mapping[str, str], own: Mapping[str, str]) -> dict[str, list[str]]:
    """The columns of each field. `own` are the columns that the user has named."""
    columns: dict[str, list[str]] = {}
    for name, found in fields.items():
        columns.setdefault(found, []).append(name)
    if "query" not in columns and {"chosen", "document"} & set(columns) and "prompt" in columns:
        prompts = columns.pop("prompt")
        systems = [name for name in prompts if plain_name(name) == "system" and name not in own]
        asked = [name for name in prompts if name not in systems]
        columns |= {field: names for field, names in (("query", asked), ("prompt", systems)) if names}
    if {"document", "negative"} <= set(columns) and "positive" not in columns:
        columns["positive"] = columns.pop("document")
    return columns


def _remedy(
    error: LayoutError,
    rows: Sequence[Sequence[str]],
    mapping: Mapping[str, str],
    ignored: tuple[str, ...],
    mistake: Callable[[Layout], str],
) -> str:
    """What to type so that rows of these columns are read: columns are left out if the others form a layout, else an
    example says what columns of the first row are; empty if neither helps."""
    names = rows[0]
    left_out = leaving_out(rows, mapping, ignored) or leaving_out([names], mapping, ignored)
    wrong = "" if left_out is None else mistake(Layout._of(names, mapping, left_out))
    if left_out is None or (wrong and "data.ignore=" not in wrong):  # which is a remedy of its own
        own = {name: field for name, field in _fields(names, mapping, ignored).items() if name not in mapping.values()}
        found = [
            (fields, others)
            for fields in _guesses([name for name, field in own.items() if field not in NO_TEXT])
            if not fields.keys() & mapping.keys()
            and (others := leaving_out(rows[:TRIED], {**mapping, **fields}, ignored)) is not None
            and not mistake(Layout._of(names, {**mapping, **fields}, others))
        ]
        if found:
            fields, others = min(found, key=lambda example: len(list(filter(is_known, example[1]))))
            typed = [setting(f"data.columns.{field}", column) for field, column in fields.items()]
            typed += [ignoring(others)] if len(others) > len(ignored) else []
            return f", such as {' '.join(typed)}"
    if left_out is None:
        return ""
    more = [name for name in left_out if name not in ignored and name not in error.surplus]
    also = f", also {', '.join(map(repr, more))}, which {'is' if len(more) == 1 else 'are'} too much" if more else ""
    return error.leave_out.format(typed=ignoring(left_out), also=also)


def leaving_out(
    rows: Iterable[Sequence[str]], mapping: Mapping[str, str], ignored: tuple[str, ...]
) -> list[str] | None:
    """The columns without which all `rows` (their columns) have a layout, those already `ignored` first; None if
    leaving out is not enough."""
    left = list(ignored)
    for names in rows:
        while True:
            try:
                Layout._of(names, mapping, left)
                break
            except LayoutError as error:
                if not error.surplus:
                    return None
                left += error.surplus
    return left


def _guesses(columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """What the query and the document may be: one of the columns, or two of them, the likely ones first."""
    asks = sorted(columns, key=lambda name: (is_known(name), plain_name(name) not in ASKING))
    tells = sorted(columns, key=lambda name: (is_known(name), plain_name(name) not in TELLING))
    yield from ({"query": name} for name in asks)
    yield from ({field: name} for field in ("positive", "document") for name in tells)
    for field in ("positive", "document"):
        yield from ({"query": query, field: name} for query in asks[:TRIED] for name in tells[:TRIED] if name != query)


def _absent(names: Sequence[str], mapping: Mapping[str, str]) -> str:
    absent = [f"data.columns.{field}={column} is not there" for field, column in mapping.items() if column not in names]
    return f" ({absent[0]})" if absent else ""


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
