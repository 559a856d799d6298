"""Plant false negatives in a collection, and measure who finds them.

    python benchmarks/planted_false_negatives.py plant /data/scifact FOLDER --number 200
    python launch/mine.py data=beir data.path=FOLDER model=bi_encoder output=FOLDER/mined.jsonl ...
    python launch/relabel.py data=file data.path=FOLDER/mined.jsonl model.name_or_path=RERANKER output=FOLDER/r.json
    python benchmarks/planted_false_negatives.py check FOLDER --mined FOLDER/mined.jsonl --report FOLDER/r.json

A planted document is a positive of a training query in other words: its sentences in another order, every fourth left
out, and frequent words replaced by others of the same meaning. It is not judged, so it is a false negative of its
query. The printed recall is over the planted documents that are among the mined negatives; the precision counts what
is not planted as wrong, so it is a lower bound: a collection has false negatives of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PREFIX = "planted-"
LEFT_OUT = 4  # every fourth sentence
SYNONYMS = (
    "show/demonstrate shows/demonstrates showed/demonstrated shown/demonstrated study/investigation",
    "studies/investigations increase/rise increased/raised increases/raises decrease/reduction",
    "decreased/reduced important/essential effect/influence effects/influences result/finding",
    "results/findings suggest/indicate suggests/indicates suggested/indicated found/observed find/observe",
    "role/function patients/individuals patient/individual risk/danger however/nevertheless",
    "therefore/thus although/though because/since including/such-as associated/linked association/link",
    "compared/contrasted using/with-the-help-of used/employed use/employ method/approach",
    "methods/approaches treatment/therapy treatments/therapies disease/disorder diseases/disorders",
    "cause/bring-about caused/brought-about human/people's cells/cellular-units mechanism/process",
    "mechanisms/processes identify/recognise identified/recognised revealed/uncovered reveal/uncover",
    "provide/offer provides/offers provided/offered data/evidence high/elevated low/small",
    "significant/considerable significantly/considerably many/numerous several/a-number-of between/among",
    "during/in-the-course-of within/inside may/might can/is-able-to also/in-addition both/the-two",
    "first/initially new/novel novel/new known/established known/recognised large/big small/little",
)  # word/another
OTHER_WORDS = dict(pair.split("/") for line in SYNONYMS for pair in line.split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    planting = commands.add_parser("plant")
    planting.add_argument("source", type=Path, help="a folder in BEIR's layout")
    planting.add_argument("folder", type=Path, help="the copy with planted documents")
    planting.add_argument("--number", type=int, default=200)
    planting.add_argument("--seed", type=int, default=1)
    checking = commands.add_parser("check")
    checking.add_argument("folder", type=Path)
    checking.add_argument("--mined", type=Path, required=True)
    checking.add_argument("--report", type=Path, required=True, help="of relabel.py, or the audit of mine.py")
    options = parser.parse_args()
    if options.command == "plant":
        plant(options.source, options.folder, options.number, options.seed)
    else:
        check(options.folder, options.mined, options.report)


def plant(source: Path, folder: Path, number: int, seed: int) -> None:
    """Copy the collection, with a paraphrase of one positive of `number` training queries."""
    shutil.copytree(source, folder)
    rng = np.random.default_rng(seed)
    documents = {row["_id"]: row for row in _rows(source / "corpus.jsonl")}
    rows = [line.split("\t") for line in (source / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    positives = {query: document for query, document, grade in reversed(rows) if int(grade) > 0}
    chosen = [sorted(positives)[i] for i in rng.permutation(len(positives))[:number]]
    planted = []
    with (folder / "corpus.jsonl").open("a") as file:
        for query in chosen:
            document = documents[positives[query]]
            name = f"{PREFIX}{len(planted)}"
            text = paraphrase(f"{document.get('title', '')}. {document['text']}", rng)
            file.write(json.dumps({"_id": name, "title": "", "text": text}) + "\n")
            planted.append({"query": query, "document": name, "positive": positives[query]})
    (folder / "planted.json").write_text(json.dumps(planted, indent=1))
    print(f"{folder}: {len(planted)} documents planted")


def paraphrase(text: str, rng: np.random.Generator) -> str:
    """The text in other words: see the top."""
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]
    kept = [sentences[i] for i in rng.permutation(len(sentences)) if len(sentences) < LEFT_OUT or i % LEFT_OUT != 1]
    return " ".join(re.sub(r"[A-Za-z']+", _other_word, sentence) for sentence in kept)


def _other_word(found: re.Match[str]) -> str:
    word = found[0]
    other = OTHER_WORDS.get(word.lower(), word).replace("-", " ")
    return other.capitalize() if word[0].isupper() and other != word else other


def check(folder: Path, mined: Path, report: Path) -> None:
    """Print how many of the planted documents were mined as negatives, and how many of these the report names."""
    texts = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    planted = {
        (queries[each["query"]], texts[each["document"]]) for each in json.loads((folder / "planted.json").read_text())
    }
    negatives = {(row["query"], text) for row in _rows(mined) for text in _negatives(row)}
    content = json.loads(report.read_text())
    if "negatives_suspected" not in content:  # the audit of mine.py, by id, which also lists what a margin kept out
        listed = [each for each in content["suspected"] if each["query_id"] in queries]
        suspected = {(queries[each["query_id"]], texts[each["document_id"]]) for each in listed}
        print(f"listed by the audit: {len(planted & suspected)} of the {len(planted)} planted")
        ranked = [(queries[each["query_id"]], texts[each["document_id"]]) for each in listed]
        first = sum(pair in planted for pair in ranked[: len(planted)])
        print(f"of its first {len(planted)}, {first} are planted")
    else:
        suspected = {(each["query"], each["document"]) for each in content["negatives_suspected"]}
    hidden = planted & negatives
    found = hidden & suspected
    print(f"planted {len(planted)}, mined as negatives {len(hidden)} (of {len(negatives)} negatives)")
    print(f"suspected {len(suspected)}: recall {len(found) / max(len(hidden), 1):.3f}, ", end="")
    print(f"precision at least {len(found) / max(len(suspected), 1):.3f}")


def _negatives(row: dict[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if name.startswith("negative"):
            yield from [value] if isinstance(value, str) else value
    for document, label in zip(row.get("documents", ()), row.get("labels", ()), strict=False):
        if label == 0:
            yield document


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


if __name__ == "__main__":
    main()
