"""The tables of a choice, as cells of text: for the terminal and for the page. All comes from choose.json."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.significance import PairedTest
from models.tokenization import length_in_words
from recipes.choose.decision import values_of
from recipes.choose.limits import in_bytes, number, share

Summary = Mapping[str, Any]
Cells = list[list[str]]
WIDTH = 120
NONE = "-"


def measured(summary: Summary) -> list[Mapping[str, Any]]:
    """The rows of the models that were measured."""
    return [row for row in summary["models"] if "error" not in row]


def models(summary: Summary) -> list[Mapping[str, Any]]:
    """The rows of the models that were measured, without BM25."""
    return [row for row in measured(summary) if row["kind"] != "bm25"]


def main_table(summary: Summary) -> tuple[list[str], Cells]:
    """Every model with its quality, cost, licence and verdict."""
    header = [
        "",
        "verdict",
        summary["metric"],
        "95% interval",
        "vs best",
        "ms/query p50",
        "p95",
        "docs/s",
        "memory",
        "index",
    ]
    header += ["licence"]
    cells = []
    for row in summary["models"]:
        verdict = summary["decision"]["verdicts"][row["label"]]
        if "error" in row:
            cells.append([row["label"], verdict["verdict"], *[NONE] * (len(header) - 2)])
            continue
        low, high = row["intervals"][summary["metric"]]
        values, test = values_of(row, row["forms"][0] if row["forms"] else None, summary["metric"]), verdict.get("test")
        is_best = row["label"] == summary["decision"]["best"]
        cells.append(
            [
                row["label"],
                verdict["verdict"],
                f"{row['metrics'][summary['metric']]:.4f}",
                f"{low:.3f}-{high:.3f}",
                "best" if is_best else p_of(test) if test else NONE,
                number(values["query_ms_p50"]),
                number(values["query_ms_p95"]),
                number(values["documents_per_s"]),
                in_bytes(values["peak_memory_bytes"]),
                in_bytes(values["index_bytes"]),
                NONE if row["kind"] == "bm25" else values["licence"] or "?",
            ]
        )
    return header, cells


def p_of(test: Mapping[str, float]) -> str:
    return f"p {test['p_value']:.3f}" if test["p_value"] >= 0.001 else "p <.001"


def reading_table(summary: Summary) -> tuple[list[str], Cells]:
    """What each model reads of the texts, and cuts."""
    header = ["", "reads", "doc tokens p50", "p90", "p99", "max", "query p50", "max", "docs cut", "queries cut"]
    header += [f"{summary['metric']} whole", "in windows", "difference", "texts"]
    cells = []
    for row in models(summary):
        texts, cut, windows = row["texts"] or {}, row["truncated"] or {}, row.get("windows")
        documents, queries = texts.get("document_tokens", {}), texts.get("query_tokens", {})
        cells.append(
            [
                row["label"],
                length_in_words(row["max_length"]),
                *(whole(documents.get(name)) for name in ("p50", "p90", "p99", "max")),
                *(whole(queries.get(name)) for name in ("p50", "max")),
                *(share(cut[name]) if name in cut else NONE for name in ("documents", "queries")),
                f"{row['metrics'][summary['metric']]:.4f}",
                f"{windows['quality']:.4f}" if windows else NONE,
                str(PairedTest(**windows["test"])) if windows else NONE,
                f"x {windows['texts_factor']:.2f}" if windows else NONE,
            ]
        )
    return header, cells


def whole(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def words_table(summary: Summary) -> tuple[list[str], Cells]:
    """How each tokenizer reads words."""
    header = ["", "tokens per word", "unknown tokens", "vocabulary", "used", "broken terms"]
    cells = [
        [
            row["label"],
            f"{row['texts']['tokens_per_word']:.2f}",
            f"{row['texts']['unknown_tokens']:.2%}",
            f"{row['texts']['vocabulary']:,}",
            share(row["texts"]["vocabulary_used"]),
            f"{share(row['texts']['broken_terms'])} of {row['texts']['terms']:,}",
        ]
        for row in models(summary)
        if row["texts"]
    ]
    return header, cells


def broken_lines(summary: Summary) -> list[str]:
    """The most frequent terms that each tokenizer breaks, with their numbers of tokens."""
    shared: dict[str, list[str]] = {}
    for row in models(summary):
        found = (row["texts"] or {}).get("broken_examples", [])
        terms = (f"{each['term']} {each['tokens']}{' (unknown)' * each['unknown']}" for each in found)
        if found:
            shared.setdefault(", ".join(terms), []).append(row["label"])
    return [f"{', '.join(labels)}: {terms}" for terms, labels in shared.items()]


def forms_table(summary: Summary) -> tuple[list[str], Cells]:
    """The quality and index of every stored form."""
    header = ["", "stored as", "dimensions", summary["metric"], "95% interval", "best 10 kept", "index"]
    cells = []
    for row in measured(summary):
        for form in row["forms"]:
            low, high = form["interval"]
            kept = NONE if form["overlap"] is None else share(form["overlap"])
            quality = [f"{form['quality']:.4f}", f"{low:.3f}-{high:.3f}", kept]
            cells.append([row["label"], form["form"], f"{form['dim']:,}", *quality, in_bytes(form["index_bytes"])])
    return header, cells


def origin_table(summary: Summary) -> tuple[list[str], Cells]:
    """Licences and prices."""
    header = ["", "parameters", "licence", "USD per million tokens", "USD for these documents"]
    cells = [
        [
            row["label"],
            f"{row['parameters']:,}",
            row["declared"]["licence"] or "?",
            NONE if row["price"] is None else f"{row['price']:g}",
            NONE if row["price_of_corpus"] is None else f"{row['price_of_corpus']:.4f}",
        ]
        for row in models(summary)
    ]
    return header, cells


def origin_lines(summary: Summary) -> list[str]:
    """What each model was trained on, who says the licence, and what is published of it on these data."""
    lines = []
    for row in models(summary):
        said, by_source = row["declared"], dict[str, list[str]]()
        for each in said["trained_on"]:
            by_source.setdefault(each["source"], []).append(each["data"])
        parts = [f"trained on {', '.join(names)} ({source})" for source, names in by_source.items()]
        parts = parts or ["no card or fact says what it was trained on"]
        if said["licence"]:
            parts.append(f"licence by {said['licence_source']}")
        parts += [
            f"published nDCG@10 on these data: {e['value']} ({e['date']}, {e['source']})" for e in row["published"]
        ]
        lines.append(f"{row['label']}: {'; '.join(parts)}")
    return lines


def facts_table(summary: Summary) -> tuple[list[str], Cells]:
    """What is published about the models, with sources."""
    header = ["", "fact", "published", "date", "source"]
    cells = []
    for row in models(summary):
        for name, facts in row["declared"]["facts"].items():
            if name == "beir_by_set":
                continue
            for fact in facts:
                shown = _shown(fact["value"])
                caveat = row["declared"]["caveat"]
                cells.append(
                    [row["label"], f"{name}{f' ({caveat})' * bool(caveat)}", shown, fact["date"], fact["source"]]
                )
    return header, cells


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def aligned(header: Sequence[str], cells: Cells) -> list[str]:
    """Lines of aligned columns, the first two and the last to the left."""
    rows = [list(header), *cells]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    last = len(header) - 1

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.ljust(width) if column in (0, 1, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    lines = [line(row) for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def lead(summary: Summary) -> str:
    """What was compared, in a line."""
    made = " (made from the documents)" if summary["judgements"] != "given" else ""
    return (
        f"{summary['data']}, {summary['split']}: {summary['kind']}, {summary['method']}; {summary['queries']:,} "
        f"queries{made}, {summary['documents']:,} documents"
    )


def print_choice(summary: Summary) -> None:
    """Print the choice: what was compared, the table, the reasons, warnings, and the recommendation."""
    print(f"{lead(summary)}\n")
    print("\n".join(aligned(*main_table(summary))))
    print()
    for label, verdict in summary["decision"]["verdicts"].items():
        print("\n".join(wrapped([f"{label}: {verdict['reason']}"])))
    print("\n".join(wrapped(f"warning: {warning}" for warning in summary["warnings"])))
    print(
        "\n".join(
            wrapped(
                [
                    f"choose {summary['decision']['sentence']}"
                    if summary["decision"]["chosen"]
                    else summary["decision"]["sentence"]
                ]
            )
        )
    )


def wrapped(lines: Iterable[str]) -> list[str]:
    """The lines, each cut at words."""
    options = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, **options)]  # type: ignore[arg-type]
