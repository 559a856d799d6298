"""Measure the memory of a yes/no reranker's scoring head for several vocabulary sizes, and compare with full logits.

    python benchmarks/answer_head.py

Each measurement runs in a separate process, which holds frozen weights (as with LoRA) and the hidden states of the last
tokens. It measures how much a forward and backward increase the peak memory. The methods are: the score alone; the
score and log p over the vocabulary, computed in blocks; and the same from full logits. glibc is set to return freed
memory at once, since it would be counted otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from engines.memory.allocator import peak_memory_bytes
from models.answer_head import LogitTransform, answer_with

VOCABULARIES = (1_500, 15_000, 150_000)
METHODS = ("score", "logsumexp", "logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--hidden-size", type=int, default=896, help="default: that of Qwen2.5-0.5B")
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.vocabulary:
        mib, seconds = measure(arguments.method, arguments.vocabulary, arguments.rows, arguments.hidden_size)
        print(f"{mib:.1f} {seconds:.2f}")
        return
    print(f"{arguments.rows} rows of {arguments.hidden_size}: MiB above the weights, seconds")
    print(f"{'vocabulary':>10}  " + "".join(f"{method:>18}" for method in METHODS))
    for vocabulary in VOCABULARIES:
        cells = []
        for method in METHODS:
            sizes = ["--rows", str(arguments.rows), "--hidden-size", str(arguments.hidden_size)]
            options = [*sizes, "--vocabulary", str(vocabulary), "--method", method]
            command = [sys.executable, __file__, *options]
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            mib, seconds = done.stdout.split()
            cells.append(f"{mib:>10} {seconds:>7}")
        print(f"{vocabulary:>10}  " + "".join(cells), flush=True)


def measure(method: str, vocabulary: int, rows: int, hidden_size: int) -> tuple[float, float]:
    """The increase of the peak memory in MiB, and the seconds, of a forward and backward."""
    head = nn.Linear(hidden_size, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(rows, hidden_size, requires_grad=True)
    torch.randn(64, hidden_size).mm(torch.randn(hidden_size, 64))  # allocates the buffers of the matmul library first
    before, begin = peak_memory_bytes(), time.perf_counter()
    loss_of(method, head, hidden).backward()
    return (peak_memory_bytes() - before) / 2**20, time.perf_counter() - begin


def loss_of(method: str, head: nn.Linear, hidden: Tensor) -> Tensor:
    """-log p(yes), over the vocabulary or over the two answers only."""
    if method == "logits":
        return -head(hidden).log_softmax(dim=-1)[:, 1].mean()
    answer_with(head, 1, 2, LogitTransform())
    score, logsumexp = head(hidden, method == "logsumexp")
    return -(score.sigmoid().log() if logsumexp is None else score - logsumexp).mean()


if __name__ == "__main__":
    main()
