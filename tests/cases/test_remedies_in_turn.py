"""The settings that messages about columns name, typed as they stand: after two of them at most, a file is read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.formats.columns import ListRecord
from launch.cli.compose import compose, instantiate

Q, A, N = "which bird dives?", "a gannet dives", "a stork wades"
SAID = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
DENIED = [SAID[0], {"role": "assistant", "content": N}]
ODD = 'say "x", {y}=z\\ $HOME'
# A setting in the quotes of a shell, or a plain one.
SETTING = re.compile(r"""'data\.(?:[^']|'"'"')*'|data\.(?:columns|ignore)[^\s,;)]*=(?:\[.*?\])?[\w.]*""")
# Rows of a file; its first record is (Q, A) in some layout.
FILES: dict[str, list[dict[str, Any]]] = {
    "unknown columns of other rows": [
        {"query": Q, "positive": A, "negative": N, "src": "x"},
        {"query": "c", "positive": "d", "origin": "x"},
        {"query": "e", "positive": "f", "at": 3, "src": "x"},
    ],
    "ultrafeedback": [
        {"prompt": Q, "prompt_id": "x", "chosen": SAID, "rejected": DENIED, "messages": SAID}
        | {"score_chosen": 8.0, "score_rejected": 3.0}
    ],
    "alpaca": [{"instruction": Q, "input": "", "output": A}, {"instruction": "c", "input": "d", "output": "e"}],
    "alpaca with labels": [{"instruction": Q, "output": A, "label": 1}, {"instruction": Q, "output": N, "label": 0}],
    "numbers beside texts": [{"nr": 7, "frage": Q, "antwort": A}],
    "a list of answers": [{"q": Q, "answers_all": [A, "others"]}],
    "only the document is unknown": [{"query": Q, "die Antwort": A, "weight": 1}],
    "only the query is unknown": [{"title": Q, "text": A, "label": 1}],
    "unknown columns and two queries": [{"query": Q, "anchor": "b", "positive": A, "lang": "en"}],
    "all at once": [
        {"query": Q, "anchor": "b", "positive": A, "document": A, "label": 1, ODD: 3, "a b": "", "null": 1}
    ],
    "other faults in other rows": [
        {"query": Q, "positive": A, "lang": "en"},
        {"query": "c", "anchor": "b", "positive": "d"},
        {"query": "e", "positive": "f", "label": 1},
    ],
    "two documents and no query": [{"text": A, "completion": Q}],
    "two prompts": [{"messages": [{"role": "system", "content": "S"}, *SAID], "prompt": "P", "lang": "en"}],
    "names that need quotes": [{ODD: Q, "it's": A}],
    "preferences without a prompt": [{"instruction": Q, "input": "", "chosen": A, "rejected": N}],
    "squad": [{"question": Q, "context": A, "answers": {"text": ["x"], "answer_start": [0]}, "title": "t", "id": "1"}],
    "chats that do not begin with the prompt": [{"prompt": "Be brief.", "chosen": SAID, "rejected": DENIED, "n": 1}],
    "columns of a nested row": [{"data": {"query": Q, "positive": A, "src": "x"}, "meta": {"id": 3}, "url": "x"}],
}


def records(path: Path, settings: Sequence[str]) -> list[ListRecord]:
    data = compose(["data=file", f"data.path={path}", f"data.cache_dir={path.parent}", *settings])["data"]
    return list(instantiate(data, "data").records())


def attempt(path: Path, settings: Sequence[str]) -> list[ListRecord] | str:
    """The rows, or the message of the error."""
    try:
        return records(path, settings)
    except ValueError as error:
        return str(error)


def typed(message: str) -> list[str]:
    """The settings that a message gives, without the placeholder FIELD."""
    found = SETTING.findall(message)
    return [text for one in found if "columns.FIELD" not in one for text in shlex.split(one)]


@pytest.mark.parametrize("name", FILES)
def test_two_remedies_at_most_are_needed(name: str, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FILES[name]))
    settings: dict[str, str] = {}
    messages = []
    while isinstance(found := attempt(path, list(settings.values())), str):
        messages.append(found)
        assert len(messages) <= 2, messages
        assert "\n" not in found
        assert typed(found), found
        settings |= {text.partition("=")[0]: text for text in typed(found)}  # as Hydra takes the last one
    assert messages
    assert len(found) == len(FILES[name])
    if name not in ("two documents and no query", "squad"):
        assert (found[0].query, found[0].documents[0]) == (Q, A)


def test_nothing_is_left_out_if_nothing_would_be_left(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": Q, "input": "x", "output": A}))
    with pytest.raises(ValueError, match=r"data.columns.query=instruction data.columns.positive=output") as caught:
        records(path, ())
    assert "leave" not in str(caught.value)
    path.write_text(json.dumps({"nr": 7, "title": "x"}))
    with pytest.raises(ValueError, match=r"unknown columns 'nr', 'title': say what each is") as caught:
        records(path, ())
    assert "leave" not in str(caught.value)
    assert "such as" not in str(caught.value)


def test_a_column_that_one_split_has_is_left_out_of_all(tmp_path: Path):
    for name, more in (("train", {}), ("test", {"lang": "en"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"query": f"{Q} {name}", "positive": A, **more}))
    for first, second in (("train", "test"), ("test", "train")):
        paths = [f"data.path={tmp_path / first}.jsonl", f"data.test_path={tmp_path / second}.jsonl"]
        data = instantiate(compose(["data=file", *paths, "data.ignore=[lang]"])["data"], "data")
        assert [len(list(data.records(split))) for split in ("train", "test")] == [1, 1]
        data = instantiate(compose(["data=file", *paths, "data.ignore=[lang,lnag]"])["data"], "data")
        with pytest.raises(ValueError, match=r"data.ignore=lnag is no column of "):
            list(data.records())


def test_a_column_of_another_split_is_found_however_late_its_row_comes(tmp_path: Path):
    rows = {"train": 5, "dev": 1_200, "test": 1}
    for name, number in rows.items():
        more = {"source": "x"} if name == "test" else {}
        lines = [json.dumps({"query": f"{Q} {name} {n}", "positive": A, **more}) for n in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    paths = [
        f"data.{key}={tmp_path / name}.jsonl" for name, key in zip(rows, ("path", "dev_path", "test_path"), strict=True)
    ]
    data = instantiate(compose(["data=file", *paths, "data.ignore=[source]"])["data"], "data")
    assert len(list(data.records())) == 5
