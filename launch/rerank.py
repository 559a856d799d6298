"""Rank documents for one query with a trained reranker.

  python launch/rerank.py outputs/RUN/model --query "what is BM25?" --documents FILE.txt     one document a line
  python launch/rerank.py outputs/RUN/model --query "what is BM25?" "a document" "another"   documents as arguments
  python launch/rerank.py HUB_ID --query "what is BM25?" --documents FILE.jsonl --top-k 5 --json
  cat FILE.txt | python launch/rerank.py outputs/RUN/model --query "what is BM25?" --documents -

Scores are those of sentence-transformers' CrossEncoder; an LLM reranker's come from the logits of its two answers.
"""

from __future__ import annotations

try:
    import argparse
    import json
    import shutil
    import sys
    from collections.abc import Sequence
    from dataclasses import asdict, dataclass

    from data.formats.documents import Document, read_documents
    from launch.cli.arguments import Parser, run_command
    from models.prompts.template import TEMPLATES
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

# Messages about models name settings; these are the flags in their places.
OPTION_NAMES = {
    "lower eval.token_budget (in training trainer.token_budget), then model.max_length": "lower --max-length",
    "lower trainer.kept_chunks, then trainer.token_budget (tokens per chunk), then model.max_length": (
        "lower --max-length"
    ),
    "set trust_remote_code=true (model.trust_remote_code, or the teacher's or guide's)": (
        "rank with `python launch/evaluate.py model.trust_remote_code=true ...`, launch/rerank.py runs none"
    ),
    "model=llm_reranker model.template=NAME (launch/rerank.py: --template NAME)": "--template NAME",
    "set model.template to": "choose --template of",
    " or your own (launch/rerank.py: --template NAME)": "",
    ", or give one with _target_: models.prompts.template.PromptTemplate": "",
    "choose null (as the folder says)": "leave --template out",
    " (null: the one that the folder was trained with)": "",
    **{
        f"choose model={kind}": f"`python launch/evaluate.py model={kind} model.name_or_path=FOLDER` evaluates it"
        for kind in ("bi_encoder", "late_interaction", "sparse_encoder", "static_embedder")
    },
    "choose model=cross_encoder": "leave --template out",
    "model.template": "--template",
    "model.max_length": "--max-length",
    "max_length=": "--max-length=",
}


@dataclass(frozen=True)
class Row:
    """A document with its score and its rank, from 1."""

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
    ranking = ranked(options, documents)[: options.top_k]
    if options.json:
        content = {"query": options.query, "model": options.model, "results": [asdict(row) for row in ranking]}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        print("\n".join(table(ranking, shutil.get_terminal_size().columns)))


def ranked(options: argparse.Namespace, documents: Sequence[Document]) -> list[Row]:
    """Rank the documents, best first. A line says how many were cut."""
    # torch, numpy and transformers only once the arguments are known to be right
    from data.truncation import Truncation, cut_line
    from plackett.reranker import Reranker

    reranker = Reranker.load(
        options.model,
        max_length=options.max_length,
        template=options.template,
        special_tokens=options.special_tokens,
    )
    pairs = [(options.query, document.text) for document in documents]
    found = reranker.score(pairs, instruction=options.instruction, show_progress=True)
    count = Truncation.of_rows(found.cut, [len(pairs)], len(pairs))
    if line := cut_line({"": count}, {"--max-length": reranker.max_length}):
        print(line, file=sys.stderr)
    scores = found.raw if options.raw else found.scores
    order = (-found.raw).argsort(kind="stable").tolist()
    return [
        Row(rank, float(scores[index]), documents[index].id, documents[index].text)
        for rank, index in enumerate(order, start=1)
    ]


def check_text(what: str, text: str) -> None:
    """Raise ValueError if `text` holds a lone surrogate, which Python puts in place of a byte that is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: not UTF-8 at character {error.start + 1}") from None


def table(ranking: Sequence[Row], width: int) -> list[str]:
    """Aligned columns rank, score, id and text, the text cut so that a line has at most `width` characters."""
    ids = max(len("id"), *(len(row.id) for row in ranking))
    lines = [f"rank     score  {'id':<{ids}}  text"]
    for row in ranking:
        head = f"{row.rank:>4}  {row.score:>8.4f}  {row.id:<{ids}}  "
        text, space = " ".join(row.text.split()), max(width - len(head), 10)
        lines.append(head + (text if len(text) <= space else text[: space - 1] + "…"))
    return lines


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", help="outputs/RUN/model, another folder or a hub id")
    parser.add_argument("document", nargs="*", help="documents as arguments")
    parser.add_argument("--query", required=True, metavar="TEXT", help="what the documents are ranked for")
    parser.add_argument(
        "--documents",
        action="append",
        default=[],
        metavar="FILE",
        help=".txt (one a line), .jsonl, .csv, .tsv, .parquet (text, title, _id), .json (a list); - reads lines from "
        "standard input",
    )
    parser.add_argument(
        "--instruction",
        metavar="TEXT",
        help="for an LLM reranker; a cross-encoder reads it before the query",
    )
    parser.add_argument(
        "--template",
        choices=sorted(TEMPLATES),
        help="the prompt of a language model whose folder has none, as a copy of Qwen3-Reranker",
    )
    parser.add_argument(
        "--special-tokens",
        action="store_true",
        help="read [SEP], <|im_end|> and the like in texts as control tokens, for models trained so elsewhere",
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
    run_command(main, OPTION_NAMES)
