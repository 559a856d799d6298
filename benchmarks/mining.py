"""Mine hard negatives beside sentence-transformers' mine_hard_negatives, and from a collection of a million documents.

  python benchmarks/mining.py compare FOLDER --by minilm     the same pairs? time and peak memory of both, each alone
  python benchmarks/mining.py compare FOLDER --by bm25
  python benchmarks/mining.py large FOLDER --model DIR       two ranks, memory, SIGKILL in the middle, one rank

FOLDER is in BEIR's layout (../shared/data/scifact; `benchmarks/large_collection.py make` writes a large one). `compare`
takes 5 negatives of each training query with a relative margin of .05 and a window of 200 ranks, of which both count
other documents (docs/reference.md): so its end hardly decides anything. Nearly equal texts, which
sentence-transformers does not look for, are not left out. BM25 is given to it as a model whose document vectors hold
the scores of its terms. Peak memory is the maximum resident set size of the process (`ru_maxrss`), RssAnon that of
/proc/PID/status, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
NUM_NEGATIVES, MARGIN, WINDOW = 5, 0.05, 200
BATCH = 32  # texts of a forward pass of sentence-transformers, its default
TOKEN_BUDGET = 4096  # of ours, padded: small chunks of like length are the fastest on a CPU

Pair = tuple[str, str]  # text of a query and of a negative


def settings_of(folder: Path, cache: Path, by: str, *more: str) -> list[str]:
    """The settings of launch/mine.py for the comparison."""
    model = ["model=bm25"] if by == "bm25" else ["model=bi_encoder"]
    return [
        *("data=beir", f"data.path={folder}", f"data.cache_dir={cache}", *model, "precision=fp32"),
        *(f"mine.num_negatives={NUM_NEGATIVES}", f"mine.relative_margin={MARGIN}", f"mine.range_max={WINDOW}"),
        *("mine.output=triplet", "mine.near_duplicate=null", f"mine.token_budget={TOKEN_BUDGET}", *more),
    ]


def training_pairs(folder: Path, cache: Path) -> tuple[list[str], list[Pair]]:
    """The texts of the corpus, and the (query, relevant document) pairs that launch/mine.py mines."""
    from data.candidates import NoCandidates
    from data.formats.beir import BEIRConfig

    collection = BEIRConfig(path=str(folder), cache_dir=str(cache), candidates=NoCandidates()).build()
    train = collection.split("train")
    judged = ((query, name) for query, own in train.qrels.items() for name, grade in own.items() if grade > 0)
    pairs = [(train.queries[query], collection.documents[name]) for query, name in judged]
    return list(collection.documents.values()), pairs


class BM25Vectors:
    """BM25 as the model of `mine_hard_negatives`: a document's vector holds the scores of the queries' terms, a query's
    how often it has them."""

    device = "cpu"

    def __init__(self, corpus: Sequence[str], queries: Sequence[str]) -> None:
        from tempfile import TemporaryDirectory

        from data.bm25 import BM25
        from data.bm25_index import open_index, write_index
        from data.words import analyzer_for

        options, places = BM25(), {text: row for row, text in enumerate(corpus)}
        analyzer = analyzer_for(corpus, "auto", "auto", "model")
        with TemporaryDirectory() as folder:
            write_index(Path(folder) / "index", corpus, analyzer=analyzer, k1=options.k1, b=options.b)
            index = open_index(Path(folder) / "index")
            words = dict(zip(queries, analyzer.queries(queries), strict=True))
            terms = {word: n for n, word in enumerate(dict.fromkeys(w for own in words.values() for w in own))}
            self.documents = np.zeros((len(corpus), len(terms)), dtype=np.float32)
            for word, number in terms.items():
                self.documents[:, number] = index.get_scores([word])
        self.places, self.words, self.terms = places, words, terms

    def encode_document(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        return self.documents[[self.places[text] for text in texts]]

    def encode_query(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        vectors = np.zeros((len(texts), len(self.terms)), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in self.words[text]:
                vectors[row, self.terms[word]] += 1
        return vectors

    def similarity(self, queries: Any, documents: Any) -> Any:
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries: Any, documents: Any) -> Any:
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(dim=1)


def mine_with_theirs(folder: Path, by: str, output: Path) -> None:
    """Mine by sentence-transformers and write the triplets with scores."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    corpus, pairs = training_pairs(folder, output.parent)
    if by == "bm25":
        model: Any = BM25Vectors(list(dict.fromkeys(corpus)), list(dict.fromkeys(query for query, _ in pairs)))
    else:
        from models.loading.resolve import DEFAULT_MODEL, resolve

        model = SentenceTransformer(str(resolve(DEFAULT_MODEL)), device="cpu")
    mined = mine_hard_negatives(
        Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]}),
        model,
        corpus=corpus,
        num_negatives=NUM_NEGATIVES,
        relative_margin=MARGIN,
        range_max=WINDOW,
        batch_size=BATCH,
        output_scores=True,
    )
    output.write_text("".join(json.dumps(row) + "\n" for row in mined))


def run_alone(command: Sequence[str], log: Path) -> tuple[float, float, float]:
    """Run a command. Returns its seconds, those of processor time, and the peak memory of its process in MiB."""
    code = (
        "import resource, subprocess, sys\n"
        "status = subprocess.call(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)\n"
        "raise SystemExit(status)\n"
    )
    start = time.perf_counter()
    with log.open("w") as file:
        alone = [sys.executable, "-c", code, *command]
        done = subprocess.run(alone, stdout=subprocess.PIPE, stderr=file, text=True, check=True)
    processor, memory = done.stdout.split()[-2:]
    return time.perf_counter() - start, float(processor), int(memory) / 1024


def compare(folder: Path, by: str, work: Path) -> None:
    """Mine by both, each in a process of its own, and print what differs."""
    work.mkdir(parents=True, exist_ok=True)
    ours, theirs, cache = work / f"ours-{by}.jsonl", work / f"theirs-{by}.jsonl", work / f"cache-{by}"
    shutil.rmtree(cache, ignore_errors=True)
    settings = settings_of(folder, cache, by, f"output={ours}", "overwrite=true", "mine.scores=true")
    measured = {
        "launch/mine.py": run_alone([sys.executable, str(ROOT / "launch/mine.py"), *settings], work / "ours.log"),
        "sentence-transformers": run_alone(
            [sys.executable, __file__, "theirs", str(folder), "--by", by, "--work", str(work)], work / "theirs.log"
        ),
    }
    for name, (seconds, processor, memory) in measured.items():
        print(
            f"{name}: {seconds:.1f} s, {processor:.1f} s of processor time, peak memory {memory:,.0f} MiB", flush=True
        )
    first, second = scored_pairs(ours), scored_pairs(theirs)
    print(f"pairs: {len(first):,} ours, {len(second):,} theirs, {len(first.keys() & second.keys()):,} equal")
    for name, only, others in (("ours", first, second), ("theirs", second, first)):
        for query, document in only.keys() - others.keys():
            print(f"only {name}: score {only[query, document]:.6f}: {query[:60]} | {document[:60]}")


def scored_pairs(file: Path) -> dict[Pair, float]:
    """The score of each (query, negative) of a file of triplets."""
    rows = map(json.loads, file.read_text().splitlines())
    return {(row["query"], row["negative"]): row["scores"][1] for row in rows}


def large(folder: Path, model: Path, work: Path) -> None:
    """Mine a large collection: on two ranks, killed in the middle and again, and on one rank."""
    work.mkdir(parents=True, exist_ok=True)
    runs = {}
    for name, ranks, kill_at in (("two ranks", 2, ()), ("killed", 2, ("vectors", "mined")), ("one rank", 1, ())):
        cache = work / f"cache-{ranks}-{bool(kill_at)}"
        for old in ("vectors", "mined"):
            shutil.rmtree(cache / old, ignore_errors=True)
        output = work / f"{name.replace(' ', '-')}.jsonl"
        settings = ["data=beir", f"data.path={folder}", f"data.cache_dir={cache}", f"model.name_or_path={model}"]
        settings += [f"output={output}", "overwrite=true", "mine.scores=true", "mine.percentage=null"]
        settings += ["model.max_length=64", "precision=fp32"]
        for place in kill_at:
            killed_at(start_ranks(settings, ranks), cache / place)
        start, process = time.perf_counter(), start_ranks(settings, ranks)
        peak = peak_rss_anon(process)
        runs[name] = hashlib.sha256(output.read_bytes()).hexdigest()
        print(f"{name}: {time.perf_counter() - start:.0f} s, RssAnon at most {peak:,.0f} MiB a rank", flush=True)
    print(f"same bytes: {len(set(runs.values())) == 1} {runs}")


def start_ranks(settings: Sequence[str], ranks: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "launch/mine.py"), *settings]
    if ranks > 1:
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command = [*run, *command[1:]]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def killed_at(process: subprocess.Popen[bytes], place: Path) -> None:
    """Kill all ranks by SIGKILL once the cache has parts of a stage there, and it is not finished."""
    while process.poll() is None and not any(parts_of(place)):
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    ranks = psutil.Process(process.pid).children(recursive=True)
    for each in (process, *ranks):  # torchrun first: it would end them gently
        os.kill(each.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(ranks)
    print(f"killed with {sum(1 for _ in parts_of(place))} parts in {place.name}", flush=True)


def parts_of(place: Path) -> Iterator[Path]:
    """The finished parts of a stage: blocks of vectors, groups of rankings."""
    yield from place.glob(".making-*document*/blocks/*.npy")
    yield from place.glob("*/[0-9]*.npz")


def peak_rss_anon(process: subprocess.Popen[bytes]) -> float:
    """The highest RssAnon of any process of a command until it ends, in MiB."""
    peak, parent = 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error, OSError):
            for each in (parent, *parent.children(recursive=True)):
                lines = Path(f"/proc/{each.pid}/status").read_text().splitlines()
                peak = max([peak, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.1)
    assert process.returncode == 0, f"exit status {process.returncode}"
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compare", "theirs", "large"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", choices=("minilm", "bm25"), default="minilm")
    parser.add_argument("--model", type=Path, help="a folder with an embedding model, for `large`")
    parser.add_argument("--work", type=Path, default=Path("outputs/mining"), help="folder for outputs and caches")
    options = parser.parse_args()
    if options.what == "compare":
        compare(options.folder, options.by, options.work)
    elif options.what == "theirs":
        mine_with_theirs(options.folder, options.by, options.work / f"theirs-{options.by}.jsonl")
    else:
        large(options.folder, options.model, options.work)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
