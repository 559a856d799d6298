"""Read chats: lists of messages, of which the user asks the query and the assistant's last message is the document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from data.collection import is_empty, normalised

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"),
    "tool": (
        *("tool", "function", "ipython", "observation", "environment"),
        *("function_call", "function_response", "tool_call", "tool_response"),
    ),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
# Keys of a message: those of most libraries, and those of ShareGPT.
SPEAKERS = ("role", "from")
CONTENTS = ("content", "value")
# Parts of a message that are no text of it: calls and results of tools (tool_use, function_call), and reasoning.
NO_TEXT = re.compile(r".*(tool|function).*|(redacted_)?thinking|reasoning")
SHOWN = 40  # characters of a message in an error

Turn = tuple[str, str]  # role and text of a message


@dataclass(frozen=True)
class Question:
    """What is asked: its text, the messages that it consists of (none: a plain text), the system message, and the
    answer that follows in the same chat."""

    text: str
    turns: tuple[Turn, ...] = ()
    system: str = ""
    answer: str | None = None

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """The messages that a document's chat may repeat."""
        return self.turns or (("user", self.text.strip()),)

    def between(self, earlier: tuple[Turn, ...], further: tuple[Turn, ...]) -> Question:
        """The question with these messages before and after its own."""
        if not earlier and not further:
            return self
        turns = (*earlier, *self.all_turns, *further)
        return replace(self, text=_joined(turns), turns=turns, answer=None)


@dataclass(frozen=True)
class Reply:
    """What a document answers: the messages of its chat between the question and the answer (up to the user's last
    one), those `earlier` than the question, and the user's last message before the answer, if the chat has one. The
    default is that of a plain text."""

    column: str
    further: tuple[Turn, ...] = ()
    last: Turn | None = None
    earlier: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A conversation: the text of its system messages, and its other messages in order. Calls and results of tools
    are no part of query or document."""

    system: str
    turns: tuple[Turn, ...]

    @classmethod
    def read(cls, what: str, value: Any) -> Chat | None:
        """Read a list of messages, or one message; None if the value is no chat.

        Raises ValueError, which names `what`, if a role is unknown or a message has something else than text.
        """
        messages = [value] if isinstance(value, Mapping) else value
        if not (isinstance(messages, list) and messages and all(map(is_message, messages))):
            return None
        turns = [(role, _content(what, message)) for message in messages if (role := _role(what, message)) != "tool"]
        turns = [(role, text.strip()) for role, text in turns if not is_empty(text)]
        system = "\n".join(text for role, text in turns if role == "system")
        return cls(system, tuple(turn for turn in turns if turn[0] != "system"))

    def question(self, what: str) -> Question:
        """The messages up to the user's last one, and the assistant's last message after it."""
        asked = max((number for number, (role, _) in enumerate(self.turns, 1) if role == "user"), default=0)
        if not asked:
            raise ValueError(f"{what}: no message of the user, whose last one ends the query")
        after = [text for _, text in self.turns[asked:]]
        turns = self.turns[:asked]
        return Question(_joined(turns), turns, self.system, after[-1] if after else None)

    def answer(self, what: str, asked: Sequence[Turn] = ()) -> str:
        """The document: the assistant's last message after those that were `asked`; if it has none, all messages after
        those. Raises ValueError if nothing is left."""
        repeats = self._repeats(asked)
        turns = self.turns[len(asked) :] if repeats else self.turns
        if not turns:
            raise ValueError(f"{what}: no answer{' after the prompt' * repeats}: leave the row out, or add a message")
        answers = [text for role, text in turns if role == "assistant"]
        return answers[-1] if answers else _joined(turns)

    def reply(self, where: str, column: str, question: Question) -> Reply:
        """What the chat's answer follows: the question, or further messages after it. The chat may repeat the question,
        its end, or nothing of it.

        Raises ValueError if the answer follows other messages.
        """
        asked = question.all_turns
        start = len(asked) if self._repeats(asked) else 0
        answer = max((place for place, (role, _) in enumerate(self.turns) if role == "assistant"), default=-1)
        end = max((place for place, (role, _) in enumerate(self.turns[:answer], 1) if role == "user"), default=0)
        before = self.turns[start:end] if answer >= start else ()
        if start or not before:
            return Reply(column, before, self.turns[end - 1] if before else asked[-1] if start else None)
        if question.turns and _are_same(before, asked[-len(before) :]):
            return Reply(column, (), before[-1])
        if _are_same(before[-len(asked) :], asked):
            return Reply(column, (), before[-1], before[: -len(asked)])
        if question.answer is not None and before[0][0] == "user":  # the chat goes on after the answer of the query's
            return Reply(column, (("assistant", question.answer), *before), before[-1])
        if before[0][0] == "assistant":  # the chat goes on after the query, without repeating it
            return Reply(column, before, before[-1])
        held = 0 if question.turns else _num_held(question.text, before)
        if held:  # a text that holds more than the message, such as "User: ..." or all messages so far
            return Reply(column, before[held:], before[-1])
        own, other = _first_difference(before, asked)
        raise ValueError(
            f"{where}: {column!r} answers other messages than the query: it has {own} where the query has {other}; "
            "leave the row out, or make them equal (a document that is a whole conversation is written as one text)"
        )

    def _repeats(self, asked: Sequence[Turn]) -> bool:
        return bool(asked) and _are_same(self.turns[: len(asked)], asked)


def common_question(what: str, first: Chat, second: Chat) -> Question:
    """The messages that two chats begin with, which are their question. Raises ValueError if there are none."""
    pairs = zip(first.turns, second.turns, strict=False)
    number = next((place for place, (own, other) in enumerate(pairs) if not _are_same([own], [other])), None)
    shared = first.turns[: min(len(first.turns), len(second.turns)) if number is None else number]
    if not shared or shared[0][0] != "user":
        raise ValueError(f"{what}: the two chats do not begin with the same message of the user, which is the query")
    return Chat("", shared).question(what)


def answered(where: str, question: Question, replies: Sequence[Reply]) -> Question:
    """The question with the messages that all documents answer. Raises ValueError if these are not the same."""
    first = replies[0]
    for other in replies[1:]:
        if not _are_same(first.further, other.further):
            said = _first_difference(first.further, other.further)
        elif not _are_same(first.earlier, other.earlier):
            said = _first_difference((*first.earlier, *question.all_turns), (*other.earlier, *question.all_turns))
        elif first.last and other.last and not _are_same([first.last], [other.last]):
            said = _said(first.last), _said(other.last)
        else:
            first = first if first.last else other
            continue
        raise ValueError(
            f"{where}: the documents answer different messages: {said[0]} in {first.column!r}, {said[1]} in "
            f"{other.column!r}; leave the row out, or make the messages before both answers equal"
        )
    return question.between(first.earlier, first.further)


def _num_held(text: str, turns: Sequence[Turn]) -> int:
    """How many of the first messages a text holds, one after the other."""
    rest = normalised(text)
    for number, (_, said) in enumerate(turns):
        found = re.search(rf"(?<!\w){re.escape(normalised(said))}(?!\w)", rest)
        if found is None:
            return number
        rest = rest[found.end() :]
    return len(turns)


def _are_same(first: Sequence[Turn], second: Sequence[Turn]) -> bool:
    """Whether messages are equal up to case and spacing."""
    return len(first) == len(second) and all(
        own == other or (own[0] == other[0] and normalised(own[1]) == normalised(other[1]))
        for own, other in zip(first, second, strict=True)
    )


def _first_difference(first: Sequence[Turn], second: Sequence[Turn]) -> tuple[str, str]:
    """The first messages in which two chats differ. After its last message comes the answer."""
    own, other = next(
        (own, other)
        for own, other in zip_longest(first, second)
        if not own or not other or not _are_same([own], [other])
    )
    return _said(own), _said(other)


def _said(turn: Turn | None) -> str:
    return "the answer" if turn is None else shown(turn[1])


def shown(text: str) -> str:
    """The beginning of a text, in quotes."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _joined(turns: Sequence[Turn]) -> str:
    return "\n".join(text for _, text in turns)


def parsed(what: str, value: Any) -> Any:
    """The value of a column of chats, read from JSON if it is a text that holds a list, as in a CSV cell.

    Raises ValueError, which names `what`, if the list is written as Python prints it.
    """
    start = value.lstrip()[:40].replace(" ", "") if isinstance(value, str) else ""
    if start.startswith(("[{'", "{'", "[[{'")):
        raise ValueError(
            f"{what}: a chat as Python prints it, not JSON: save the rows as JSON lines or parquet "
            "(DataFrame.to_json(FILE, orient='records', lines=True))"
        )
    if not start.startswith(('[{"', '{"', '[[{"')):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not any(isinstance(value.get(key), str) for key in SPEAKERS):
        return False
    return any(key in value for key in (*CONTENTS, "tool_calls", "function_call"))


def _role(what: str, message: Mapping[str, Any]) -> str:
    name = next(message[key] for key in SPEAKERS if isinstance(message.get(key), str))
    if name.strip().lower() not in ROLE_OF:
        known = ", ".join(name for names in ROLES.values() for name in names)
        raise ValueError(f"{what}: a message has the role {name!r}: the roles of a chat are {known}")
    return ROLE_OF[name.strip().lower()]


def _content(what: str, message: Mapping[str, Any]) -> str:
    """The text of a message; empty if it only calls a tool."""
    value = next((message[key] for key in CONTENTS if message.get(key) is not None), "")
    parts = value if isinstance(value, list) else [value]
    return "\n".join(_part(what, part) for part in parts)


def _part(what: str, part: Any) -> str:
    """The text of one part of a message's content: a text, or an object with one. It is empty for `NO_TEXT`."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and NO_TEXT.fullmatch(str(part.get("type", ""))):
        return ""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type", "object") if isinstance(part, Mapping) else type(part).__name__
    raise ValueError(f"{what}: a message has a part of type {kind}: only texts are read")
