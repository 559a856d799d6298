"""launch/report.py: one page that stands alone, and its errors."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from stored_runs import write_run

from launch.report import main
from runs.report import wandb_report
from runs.report.comparison import query_part
from runs.report.comparison.page import POLICY

ONE = {"q1": 0.2, "q2": 0.4, "q3": 0.9}
TWO = {"q1": 0.7, "q2": 0.4, "q3": 0.1}
VOID = ("meta", "img", "source", "br", "input")


class Page(HTMLParser):
    """Checks that tags are balanced; collects the tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(write_run(tmp_path / "one", ONE)), str(write_run(tmp_path / "two", TWO))]


def test_one_page_that_asks_for_nothing(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.html"
    main([*runs, "--output", str(file)])
    assert re.fullmatch(rf"2 runs: {re.escape(str(file))} \(\d\.\d MiB\)\n", capsys.readouterr().out)
    text = file.read_text()
    page = Page(text)
    addresses = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "srcset")
    ]
    assert addresses
    assert all(str(address).startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not page.all("link")
    assert not page.all("a")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", text)
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in page.all("meta")
    for expected in ("<h1>2 runs</h1>", "Paired tests", "<h2>Training</h2>", "Settings", "Environment", "Cost"):
        assert expected in text
    assert text.count('<ul class="legend">') == 1


def test_without_a_script_the_first_pair_is_there(runs: list[str], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main([*runs, "--output", str(file)])
    text = file.read_text()
    table = text[text.index('<table class="pair"') : text.index('<script type="application/json"')]
    assert re.findall(r'<th scope="row">what is (q\d)', table) == ["q1", "q2", "q3"], "the largest gain first"
    assert "text 1 of q1" in table
    assert '<span class="relevant">grade 1</span>' in table
    assert '<td class="up">+0.500</td>' in table
    assert '<td class="down">-0.800</td>' in table
    assert "aria-sort=descending" in table
    assert "B is better on 1, worse on 1 and equal on 1 of 3 queries; mean difference -0.1000" in text
    labels = [attributes["for"] for attributes in Page(text).all("label")]
    assert labels == [attributes["id"] for attributes in Page(text).all("select")]


def test_the_data_of_the_script_are_bounded(runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_part, "MAX_BYTES", 10)
    main([*runs, "--output", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert "listed are the 1 of 3 queries on which the rankings differ most; the counts are over all" in text
    data = re.search(r'id="queries">(.*?)</script>', text)
    assert data is not None
    assert [query[0] for query in json.loads(data[1])["queries"]] == ["q3"]


def test_every_text_is_shown_as_text(tmp_path: Path) -> None:
    tag = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = write_run(tmp_path / "run", ONE, settings={tag: {tag: tag}}, texts={"q1": tag}, data=tag)
    for file in (folder / "runs" / "queries.jsonl", folder / "summary.json", folder / "environment.json"):
        text = file.read_text().replace("text 1 of", tag).replace("2.13.0", tag).replace('"docs"', json.dumps(tag))
        file.write_text(text)
    other = write_run(tmp_path / "failed", {}, finished=False, stages={tag: 10})
    (other / "traceback.txt").write_text(f"ValueError: {tag}")
    with (other / "metrics.jsonl").open("a") as file_:
        file_.writelines(json.dumps({"step": s, "split": "train", f"loss/{tag}": 1.0}) + "\n" for s in (11, 12))
    main([str(folder), str(other), "--output", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "alert(1)" in text
    assert len(page.all("script")) == 2
    assert all(str(attributes.get("src")).startswith("data:") for attributes in page.all("img"))


def test_secrets_of_settings_are_hidden(tmp_path: Path) -> None:
    secret = "hf_abcdefghijklmnopqrstuvwx"
    run = write_run(tmp_path / "run", ONE, settings={"hub": {"token": "abc12345", "note": f"use {secret}"}})
    main([str(run), "--output", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert secret not in text
    assert "abc12345" not in text
    assert "hub.note" in text


def test_wandb_gets_the_same_content(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs:
        (Path(run) / "wandb").mkdir()
        (Path(run) / "wandb" / "run_id").write_text(f"id_of_{Path(run).name}")
    reports = []
    monkeypatch.setattr(wandb_report, "save", lambda report: reports.append(report) or "https://wandb.ai/it")
    main([*runs, "--output", str(tmp_path / "page.html"), "--wandb"])
    assert "W&B Report: https://wandb.ai/it" in capsys.readouterr().out
    text = reports[0]._to_model().model_dump_json(by_alias=True)
    for expected in ("2 runs", "id_of_one", "id_of_two", "2 two vs 1 one: after", "what is q1", "-0.800", "Cost"):
        assert expected in text, expected


def test_without_a_login_the_page_is_written_and_one_line_says_so(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(runs[0]) / "wandb").mkdir()
    (Path(runs[0]) / "wandb" / "run_id").write_text("id")
    monkeypatch.setattr(wandb_report, "logged_in", lambda: False)
    with pytest.raises(ValueError, match="a W&B Report needs a login: `wandb login`") as error:
        main([*runs, "--output", str(tmp_path / "page.html"), "--wandb"])
    assert "\n" not in str(error.value)
    assert (tmp_path / "page.html").is_file()


def test_errors_are_one_line_and_nothing_is_written(runs: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    page = str(tmp_path / "page.html")
    for arguments, message in (
        ([str(tmp_path / "nowhere"), "--output", page], "nowhere: no such folder"),
        ([str(tmp_path / "empty"), "--output", page], "empty is no run: it has no config.yaml"),
        ([*runs, "--output", str(tmp_path / "page.txt")], "page.txt: give a name that ends in .html"),
        ([*runs, "--output", str(tmp_path / "none" / "page.html")], "there is no folder"),
        ([*runs, "--output", str(tmp_path / "folder.html")], "it is a folder"),
        ([*runs, "--output", f"/proc/self/{tmp_path.name}.html"], "it cannot be written (No such file or directory)"),
        (runs, "--output"),
        (["--output", page], "RUN"),
    ):
        with pytest.raises(ValueError) as error:
            main(arguments)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not Path(page).exists()
