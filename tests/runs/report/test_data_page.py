"""The page of an inspection."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from launch.inspect_data import main

OPEN = {"meta", "img", "source", "br"}  # elements without an end


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture
def page(tmp_path, tiny_bert_dir, capsys):
    """The page and the JSON of rows with a negative that is the positive, whose text is no HTML."""
    texts = [f"<b>number {i}</b>" + " red" * i for i in range(30)]
    rows = [{"query": f"what is {i}", "positive": text, "negative": f"no {i}"} for i, text in enumerate(texts)]
    rows[4]["negative"] = texts[4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]
    file = tmp_path / "page.html"
    main([str(tmp_path / "rows.jsonl"), f"data.cache_dir={tmp_path}", *model, "--json", "--html", str(file)])
    return file.read_text(encoding="utf-8"), json.loads(capsys.readouterr().out)


def test_the_page_is_whole_and_opens_offline(page):
    text, _ = page
    balance = Balance()
    balance.feed(text)
    assert balance.stack == []
    assert {"table", "img", "h2"} <= balance.seen
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "<b>number" not in text
    assert "&lt;b&gt;number 3&lt;/b&gt;" in text
    assert text.count("<figure>") == 4  # tokens of queries and of documents, labels, negatives per query


def test_the_page_and_the_json_say_the_same(page):
    text, content = page
    [finding] = content["findings"]
    assert finding["name"] == "positives as negatives"
    assert not content["fails"]
    for part in (finding["name"], finding["message"], finding["advice"]):
        assert part in text
    assert [role["total"] for role in content["roles"]] == [30, 59]
    assert content["splits"][0]["labels"] == {"0": 29, "1": 30}  # a positive that is a negative too is none
    assert "info_nce" in content["losses"]["fit"]
