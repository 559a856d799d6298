"""Write the docstrings as two training files that know different things: labels without grades, and preferences.

    python benchmarks/stage_data.py FOLDER

FOLDER/labels.jsonl has lists whose labels are 1 for every relevant function: the query's own, and those of the same
name. FOLDER/preferences.jsonl has pairs that these labels do not hold: the query's own function is preferred to one of
the same name. The test of data=docstrings grades both (2 and 1), so that a model gains by learning each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEPTH = 30  # candidates of BM25 in a list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from data.formats.docstrings import OWN_GRADE, DocstringsConfig

    collection = DocstringsConfig().build()
    split, texts = collection.split("train"), collection.documents
    lists: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for query, text in split.queries.items():
        grades = split.qrels[query]
        relevant = [document for document, grade in grades.items() if grade > 0]
        others = [document for document, _ in split.candidates[query][:DEPTH] if document not in relevant]
        labels = [1] * len(relevant) + [0] * len(others)
        lists.append(
            {"query": text, "documents": [texts[document] for document in relevant + others], "labels": labels}
        )
        own = [document for document in relevant if grades[document] == OWN_GRADE]
        same_name = [document for document in relevant if document not in own]
        pairs += [
            {"prompt": text, "chosen": texts[chosen], "rejected": texts[rejected]}
            for chosen in own
            for rejected in same_name
        ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("labels", lists), ("preferences", pairs)):
        write(folder / f"{name}.jsonl", rows)
        print(f"{folder / name}.jsonl: {len(rows):,} rows")


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
