"""Make a large collection, and measure how it is read.

  python benchmarks/large_collection.py make FOLDER --documents 1000000 --words 60 --queries 20000
  python benchmarks/large_collection.py open FOLDER [SETTING ...]      seconds and memory, first and again
  python benchmarks/large_collection.py lists FOLDER [SETTING ...]     training lists of MiniLM's tokens per second
  python benchmarks/large_collection.py file FOLDER [SETTING ...] --documents 2000000
                                       a file of pairs, made if it is not there; seconds and memory, first and again

The words are drawn from 200,000 by Zipf's law; a query is ten words of its relevant document. RssAnon is the memory of
a process that is its own (`/proc/PID/status`), unlike the pages of files, which processes share and the kernel may
drop. The largest RSS of the process that converts a collection counts both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 200_000
AT_ONCE = 10_000  # documents drawn at once
SHARES = {"train": 0.9, "test": 0.1}


def make(folder: Path, documents: int, words: int, queries: int, seed: int) -> None:
    """Write the collection."""
    (folder / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    asked = set(rng.choice(documents, size=queries, replace=False).tolist())
    found: list[tuple[int, str]] = []
    with (folder / "corpus.jsonl").open("w") as corpus:
        for number, text in texts(documents, words, rng):
            corpus.write(json.dumps({"_id": f"d{number}", "title": "", "text": text}) + "\n")
            if number in asked:
                found.append((number, " ".join(rng.choice(text.split(), size=min(10, words), replace=False).tolist())))
    with (folder / "queries.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": f"q{number}", "text": text}) + "\n" for number, text in found)
    start = 0
    for split, share in SHARES.items():
        end = start + round(share * len(found))
        lines = [f"q{number}\td{number}\t1\n" for number, _ in found[start:end]]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
        start = end


def make_pairs(file: Path, documents: int, words: int, seed: int) -> None:
    """Write a file of pairs: each document with a query of ten of its words."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with file.open("w") as rows:
        for _, text in texts(documents, words, rng):
            own = text.split()
            query = " ".join(own[place] for place in rng.integers(len(own), size=min(10, words)).tolist())
            rows.write(json.dumps({"query": query, "document": text}) + "\n")


def texts(documents: int, words: int, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    """The documents of the collection, by number."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(rng.choice(letters, size=rng.integers(3, 11))) for _ in range(VOCABULARY)])
    weights = 1 / np.arange(10, VOCABULARY + 10)
    ends = np.cumsum(weights / weights.sum())
    for start in range(0, documents, AT_ONCE):
        size = min(AT_ONCE, documents - start)
        drawn = vocabulary[np.searchsorted(ends, rng.random((size, words)) * ends[-1])]
        yield from ((start + row, " ".join(text)) for row, text in enumerate(drawn))


def rss_anon_mib(process: int | str = "self") -> float:
    """The memory of a process that is its own, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) / 1024


class WatchedChildren(threading.Thread):
    """Notes the largest RssAnon of a process that this one starts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0.0

    def run(self) -> None:
        while True:
            for children in Path("/proc/self/task").glob("*/children"):
                with suppress(OSError):
                    self.highest = max([self.highest, *map(rss_anon_mib, children.read_text().split())])
            time.sleep(0.2)


def open_collection(settings: list[str]) -> None:
    """Open the collection of a run's settings and print the seconds and the memory."""
    from launch.cli.compose import compose, instantiate

    options = instantiate(compose(settings)["data"], "data")
    watched = WatchedChildren()
    watched.start()
    before, start = rss_anon_mib(), time.perf_counter()
    collection = options.build()
    print(
        f"{len(collection.documents):,} documents in {time.perf_counter() - start:.1f} s, RssAnon {before:.0f} MiB + "
        f"{rss_anon_mib() - before:.0f} MiB; fingerprint {collection.fingerprint}",
        flush=True,
    )
    if watched.highest:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"the process that converts: RSS {used.ru_maxrss / 1024:.0f} MiB, RssAnon {watched.highest:.0f} MiB at "
            f"most, {used.ru_utime + used.ru_stime:.0f} s of CPU",
            flush=True,
        )


def measure_lists(settings: list[str], seconds: float = 10.0) -> None:
    """Draw and tokenise training lists of 8 documents in one process, and print how many rows it makes."""
    from data.sampling.training_lists import TrainingLists
    from launch.cli.compose import compose, instantiate

    tree = compose(["data=beir", "model=cross_encoder", *settings])
    options = instantiate(tree["data"], "data")
    collection, model = options.build(), instantiate(tree["model"], "model").build(0)
    lists = TrainingLists(collection, model.tokenizer, list_size=8, seed=1, options=options.lists)
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows += len(lists[0, rows // 8 % len(lists)].document_ids)
    print(
        f"{rows / (time.perf_counter() - start):.0f} rows/s in one process, RssAnon {rss_anon_mib():.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "open", "lists", "file", "open-here"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", help="of the data or the model, as for launch/train.py")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settings = [f"data.path={options.folder}", *options.settings]
    pairs = options.folder / "pairs.jsonl"
    if options.what == "make":
        make(options.folder, options.documents, options.words, options.queries, options.seed)
    elif options.what in ("open", "file"):
        if options.what == "file" and not pairs.is_file():
            make_pairs(pairs, options.documents, options.words, options.seed)
        chosen = ["data=beir", *settings] if options.what == "open" else ["data=file", f"data.path={pairs}"]
        for _ in range(2):  # each in a process of its own, as a run is
            command = [sys.executable, __file__, "open-here", str(options.folder), *chosen, *options.settings]
            subprocess.run(command, check=True)
    elif options.what == "open-here":
        open_collection(options.settings)
    else:
        measure_lists(settings)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
