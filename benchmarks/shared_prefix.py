"""Measure ranking and training with the shared prefix of a list's prompts computed once, beside separate prompts.

    python benchmarks/shared_prefix.py
    python benchmarks/shared_prefix.py --lists 1 --layers 2 --repeats 3      # on a slow or busy machine

A Qwen3 decoder with random weights scores lists of 16 documents of 64 tokens after a prefix of 128 tokens, then makes
training steps with a listwise loss, all activations kept. Both methods alternate on the same model and rows. Printed
are the median of their times (and of their time on the CPU, which other processes disturb less), and the largest
difference of a score, or |difference| / |gradient|.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from data.batch import TokenSequences
from data.collate import Collator
from engines.distributed.process_group import device as own_device
from engines.memory.allocator import keep_freed_memory
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig
from inference.runner import ModuleRunner
from inference.score import score_sequences
from inference.shared_prefix import list_collator, score_lists
from models.answer_head import LogitTransform, answer_with
from models.llm_reranker import LLMReranker
from models.prompts.template import QWEN3
from models.prompts.tokenizer import PromptTokenizer
from trainers.step import GradientCache, gradients_of

PADDING = {"input_ids": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=4)
    parser.add_argument("--documents", type=int, default=16, help="per list")
    parser.add_argument("--prefix", type=int, default=128, help="tokens")
    parser.add_argument("--document-length", type=int, default=64, help="tokens")
    parser.add_argument("--spread", type=float, default=0.0, help="vary document lengths by up to this fraction")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--token-budget", type=int, default=16384, help="of ranking")
    parser.add_argument("--train-budget", type=int, default=2048, help="token budget of training")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    rows, model = make_rows(arguments), make_model(arguments.hidden_size, arguments.layers).to(own_device())
    sizes = [arguments.documents] * arguments.lists
    print(f"{len(rows)} prompts, {int(rows.lengths.sum())} tokens, on {own_device()}")
    measure_ranking(model, rows, sizes, arguments.token_budget, arguments.repeats)
    measure_training(model, rows, sizes, arguments.train_budget, arguments.repeats)


def measure_ranking(model: LLMReranker, rows: TokenSequences, sizes: list[int], budget: int, repeats: int) -> None:
    runner = ModuleRunner(model, own_device())
    methods = {
        "plain": lambda: score_sequences(runner, rows, Collator(PADDING, budget)).cpu(),
        "shared": lambda: score_lists(runner, rows, sizes, PADDING, budget).cpu(),
    }
    scores = compare("ranking", methods, repeats)
    difference = (scores["plain"] - scores["shared"]).abs().max()
    print(f"largest difference {difference:.1e}, scores' standard deviation {scores['plain'].std():.2f}")


def measure_training(model: LLMReranker, rows: TokenSequences, sizes: list[int], budget: int, repeats: int) -> None:
    options = OptimizerOptions(name="sgd", learning_rate=0.0, weight_decay=0.0)  # so that all steps are the same
    engine = TorchEngineConfig().build(
        model.train(), options, lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), 1e9
    )
    collators = {"plain": Collator(PADDING, budget), "shared": list_collator(model, PADDING, budget)}
    caches = {name: GradientCache(engine, each, kept_chunks=10**6, seed=0) for name, each in collators.items()}
    methods = {name: partial(train_step, cache, rows, sizes) for name, cache in caches.items()}
    gradients = compare("training", methods, repeats)
    error = (gradients["plain"] - gradients["shared"]).norm() / gradients["plain"].norm()
    print(f"|difference| / |gradient| {error:.1e}")


def constant_rate(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda _: 1.0)


def train_step(cache: GradientCache, rows: TokenSequences, sizes: list[int]) -> Tensor:
    """A step, as the trainer makes it. Returns the gradient, which the update has clipped to at most the same."""
    engine: Any = cache.engine
    plan = cache.plan(rows, 1, sizes)
    outputs = cache.forward(plan)
    representations = cache.gather(plan, outputs)
    loss = torch.stack([-scores.log_softmax(0)[0] for scores in representations["score"].split(sizes)]).mean()
    cache.backward(plan, outputs, gradients_of(loss, representations, 1))
    gradient = torch.cat([parameter.grad.flatten() for parameter in engine.trainable]).cpu()
    engine.step()
    return gradient


def compare(what: str, methods: Mapping[str, Callable[[], Tensor]], repeats: int) -> dict[str, Tensor]:
    """Run both in turns, print their median times, and return what they gave at first."""
    results = {name: method() for name, method in methods.items()}  # also the warm-up
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            begin = time.perf_counter(), time.process_time()
            method()
            seconds[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    plain, shared = ([statistics.median(each) for each in zip(*seconds[name], strict=True)] for name in methods)
    print(
        f"{what}: plain {plain[0]:.3f} s, shared {shared[0]:.3f} s: {plain[0] / shared[0]:.2f} times as fast "
        f"({plain[1] / shared[1]:.2f} times in CPU time)"
    )
    return results


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
