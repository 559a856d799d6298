"""Compare ranking by plackett with sentence-transformers' `CrossEncoder.rank`, in one process, on the same threads.

    python benchmarks/rank.py

A cross-encoder of all-MiniLM-L6-v2 with a fresh head ranks documents of ragged length (most short, some long) for one
query. Both methods alternate. Printed are the median of their times, their ratio (of CPU time too, which other
processes change less), and the largest difference of a score. Every round is kept in `--output`, and the same command
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

import plackett
from models.cross_encoder import CrossEncoderConfig

WORDS = "what is the rank list query document python returns value open file read write text index score".split()  # noqa: SIM905


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--output", type=Path, help="FILE.jsonl of rounds that are done")
    arguments = parser.parse_args()
    draw = random.Random(0)
    lengths = [min(4 + int(draw.expovariate(1 / 60)), 400) for _ in range(arguments.documents)]
    documents, query = [" ".join(draw.choices(WORDS, k=length)) for length in lengths], "what is the rank of a document"
    with tempfile.TemporaryDirectory() as folder:
        CrossEncoderConfig(max_length=arguments.max_length).build(0).export(Path(folder) / "model")
        ours = plackett.load(Path(folder) / "model", kind="reranker", device="cpu")
        theirs = CrossEncoder(str(Path(folder) / "model"), device="cpu")
    methods = {
        "plackett": lambda texts: {row.index: row.score for row in ours.rank(query, texts)},
        "sentence-transformers": lambda texts: {
            int(row["corpus_id"]): float(row["score"]) for row in theirs.rank(query, texts, show_progress_bar=False)
        },
    }
    for method in methods.values():
        method(documents[:32])  # the warm-up
    rounds = read(arguments.output)
    while len(rounds) < arguments.rounds:
        scores, seconds = {}, {}
        for name in sorted(methods, reverse=len(rounds) % 2 == 1):
            begin, cpu = time.perf_counter(), time.process_time()
            scores[name] = methods[name](documents)
            seconds |= {name: time.perf_counter() - begin, f"{name} CPU": time.process_time() - cpu}
        one, other = scores.values()
        rounds.append({**seconds, "difference": max(abs(one[index] - other[index]) for index in range(len(documents)))})
        if arguments.output:
            arguments.output.write_text("".join(json.dumps(entry) + "\n" for entry in rounds))
    medians = {name: statistics.median(entry[name] for entry in rounds) for name in methods}
    print(f"{arguments.documents} documents, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(", ".join(f"{name} {median:.2f} s" for name, median in medians.items()))
    for clock in ("", " CPU"):
        ratios = [entry[f"sentence-transformers{clock}"] / entry[f"plackett{clock}"] for entry in rounds]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"plackett is {statistics.median(ratios):.2f} times as fast {spread}{' in CPU time' * bool(clock)}")
    print(f"largest difference of a score {max(entry['difference'] for entry in rounds):.1e}")


def read(output: Path | None) -> list[dict[str, float]]:
    """The rounds that are done."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output and output.is_file() else []


if __name__ == "__main__":
    main()
