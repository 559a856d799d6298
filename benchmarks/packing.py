"""Compare packed rows with padded ones: forward and backward of a bi-encoder over the chunks of one step.

    python benchmarks/packing.py docstrings --max-length 256            # of numpy, up to 200 words
    python benchmarks/packing.py FOLDER --max-length 512                # documents and queries in BEIR's layout
    python benchmarks/packing.py equal --max-length 256 --dropout 0     # rows of one length: nothing to gain

The two run in turn, in one process and on one thread. The time is that of the processor, so that other work on the
machine counts little. Printed is the median ratio of the pairs; the first pair, which warms up, does not count.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import at_least_one

from data.batch import TokenSequences
from data.collate import Collator, PackedCollator
from data.formats.docstring_pairs import read_pairs
from models.bi_encoder import BiEncoder, BiEncoderConfig

QUERIES = 3  # documents for each query


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    options = BiEncoderConfig(max_length=arguments.max_length, dropout=arguments.dropout, packing=True)
    packed = options.build(seed=0)
    padded = copy.deepcopy(packed)
    padded.pad_rows()  # rows are padded
    sequences = rows(arguments, packed)
    collators = {
        "padded": Collator(packed.tokenizer.padding, arguments.token_budget),
        "packed": PackedCollator(packed.tokenizer.padding, arguments.token_budget),
    }
    lengths = sequences.lengths.tolist()
    tokens = {name: sum(each.cost(lengths, chunk) for chunk in each.plan(lengths)) for name, each in collators.items()}
    print(f"{len(sequences)} rows, {tokens['packed']} tokens, {tokens['padded']} with padding", flush=True)
    ratios, models = [], {"padded": padded, "packed": packed}
    for _ in range(arguments.pairs + 1):
        times = {name: step(model, sequences, collators[name]) for name, model in models.items()}
        ratios.append(times["packed"] / times["padded"])
        print(f"padded {times['padded']:.2f} s, packed {times['packed']:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"packed : padded {statistics.median(ratios[1:]):.3f} (median of {arguments.pairs} pairs)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", help="docstrings, equal, or a folder in BEIR's layout")
    for name, value in (("rows", 32), ("max-length", 256), ("token-budget", 1024), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=at_least_one, default=value)
    parser.add_argument("--dropout", type=float, help="default: as pretrained")
    return parser.parse_args()


def rows(arguments: argparse.Namespace, model: BiEncoder) -> TokenSequences:
    """The tokenised texts: a query for every QUERIES documents, drawn with a fixed seed."""
    draw = random.Random(0)
    num_queries = arguments.rows // (QUERIES + 1)
    if arguments.texts == "equal":
        ids = np.random.default_rng(0).integers(1000, 5000, size=arguments.rows * arguments.max_length)
        lengths = np.full(arguments.rows, arguments.max_length, dtype=np.int32)
        return TokenSequences({"input_ids": ids.astype(np.int32)}, lengths)
    if arguments.texts == "docstrings":
        pairs = read_pairs("numpy", 200)
        documents, queries = [f"{pair.name} {pair.rest}" for pair in pairs], [pair.sentence for pair in pairs]
    else:
        folder = Path(arguments.texts)
        documents, queries = (
            [f"{row.get('title', '')} {row['text']}" for row in map(json.loads, file.open(encoding="utf-8"))]
            for file in (folder / "corpus.jsonl", folder / "queries.jsonl")
        )
    texts = draw.sample(documents, arguments.rows - num_queries) + draw.sample(queries, num_queries)
    return TokenSequences.from_encoding(model.tokenizer(texts))


def step(model: BiEncoder, sequences: TokenSequences, collator: Collator) -> float:
    """The seconds of the processor for the forward and backward of all chunks."""
    started = time.process_time()
    for number, chunk in enumerate(collator.plan(sequences.lengths.tolist())):
        torch.manual_seed(number)
        embedding = model(**collator.collate(sequences, chunk))["embedding"]
        (embedding * torch.randn_like(embedding)).sum().backward()
    seconds = time.process_time() - started
    model.zero_grad()
    return seconds


if __name__ == "__main__":
    main()
