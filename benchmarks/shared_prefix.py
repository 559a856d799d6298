"""Measure ranking with the shared prefix of a list's prompts computed once, and compare with separate prompts.

    python benchmarks/shared_prefix.py

A Qwen3 decoder with random weights scores lists of 16 documents of 64 tokens after a prefix of 128 tokens. Both methods
alternate on the same model and rows. Printed are the median of their times and the largest difference of a score.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn

from data.batch import TokenSequences
from data.collate import Collator
from engines.distributed.process_group import device as own_device
from inference.runner import ModuleRunner
from inference.score import score_sequences
from inference.shared_prefix import score_lists
from models.answer_head import LogitTransform, answer_with
from models.llm_reranker import LLMReranker
from models.prompts.template import QWEN3
from models.prompts.tokenizer import PromptTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=4)
    parser.add_argument("--documents", type=int, default=16, help="per list")
    parser.add_argument("--prefix", type=int, default=128, help="tokens")
    parser.add_argument("--document-length", type=int, default=64, help="tokens")
    parser.add_argument("--spread", type=float, default=0.0, help="vary document lengths by up to this fraction")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--token-budget", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device, rows, model = own_device(), make_rows(arguments), make_model(arguments.hidden_size, arguments.layers)
    model.to(device)
    runner, budget = ModuleRunner(model, device), arguments.token_budget
    sizes, padding = [arguments.documents] * arguments.lists, {"input_ids": 0}
    methods = {
        "plain": lambda: score_sequences(runner, rows, Collator(padding, budget)),
        "shared": lambda: score_lists(runner, rows, sizes, padding, budget),
    }
    scores = {name: method().cpu() for name, method in methods.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            begin = time.perf_counter()
            method().cpu()
            seconds[name].append(time.perf_counter() - begin)
    plain, shared = (statistics.median(seconds[name]) for name in methods)
    print(f"{len(rows)} prompts, {int(rows.lengths.sum())} tokens, on {device}")
    print(f"plain {plain:.3f} s, shared {shared:.3f} s: {plain / shared:.2f} times as fast")
    difference = (scores["plain"] - scores["shared"]).abs().max()
    print(f"largest difference {difference:.1e}, scores' standard deviation {scores['plain'].std():.2f}")


def make_rows(arguments: argparse.Namespace) -> TokenSequences:
    rng, rows = np.random.default_rng(0), []
    for _ in range(arguments.lists):
        prefix = rng.integers(5, 30_000, arguments.prefix).tolist()
        for _ in range(arguments.documents):
            factor = 1 + arguments.spread * rng.uniform(-1, 1)
            rows.append(prefix + rng.integers(5, 30_000, max(1, round(arguments.document_length * factor))).tolist())
    return TokenSequences.from_encoding({"input_ids": rows})


def make_model(hidden_size: int, layers: int) -> LLMReranker:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=max(1, hidden_size // 128),
        head_dim=64,
        use_cache=False,
    )
    backbone = Qwen3ForCausalLM(config)
    answer_with(backbone.lm_head, 1, 2, LogitTransform())
    model = LLMReranker(backbone, PromptTokenizer(None, 1, template=QWEN3), nn.Identity(), source="random")
    model.reads_packs = True
    return model.eval()


if __name__ == "__main__":
    main()
