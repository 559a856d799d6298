"""Read chats: lists of messages, of which the user asks the query and the assistant's last message is the document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        turns = [(role, text.strip()) for role, text in turns if text.strip()]
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
        repeats = bool(asked) and self.turns[: len(asked)] == tuple(asked)
        turns = self.turns[len(asked) :] if repeats else self.turns
        if not turns:
            raise ValueError(f"{what}: no answer{' after the prompt' * repeats}: leave the row out, or add a message")
        answers = [text for role, text in turns if role == "assistant"]
        return answers[-1] if answers else _joined(turns)


def common_question(what: str, first: Chat, second: Chat) -> Question:
    """The messages that two chats begin with, which are their question. Raises ValueError if there are none."""
    number = 0
    for own, other in zip(first.turns, second.turns, strict=False):
        if own != other:
            break
        number += 1
    question = Chat(first.system or second.system, first.turns[:number])
    if not any(role == "user" for role, _ in question.turns):
        raise ValueError(f"{what}: the two chats do not begin with the same message of the user, which is the query")
    return question.question(what)


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
    """The text of one part of a message's content: a text, or an object with one."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type", "object") if isinstance(part, Mapping) else type(part).__name__
    raise ValueError(f"{what}: a message has a part of type {kind}: only texts are read")
