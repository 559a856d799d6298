"""Time what the host of each rank does for all rows of a global step: the part of a step that no rank shares.

    python benchmarks/host_rows.py --lists 4096 --documents 32 --ranks 512

One process plays rank 0 of many, without collectives: it packs its share of the lists, reads those of the others from
arrays, finds equal sequences, and plans the chunks and the exchange of all ranks. On a GPU this goes on while the
device computes the step before (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=32, help="of each list")
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--token-budget", type=int, default=16_384)
    arguments = parser.parse_args()
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(arguments.ranks)}
    rows = arguments.lists * (arguments.documents + 1)
    seconds = measure(arguments.lists, arguments.documents, arguments.ranks, arguments.token_budget)
    for name, each in seconds.items():
        print(f"{name}: {each:.3f} s of processor time")
    total = sum(seconds.values())
    print(f"{rows:,} rows on {arguments.ranks} ranks: {total:.2f} s, {1e6 * total / rows:.1f} microseconds a row")


def measure(lists: int, documents: int, ranks: int, token_budget: int) -> dict[str, float]:
    """The seconds of processor time of each part."""
    from data.batch import ListBatch
    from data.collate import PackedCollator
    from data.sampling.list_arrays import arrays_of, divide, lists_of
    from trainers import step

    shares = [[example(number, documents) for number in range(first, lists, ranks)] for first in range(ranks)]
    packed = [arrays_of(divide(share, holder)) for holder, share in enumerate(shares)]
    own, times = divide(shares[0], 0), [time.process_time()]
    arrays_of(own)
    times.append(time.process_time())
    of_ranks = [lists_of(arrays, holder) for holder, arrays in enumerate(packed)]
    of_ranks[0] = own
    times.append(time.process_time())
    batch = ListBatch(0, [of_ranks[i % ranks][i // ranks] for i in range(lists)])
    repeats = batch.repeats
    times.append(time.process_time())
    cache: Any = step.GradientCache.__new__(step.GradientCache)
    cache.collator = PackedCollator({}, token_budget)
    with patch.object(step, "fetch_own_tokens", lambda sequences, chunks, spare: sequences):
        cache._make_plan(batch.sequences, 1, repeats, batch.sequences_per_list)
    times.append(time.process_time())
    names = ("packs its lists", "reads those of others", "finds equal sequences", "plans chunks and exchange")
    return dict(zip(names, np.diff(times).tolist(), strict=True))


def example(number: int, documents: int) -> Any:
    """A list of random tokens."""
    from data.batch import ListExample, TokenSequences

    draw = np.random.default_rng(number)
    lengths = draw.integers(TOKENS // 2, TOKENS, documents + 1).astype(np.int32)
    tokens = draw.integers(0, 30_000, int(lengths.sum())).astype(np.int32)
    return ListExample(
        f"query {number}",
        [f"document {number * documents + place}" for place in range(documents)],
        np.ones(documents, dtype=np.float32),
        np.zeros(documents, dtype=np.float32),
        TokenSequences({"input_ids": tokens, "token_type_ids": np.zeros_like(tokens)}, lengths),
        number,
        draw.integers(0, 2**62, documents),
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
