"""Of a chat the assistant's last message is the document; what repeats the prompt is not, a system message is the
prompt of the row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data.formats.columns import ListRecord
from data.formats.file import FileConfig
from data.formats.records import read_records


def said(**messages: Any) -> list[dict[str, Any]]:
    """A chat in TRL's form: said(user="...", assistant="..."); a number after the role makes it another message."""
    return [{"role": role.rstrip("0123456789"), "content": content} for role, content in messages.items()]


def shared(**messages: Any) -> list[dict[str, Any]]:
    """A chat in ShareGPT's form."""
    return [{"from": role.rstrip("0123456789"), "value": value} for role, value in messages.items()]


def read(row: Mapping[str, Any]) -> ListRecord:
    (record,) = read_records([("chats.jsonl:1", row)], {})
    return record


ASKED, YES, NO = "which bird dives?", "a gannet dives", "a stork wades"
SYSTEM = "Answer with one bird."
GOOD, BAD = said(user=ASKED, assistant=YES), said(user=ASKED, assistant=NO)
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look_up"}}]}
RESULT = {"role": "tool", "content": {"birds": 2}}
PREFERENCES = {
    "strings": {"prompt": ASKED, "chosen": YES, "rejected": NO},
    "answers": {"prompt": said(user=ASKED), "chosen": said(assistant=YES), "rejected": said(assistant=NO)},
    "whole chats": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "whole chats and a chat": {"prompt": said(user=ASKED), "chosen": GOOD, "rejected": BAD},
    "no prompt": {"chosen": GOOD, "rejected": BAD},
    "one message": {"conversations": shared(human=ASKED), "chosen": shared(gpt=YES)[0], "rejected": shared(gpt=NO)[0]},
    "the answer in messages": {"messages": GOOD, "rejected_messages": BAD},
    "messages that repeat chosen": {"messages": GOOD, "chosen": GOOD, "rejected": BAD},
    "only its answer": {"messages": GOOD, "rejected_messages": said(assistant=NO)},
    "parts": {
        "prompt": said(user=[{"type": "text", "text": ASKED}]),
        "chosen": said(user=[{"type": "text", "text": ASKED}], assistant=[{"type": "text", "text": YES}]),
        "rejected": said(assistant=[{"type": "text", "text": NO}]),
    },
    "tools": {
        "prompt": said(user=ASKED),
        "chosen": [*said(user=ASKED), CALL, RESULT, *said(assistant=YES)],
        "rejected": [CALL, RESULT, *said(assistant=NO)],
    },
}


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_hold_the_answers_alone(name: str, system: bool):
    row = dict(PREFERENCES[name])
    if system:  # in the first chat of the row, or in a column if there is none
        column = next((key for key in ("prompt", "messages", "conversations", "chosen") if _is_chat(row.get(key))), "")
        row |= {column: [*said(system=SYSTEM), *row[column]]} if column else {"system": SYSTEM}
    record = read(row)
    assert (record.kind, record.query, record.documents) == ("preferences", ASKED, [YES, NO])
    assert record.prompt == (SYSTEM if system else None)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list)


OTHERS = {
    "ms-swift": (
        {"messages": said(user=ASKED), "positive_messages": [said(assistant=YES)], "negative_messages": [BAD]},
        [1.0, 0.0],
    ),
    "documents of users": (
        {"messages": said(user=ASKED), "positive_messages": [said(user=YES)], "negative_messages": [said(user=NO)]},
        [1.0, 0.0],
    ),
    "negatives of an answer": ({"messages": GOOD, "negative_messages": [said(assistant=NO)]}, [1.0, 0.0]),
    "rejected response": ({"messages": GOOD, "rejected_response": NO}, [1.0, 0.0]),
    "pairs": ({"prompt": said(user=ASKED), "completion": GOOD}, [1.0]),
    "a chat": ({"messages": GOOD}, [1.0]),
    "ShareGPT": ({"conversations": shared(system="", human=ASKED, gpt=YES)}, [1.0]),
    "likes": ({"prompt": said(user=ASKED), "completion": GOOD, "label": False}, [0.0]),
    "likes of a chat": ({"messages": GOOD, "label": False}, [0.0]),
    "JSON in a cell": ({"messages": json.dumps(GOOD), "label": "0"}, [0.0]),
    "documents": ({"query": ASKED, "documents": [GOOD, BAD], "labels": [1, 0]}, [1.0, 0.0]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layouts_hold_the_answers_alone(name: str):
    row, labels = OTHERS[name]
    record = read(row)
    assert (record.query, record.documents, record.labels) == (ASKED, [YES, NO][: len(labels)], labels)
    assert record.prompt is None


def test_earlier_turns_belong_to_the_query_and_not_to_the_document():
    earlier = said(user="which bird swims?", assistant="a duck", user2=ASKED)
    for row in (
        {"prompt": earlier, "chosen": [*earlier, *said(assistant=YES)], "rejected": said(assistant=NO)},
        {"chosen": [*earlier, *said(assistant=YES)], "rejected": [*earlier, *said(assistant=NO)]},
        {"messages": [*earlier, *said(assistant=YES)], "rejected_messages": [*earlier, *said(assistant=NO)]},
    ):
        record = read(row)
        assert record.query == f"which bird swims?\na duck\n{ASKED}"
        assert record.documents == [YES, NO]


FIRST = said(user="which bird swims?", assistant="a duck")
MORE = [*FIRST, *said(user=ASKED)]
CONTINUED = {
    "a prompt of text": {"prompt": "which bird swims?", "chosen": YES, "rejected": NO},
    "a prompt that is a chat": {"prompt": FIRST[:1], "chosen": YES, "rejected": NO},
    "no prompt": {"chosen": YES, "rejected": NO},
    "a prompt in other case and spacing": {"prompt": " Which bird\n swims?", "chosen": YES, "rejected": NO},
    "a pair": {"query": "which bird swims?", "positive": YES},
    "likes": {"prompt": "which bird swims?", "completion": YES, "label": True},
    "lists": {"query": "which bird swims?", "positive": [YES], "negative": [NO, NO]},
    "a prompt that ends in an answer": {"prompt": FIRST, "chosen": YES, "rejected": NO},
    "only the last question": {"prompt": ASKED, "chosen": YES, "rejected": NO},
}


def _after(turns: list[dict[str, Any]], value: Any) -> Any:
    """The value with every answer as a chat that begins with these turns."""
    if isinstance(value, list):
        return [_after(turns, item) if item in (YES, NO) else item for item in value]
    return [*turns, *said(assistant=value)] if value in (YES, NO) else value


@pytest.mark.parametrize("name", CONTINUED)
def test_messages_that_all_documents_answer_belong_to_the_query(name: str):
    row = {column: _after(MORE, value) for column, value in CONTINUED[name].items()}
    record = read(row)
    assert record.documents[:2] == [YES, NO][: len(record.documents)]
    assert record.query.splitlines()[-2:] == ["a duck", ASKED]
    assert "which bird swims?" in " ".join(record.query.lower().split())


def test_chats_go_on_after_the_answer_that_ends_the_prompt():
    row = {"prompt": FIRST, "chosen": _after(MORE[2:], YES), "rejected": _after(MORE[2:], NO)}
    assert (read(row).query, read(row).documents) == (f"which bird swims?\na duck\n{ASKED}", [YES, NO])


GOES_ON = {"assistant": "a heron", "user": "and another?"}


@pytest.mark.parametrize(
    "row",
    [
        {
            "prompt": said(user=ASKED),
            "chosen": said(**GOES_ON, assistant2=YES),
            "rejected": said(**GOES_ON, assistant2=NO),
        },
        {"prompt": ASKED, "chosen": said(**GOES_ON, assistant2=YES), "rejected": said(**GOES_ON, assistant2=NO)},
        {
            "messages": said(user=ASKED),
            "positive_messages": [said(**GOES_ON, assistant2=YES)],
            "negative_messages": [said(**GOES_ON, assistant2=NO)],
        },
    ],
    ids=["chat", "string", "ms-swift"],
)
def test_chats_go_on_after_a_prompt_that_they_do_not_repeat(row: Mapping[str, Any]):
    record = read(row)
    assert (record.query, record.documents) == (f"{ASKED}\na heron\nand another?", [YES, NO])


def test_what_both_chats_begin_with_is_a_message_of_the_user():
    own = said(assistant="hello", user=ASKED)
    with pytest.raises(ValueError, match="do not begin with the same message of the user"):
        read({"chosen": [*own, *said(assistant=YES)], "rejected": [*own, *said(assistant=NO)]})


def test_a_question_that_is_a_word_of_the_prompt_is_not_held_by_it():
    more = said(user="Yes or no: is it a bird?", assistant="yes", user2="a bird?")
    prompt = "Human: Yes or no: is it a bird?\n\nAssistant:"
    record = read({"prompt": prompt, "chosen": [*more, *said(assistant=YES)], "rejected": [*more, *said(assistant=NO)]})
    assert record.query == f"{prompt}\nyes\na bird?"


def test_a_text_that_holds_what_the_chats_ask_is_the_query():
    transcript = f"Human: which bird swims?\n\nAssistant: a duck\n\nHuman: {ASKED}"
    for prompt, before in ((f"User: {ASKED}", said(user=ASKED)), (transcript, MORE), (transcript, MORE[2:])):
        record = read({"prompt": prompt, "chosen": _after(before, YES), "rejected": _after(before, NO)})
        assert (record.query, record.documents) == (prompt, [YES, NO])


def test_a_prompt_is_recognised_in_other_case_and_spacing():
    upper = said(user=f" {ASKED.upper()}\n")
    record = read({"prompt": upper, "chosen": GOOD, "rejected": BAD})
    assert record.documents == [YES, NO]
    assert read({"chosen": [*upper, *said(assistant=YES)], "rejected": BAD}).documents == [YES, NO]
    with pytest.raises(ValueError, match=r"'rejected': no answer after the prompt"):
        read({"prompt": upper, "chosen": GOOD, "rejected": said(user=ASKED)})
    system = said(system=SYSTEM.upper())
    assert read({"system": SYSTEM, "messages": [*system, *GOOD], "rejected_response": NO}).prompt == SYSTEM


@pytest.mark.parametrize("kind", ["tool_use", "tool_result", "server_tool_use", "function_call", "thinking"])
def test_parts_that_call_tools_or_reason_are_no_text(kind: str):
    parts = [{"type": kind, "name": "look_up", "text": "calls", "content": [{"type": "text", "text": "2"}]}]
    turns = [{"role": "user", "content": parts}, *said(assistant=[*parts, {"type": "text", "text": YES}])]
    record = read({"messages": [*said(user=ASKED), *turns], "rejected_response": NO})
    assert (record.query, record.documents) == (ASKED, [YES, NO])


def test_a_system_message_is_the_prompt_and_a_line_apart_from_the_query(tmp_path: Path):
    row = {"messages": said(system=SYSTEM, user=ASKED), "positive_messages": [said(assistant=YES)]}
    assert read(row).prompt == SYSTEM
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(row))
    train = FileConfig(path=str(file), dev_fraction=0, test_fraction=0).build().splits["train"]
    assert list(train.prompts.values()) == [f"{SYSTEM}\n"]
    assert list(train.queries.values()) == [ASKED]


def test_a_template_that_breaks_the_line_itself_does_so_once():
    from models.prompts.template import QWEN3

    assert QWEN3.instructed(f"{SYSTEM}\n") == QWEN3.instructed(SYSTEM)


def test_a_document_that_is_json_is_text():
    """Only columns of chats are read as JSON: a document of code keeps its text."""
    code = json.dumps(GOOD)
    assert read({"query": ASKED, "positive": code}).documents == [code]


MISTAKES = {
    "only the prompt": ({"prompt": ASKED, "chosen": GOOD, "rejected": said(user=ASKED)}, "no answer after the prompt"),
    "nobody asks": ({"messages": said(assistant=YES)}, "'messages': no message of the user"),
    "no answer": ({"messages": said(user=ASKED)}, "no message of the assistant after the user's last one"),
    "two queries": (
        {"prompt": "p", "messages": said(user=ASKED), "chosen": YES, "rejected": NO},
        r"messages and prompt may both be the query: 'data.ignore=\[messages\]'",
    ),
    "two prompts": (
        {"query": said(system=SYSTEM, user=ASKED), "prompt": "Other:", "positive": YES},
        r"a system message and column prompt may both be the prompt: 'data.ignore=\[prompt\]'",
    ),
    "other turns": (
        {"chosen": [*MORE, *said(assistant=YES)], "rejected": [*FIRST[:1], *said(assistant=NO)]},
        "the documents answer different messages: 'a duck' in 'chosen', the answer in 'rejected'; leave the row out",
    ),
    "other turns after the prompt": (
        {"prompt": FIRST, "chosen": _after(MORE, YES), "rejected": _after([*FIRST, *said(user="and?")], NO)},
        "the documents answer different messages: 'which bird dives.' in 'chosen', 'and.' in 'rejected'",
    ),
    "more turns than the answer of the query": (
        {"messages": [*FIRST[:1], *said(assistant=YES)], "rejected_messages": _after(MORE, NO)},
        "the documents answer different messages: the answer in 'messages', 'a duck' in 'rejected_messages'",
    ),
    "fewer turns than the query": (
        {"prompt": MORE, "chosen": YES, "rejected": [*FIRST[:1], *said(assistant=NO)]},
        "'rejected' answers other messages than the query: it has the answer where the query has 'a duck'; leave",
    ),
    "fewer turns than a transcript": (
        {"prompt": f"which bird swims?\na duck\n{ASKED}", "chosen": _after(MORE, YES), "rejected": FIRST},
        "the documents answer different messages: 'which bird dives.' in 'chosen', 'which bird swims.' in 'rejected'",
    ),
    "a prompt that the chats do not ask": (
        {"prompt": "Be brief.", "chosen": GOOD, "rejected": BAD},
        r"has 'which bird dives.' where the query has 'Be brief.'; .*; 'data.ignore=\[prompt\]' takes what both chats",
    ),
    "another question": (
        {"query": "what flies?", "positive": GOOD},
        "'positive' answers other messages than the query: it has 'which bird dives.' where the query has 'what flies",
    ),
    "two systems": (
        {"chosen": [*said(system="A"), *GOOD], "rejected": [*said(system="B"), *BAD]},
        r"the system messages in 'chosen' and 'rejected' differ \('A', 'B'\), and a row has one prompt: leave the row",
    ),
    "systems of query and document": (
        {"prompt": said(system="A", user=ASKED), "chosen": [*said(system="B"), *GOOD], "rejected": BAD},
        "the system messages in 'prompt' and 'chosen' differ",
    ),
    "a role": ({"messages": said(user=ASKED, narrator=YES)}, "role 'narrator': the roles of a chat are system,"),
    "an image": (
        {"messages": said(user=[{"type": "image", "url": "x"}], assistant=YES)},
        "a part of type image: only texts are read",
    ),
    "Python's form": ({"messages": str(GOOD)}, "a chat as Python prints it, not JSON"),
    "no common prompt": (
        {"chosen": GOOD, "rejected": said(user="which bird sings?", assistant=NO)},
        "do not begin with the same message of the user",
    ),
    "no prompt beside texts": ({"chosen": YES, "rejected": NO}, "no query: .* add a column 'prompt'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_chat_that_cannot_be_read_is_named_in_one_line(name: str):
    row, message = MISTAKES[name]
    with pytest.raises(ValueError, match=f"^chats.jsonl:1: .*{message}") as caught:
        read(row)
    assert "\n" not in str(caught.value)
