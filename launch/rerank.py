"""Rank documents for one query: `python launch/rerank.py MODEL --query "..." --documents FILE`, see --help."""

from __future__ import annotations

try:
    import argparse
    import json
    import shutil
    import signal
    import sys
    from collections.abc import Iterator, Mapping, Sequence
    from dataclasses import asdict, dataclass
    from pathlib import Path
    from typing import Any, NoReturn

    from data.jsonl import field_of, read_json_lines, read_lines
    from launch.entry import prepare_process
    from launch.errors import reported
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

TOKEN_BUDGET = 8192  # padded tokens per forward pass
ID_KEYS = ("_id", "id", "docid")


@dataclass(frozen=True)
class Document:
    id: str
    text: str


@dataclass(frozen=True)
class RankedDocument:
    rank: int
    score: float
    id: str
    text: str


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    documents = [document for file in options.documents for document in read_documents(file)]
    documents += [Document(str(number), text) for number, text in enumerate(options.document, len(documents) + 1)]
    if not documents:
        raise ValueError("no documents: give them as arguments, or --documents FILE")
    check_text("--query", options.query)
    for document in documents:
        check_text(f"document {document.id!r}", document.id + document.text)
    ranking = rank_documents(
        options.model, options.query, documents, options.max_length, options.raw, options.instruction
    )[: options.top_k]
    if options.json:
        content = {"query": options.query, "model": options.model, "results": [asdict(row) for row in ranking]}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        print("\n".join(table(ranking, shutil.get_terminal_size().columns)))


def rank_documents(
    name_or_path: str,
    query: str,
    documents: Sequence[Document],
    max_length: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
) -> list[RankedDocument]:
    """`documents`, best first, ties in their own order; `instruction` takes the place of the model's own.

    The score is the one that sentence-transformers' `CrossEncoder.predict` gives: the logit after the model's own
    activation; with `raw` the logit itself. The order is that of the logits: a sigmoid makes ties.
    """
    from data.rows import TokenRows
    from engines.process_group import device
    from evaluation.shared_prefix import score_lists
    from models.reranker import load_reranker

    model = load_reranker(name_or_path, max_length).to(device())
    rows = TokenRows.from_encoding(
        model.tokenizer.encode_list(query, [document.text for document in documents], query_prompt=instruction)
    )
    if rows.truncated is not None and rows.truncated.any():
        count, length = int((rows.truncated > 0).sum()), model.tokenizer.max_length
        what = f"note: query or document was cut in {count} of {len(rows)} pairs"
        print(f"{what} (a pair has at most {length} tokens)", file=sys.stderr)
    logits = score_lists(model, rows, [len(documents)], model.tokenizer.padding, TOKEN_BUDGET, device()).cpu()
    scores = logits if raw else model.activation(logits)
    order = logits.argsort(descending=True, stable=True).tolist()
    return [
        RankedDocument(rank, float(scores[index]), documents[index].id, documents[index].text)
        for rank, index in enumerate(order, start=1)
    ]


def read_documents(file: str) -> Iterator[Document]:
    """Documents of a .txt file (one a line; "-" is standard input), a .jsonl file or a .json list, each entry a text
    or an object with text, title and _id. Raises ValueError naming file and line (or entry)."""
    path = Path(file)
    if file != "-" and path.is_dir():
        raise IsADirectoryError(f"--documents {file}: is a directory, expected a file")
    if file != "-" and not path.exists():
        raise FileNotFoundError(f"--documents {file}: no such file")
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if file == "-":
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
        yield from (Document(str(number), line) for number, line in enumerate(lines, start=1))
    elif kind == "jsonl":
        for where, record in read_json_lines(path):
            yield document_of(where, record, where.rpartition(":")[2])
    elif kind == "json":
        yield from read_json_list(path)
    else:
        yield from (Document(where.rpartition(":")[2], line) for where, line in read_lines(path))


def read_json_list(path: Path) -> Iterator[Document]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: malformed JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of texts or objects, got {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if isinstance(entry, str):
            yield Document(str(number), entry)
        elif isinstance(entry, dict):
            yield document_of(where, entry, str(number))
        else:
            raise ValueError(f"{where}: expected a text or an object, got {type(entry).__name__}")


def document_of(where: str, record: Mapping[str, Any], number: str) -> Document:
    """An object with text, maybe title and id (else `number`). The model reads title and text, as in a collection."""
    key = next((key for key in ID_KEYS if key in record), None)
    title = field_of(where, record, "title") if record.get("title") else ""
    text = f"{title} {field_of(where, record, 'text')}".strip()
    return Document(field_of(where, record, key) if key else number, text)


def check_text(what: str, text: str) -> None:
    """Raise ValueError where `text` holds half a surrogate pair, which stands for a byte that is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: not UTF-8 at character {error.start + 1}") from None


def table(ranking: Sequence[RankedDocument], width: int) -> list[str]:
    """Aligned columns rank, score, id and text, the text cut so that a line has at most `width` characters."""
    ids = max(len("id"), *(len(row.id) for row in ranking))
    lines = [f"rank     score  {'id':<{ids}}  text"]
    for row in ranking:
        head = f"{row.rank:>4}  {row.score:>8.4f}  {row.id:<{ids}}  "
        text, space = " ".join(row.text.split()), max(width - len(head), 10)
        lines.append(head + (text if len(text) <= space else text[: space - 1] + "…"))
    return lines


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help shows the usage)")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="rerank.py", description="Rank documents for a query with a trained reranker.")
    parser.add_argument("model", help="outputs/RUN/model, another folder or a hub id")
    parser.add_argument("document", nargs="*", help="documents as arguments")
    parser.add_argument("--query", required=True)
    parser.add_argument(
        "--documents",
        action="append",
        default=[],
        metavar="FILE",
        help=".txt (one a line), .jsonl (text, title, _id), .json (a list); - reads lines from standard input",
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", help="of an LLM reranker; of a cross-encoder: before the query"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="show the best N only")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="per pair of query and document")
    parser.add_argument("--raw", action="store_true", help="show logits, without the model's activation")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_intermixed_args(arguments)
    if not options.query.strip():
        raise ValueError("--query is empty")
    for name in ("top_k", "max_length"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `rerank.py ... | head` ends quietly
    with reported():
        prepare_process(config_dir=None)
        main()
