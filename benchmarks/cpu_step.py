"""Measure a whole training step on the CPU against the peak of matrix products, and say where the rest of it goes.

    python benchmarks/cpu_step.py [infonce] [listwise] [--rounds 5] [--threads 2] [--profile] [--plain-allocator]

MiniLM, InfoNCE on 32 texts and a listwise cross-encoder on 4 lists of 8, each row of 256 tokens. The sides take turns
on one trainer, batch and process: dropout 0 and .1 with the kernels of models/cpu/, with torch's dropout, and with
torch's kernels alone. The share of peak is the floating-point operations of the matrix products (counted on the
model), divided by the time of the step, loss and optimizer included, and by the rate of a large fp32 product, measured
between the steps: torch's, and where it is faster that of oneDNN. Medians are given. `--profile` prints the time of a
step by operation. `--plain-allocator` lets glibc give freed memory back to the system at once, which a run does not
(`engines/memory/allocator.py`). On loaded cores give `--cpu-time`: one thread, and the seconds that it computed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from side_by_side import RowFlops, at_least_one, configured, make_trainer, matmul_peaks
from torch import Tensor, nn

TOKENS = 256
ROWS = 32
KINDS = {
    "infonce": ["+exp=embedder_infonce", "trainer.list_size=1", f"trainer.batch_size={ROWS // 2}"],
    "listwise": ["+exp=reranker_listwise", "trainer.list_size=8", f"trainer.batch_size={ROWS // 8}"],
}
GROUPS = {  # operations by what they belong to; the first group that has one of its words in the name
    "linear layers": ("_linear_pointwise", "addmm", "aten::mm"),
    "attention: matrix products": ("bmm", "flash_attention"),
    "attention: softmax": ("softmax",),
    "dropout: random words": ("random words",),
    "GELU": ("gelu",),  # before masks, whose aten::ge is the beginning of its name
    "dropout: masks": ("aten::ge", "bernoulli", "native_dropout"),
    "layer norm": ("layer_norm",),
    "embeddings": ("embedding", "index_select"),
    "AdamW": ("_fused_adamw",),
    "norm and clipping of gradients": ("_foreach", "linalg_vector_norm"),
    "sums (bias gradients)": ("aten::sum",),
    "multiplications (masks, scales)": ("aten::mul",),
    "additions (residuals, gradients)": ("aten::add", "AccumulateGrad"),
    "copies and zeros": ("copy_", "fill_", "zero_", "aten::cat"),
}

now = time.perf_counter

Side = tuple[float, Callable[[nn.Module], None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"{', '.join(KINDS)}; all if none is named")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--threads", type=at_least_one, help="of torch; all cores if it is left out")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--plain-allocator", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"{min(unknown)} is not one of {', '.join(KINDS)}")
    if arguments.cpu_time:
        global now
        now, arguments.threads = time.process_time, 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    from engines.memory.allocator import keep_freed_memory

    if not arguments.plain_allocator:
        keep_freed_memory()
    for kind in arguments.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            trainer, batch, operations = prepare(kind, Path(folder))
            if arguments.profile:
                print_profile(kind, trainer, batch, rounds=arguments.rounds)
            else:
                compare(kind, trainer, batch, operations, rounds=arguments.rounds)


def prepare(kind: str, folder: Path) -> tuple[Any, Any, float]:
    """The trainer, a batch of ROWS rows of TOKENS tokens, and the operations of the matrix products of its step."""
    from trainers.training_progress import TrainingProgress

    words = ["time", "house", "river", "green", "seven", "music", "paper", "north"]
    data, generator = folder / "texts.jsonl", torch.Generator().manual_seed(0)

    def text() -> str:
        return " ".join(words[index] for index in torch.randint(len(words), (TOKENS,), generator=generator).tolist())

    with data.open("w") as file:
        for _ in range(40):
            texts = {"query": text(), "positive": text(), "negatives": [text() for _ in range(7)]}
            if kind == "listwise":
                texts["query"] = " ".join(texts["query"].split()[:20])
            file.write(json.dumps(texts) + "\n")
    places = ["data=file", f"data.path={data}", f"output_dir={folder / 'run'}", "logger=none", "trainer.workers=0"]
    settings = configured([*KINDS[kind], *places, f"model.max_length={TOKENS}", "engine.precision=fp32"])
    trainer = make_trainer(settings, settings.data.build())
    trainer.progress = TrainingProgress(0, 1)
    trainer.state.step = 1
    batch = trainer.next_batch()
    lengths = batch.sequences.lengths.tolist()
    assert lengths == [TOKENS] * ROWS, lengths
    return trainer, batch, RowFlops.count(settings.model, backward=True).of(lengths)


def sides() -> dict[str, Side]:
    """Dropout, and what gives a model its kernels, of each side that is compared."""
    from models.cpu.kernels import use_cpu_kernels, use_torch_kernels
    from models.cpu.linear import OneDnnLinear, prefers_onednn

    def only_linear(model: nn.Module) -> None:
        use_torch_kernels(model)
        for module in model.modules():
            if type(module) is nn.Linear and prefers_onednn():
                module.__class__ = OneDnnLinear

    return {
        "dropout 0": (0.0, use_cpu_kernels),
        "dropout .1": (0.1, use_cpu_kernels),
        "dropout .1, torch's dropout": (0.1, only_linear),
        "dropout 0, torch alone": (0.0, use_torch_kernels),
        "dropout .1, torch alone": (0.1, use_torch_kernels),
    }


def compare(kind: str, trainer: Any, batch: Any, operations: float, *, rounds: int) -> None:
    """Print a table of medians."""
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first warms up
        for name, side in sides().items():
            seconds[name].append(time_of_step(trainer, batch, side))
        for name, rate in matmul_peaks().items():
            peaks[name].append(rate)
        if number:
            print(f"round {number}: " + ", ".join(f"{name} {each[-1]:.2f} s" for name, each in seconds.items()))
    best = {name: max(each) for name, each in peaks.items()}
    threads = torch.get_num_threads()
    print(f"\n{kind}: {ROWS} rows of {TOKENS} tokens, {operations / 1e9:.0f} GFLOP a step, threads: {threads}")
    print("fp32 matmul peak: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in best.items()))
    print(f"\n| side | seconds a step | tokens/s | {' | '.join(f'share of the peak of {name}' for name in best)} |")
    print("|---|---|---|" + "---|" * len(best))
    for name, each in seconds.items():
        median = statistics.median(each[1:])
        shares = " | ".join(f"{operations / median / rate:.0%}" for rate in best.values())
        print(f"| {name} | {median:.2f} | {ROWS * TOKENS / median:,.0f} | {shares} |")
    ours, theirs = (seconds[name][1:] for name in ("dropout .1", "dropout .1, torch alone"))
    ratios = sorted(old / new for new, old in zip(ours, theirs, strict=True))
    print(f"\nspeed at dropout .1, ours / torch alone: median {statistics.median(ratios):.2f}")


def time_of_step(trainer: Any, batch: Any, side: Side) -> float:
    """The seconds of one training step, without the reading of its batch."""
    probability, give_kernels = side
    give_kernels(trainer.engine.model)
    for module in trainer.engine.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    trainer.state.step += 1
    started = now()
    trainer.train_step(batch)
    return now() - started


def print_profile(kind: str, trainer: Any, batch: Any, *, rounds: int) -> None:
    """Print how a step's time at dropout .1 divides into GROUPS, and the largest operations outside them."""
    name_random_words()
    side = sides()["dropout .1"]
    time_of_step(trainer, batch, side)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        seconds = sum(time_of_step(trainer, batch, side) for _ in range(rounds))
    times: dict[str, float] = defaultdict(float)
    others: dict[str, float] = {}
    for event in profiler.key_averages():
        group = group_of(event.key, GROUPS)
        times[group or "everything else"] += event.self_cpu_time_total / 1e6
        if group is None:
            others[event.key] = event.self_cpu_time_total / 1e6
    print(f"{kind}: {seconds / rounds:.2f} s a step\n\n| part of the step | share of its time |\n|---|---|")
    for group, each in sorted(times.items(), key=lambda item: -item[1]):
        print(f"| {group} | {each / seconds:.1%} |")
    print(f"| between operations (Python) | {1 - sum(times.values()) / seconds:.1%} |")
    largest = sorted(others.items(), key=lambda item: -item[1])[:8]
    print("\neverything else: " + ", ".join(f"{name} {each / seconds:.1%}" for name, each in largest))


def group_of(name: str, groups: dict[str, Iterable[str]] | Any) -> str | None:
    return next((group for group, words in groups.items() if any(word in name for word in words)), None)


def name_random_words() -> None:
    """Let the profiler see the making of random words, which numpy does."""
    from models.cpu import attention, word_dropout

    draw = attention.draw_words

    def named(*arguments: Any) -> Tensor:
        with torch.profiler.record_function("random words"):
            return draw(*arguments)

    attention.draw_words = word_dropout.draw_words = named


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
