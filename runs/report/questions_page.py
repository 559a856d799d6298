"""Write the audit of what a language model wrote as a page, one file that can be opened offline."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.report.html import page_of, table_of
from runs.report.mining_page import ShownQuery, queries_part, settings_part


@dataclass(frozen=True)
class QuestionsPage:
    """The content of the page. `tables` are counts by what is counted, below a sentence; `prompts` templates by kind;
    `samples` and `dropped` texts with what they are about."""

    title: str
    lead: str
    tables: Mapping[str, Mapping[str, str]]
    prompts: Mapping[str, str]
    samples: Sequence[ShownQuery]
    dropped: Sequence[ShownQuery]
    settings: Mapping[str, Any]


def write_questions_page(page: QuestionsPage, file: Path) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    title = html.escape(page.title)
    body = [
        f'<h1>{title}</h1><p class="lead">{html.escape(page.lead)}</p>',
        *(_table(sentence, counts) for sentence, counts in page.tables.items() if counts),
        queries_part("To judge by eye", "kept texts, drawn by the seed", page.samples),
        queries_part("Left out", "some of the texts that are left out, for each reason", page.dropped),
        *(_prompt(kind, text) for kind, text in page.prompts.items()),
        settings_part(page.settings),
    ]
    file.write_text(page_of(title, body), encoding="utf-8")


def _table(sentence: str, counts: Mapping[str, str]) -> str:
    rows = (f"<tr><td>{html.escape(number)}</td><td>{html.escape(name)}</td></tr>\n" for name, number in counts.items())
    return f"<h2>{html.escape(sentence)}</h2>\n{table_of('', rows, 'findings')}"


def _prompt(kind: str, text: str) -> str:
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return f"<h2>Prompt of a {html.escape(kind.replace('_', ' '))}</h2>\n<p>{lines}</p>"
