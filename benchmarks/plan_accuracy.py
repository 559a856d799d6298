"""Compare predicted with measured memory: python benchmarks/plan_accuracy.py

Each case is a real run of a few updates, once with the torch engine in one process and once with a ZeRO stage on two
ranks. Its peak resident memory (`peak_memory_bytes` of summary.json, the maximum over the ranks) is compared with the
prediction of launch/plan.py for the same settings. The models are MiniLM, the default model, and models with random
weights that are written for this. `--only unseen` selects the cases that the prediction was not fitted to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedModel

from models.loading.resolve import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parents[1]
COMMON = ["logger=none", "eval.max_queries=3", "eval.dev_max_queries=3", "trainer.workers=0"]


def cases(folder: Path) -> dict[str, list[str]]:
    """The settings of each case, by name."""
    large = write(folder / "bert_base", BertModel(BertConfig()))
    modern = ModernBertConfig(
        vocab_size=30_522, hidden_size=512, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
        pad_token_id=0, bos_token_id=101, eos_token_id=102, cls_token_id=101, sep_token_id=102,
    )  # fmt: skip
    modernbert = write(folder / "modernbert", ModernBertModel(modern))
    causal = write_causal(folder / "qwen3")
    smollm = ["+exp=llm_reranker_sft", "model.max_length=160"]
    retrieval = ["eval=reranking"]  # of few queries, so that the embeddings of a corpus are not measured
    return {
        "MiniLM cross-encoder": ["+exp=reranker_contrastive"],
        "MiniLM bi-encoder, LoRA": ["+exp=embedder_infonce_lora", "model.max_length=256", *retrieval],
        "BERT-base bi-encoder": [
            "+exp=embedder_infonce",
            f"model.name_or_path={large}",
            "model.max_length=128",
            "trainer.kept_chunks=2",
            *retrieval,
        ],
        "unseen: ModernBERT cross-encoder, LambdaRank": [
            "+exp=reranker_listwise",
            "loss=lambda_rank",
            f"model.name_or_path={modernbert}",
            "model.max_length=128",
            "trainer.batch_size=2",
            "trainer.list_size=32",
            "trainer.token_budget=4096",
        ],
        "unseen: Qwen3 LLM reranker, GRPO": [
            "+exp=llm_reranker_grpo",
            "loss=token_policy",
            "model=llm_reranker_qwen3",
            f"model.name_or_path={causal}",
            "model.max_length=384",
            "trainer.batch_size=2",
            "trainer.token_budget=2048",
        ],
        "unseen: SmolLM2 LLM reranker, LoRA": [*smollm, "model=llm_reranker_smollm2_lora"],
        "unseen: SmolLM2 LLM reranker": [*smollm, "model=llm_reranker_smollm2"],
        "unseen: MiniLM cross-encoder, GRPO": ["+exp=reranker_grpo", "trainer.token_budget=4096"],
    }


def write(folder: Path, model: PreTrainedModel) -> Path:
    """Write a model with random weights and MiniLM's tokenizer, which is that of BERT."""
    source = resolve(DEFAULT_MODEL)
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / file).is_file():
            shutil.copy(source / file, folder)
    model.save_pretrained(folder)
    return folder


def write_causal(folder: Path) -> Path:
    """Write the causal language model of the tests, in the size of a small encoder."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_models import write_tiny_causal

    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "head_dim": 64}
    return write_tiny_causal(folder, architecture="qwen3", vocab_size=30_000, max_position_embeddings=1024, **sizes)


def run(command: list[str], log: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with log.open("w") as errors:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    return done.stdout


def predicted(settings: list[str], log: Path) -> dict[tuple[str, int], dict[str, float]]:
    output = run([sys.executable, "launch/plan.py", "--device", "cpu", "--ranks", "1,2", "--json", *settings], log)
    [plan] = json.loads(output).values()
    return {(row["engine"], row["ranks"]): row for row in plan["estimates"]}


def measured(settings: list[str], engine: str, ranks: int, folder: Path) -> float:
    launcher = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run"]
    launcher += [] if ranks == 1 else ["--standalone", "--nproc_per_node", str(ranks)]
    settings = [*settings, f"engine={engine}", f"output_dir={folder}", "run_name=run", "resume=none"]
    run([*launcher, "launch/train.py", *settings], folder / "log")
    return json.loads((folder / "run" / "summary.json").read_text())["peak_memory_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1, help="runs per case, since the heap differs between runs")
    parser.add_argument("--only", default="", help="run only the cases whose names contain this")
    parser.add_argument("--engines", default="torch:1,zero2:2", metavar="NAME:RANKS,...")
    parser.add_argument("settings", nargs="*", help="further settings of all runs: data=beir data.path=...")
    options = parser.parse_args()
    engines = [(name, int(ranks)) for name, ranks in (choice.split(":") for choice in options.engines.split(","))]
    print(
        "| model | engine | ranks | predicted MiB | its range | measured MiB | difference | in the range |\n"
        "|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, own in cases(folder).items():
            if options.only not in case:
                continue
            settings = [*own, *COMMON, f"trainer.max_steps={options.steps}", *options.settings]
            plan = predicted(settings, folder / "log")
            for engine, ranks in engines:
                runs = sorted(measured(settings, engine, ranks, folder) for _ in range(options.repeats))
                print(f"| {case} | {engine} | {ranks} | {table_cells(plan[engine, ranks], runs)} |", flush=True)


def table_cells(plan: dict[str, float], runs: list[float]) -> str:
    """The table cells: the prediction and its range, the median and range of the sorted measurements, the difference,
    and whether all measurements are in the range of the prediction."""
    middle = statistics.median(runs)
    width = f" ({runs[0] / 2**20:,.0f} to {runs[-1] / 2**20:,.0f})" if len(runs) > 1 else ""
    expected = f"{plan['peak'] / 2**20:,.0f} | {plan['lowest'] / 2**20:,.0f} to {plan['highest'] / 2**20:,.0f}"
    holds = "yes" if plan["lowest"] <= runs[0] and runs[-1] <= plan["highest"] else "**no**"
    return f"{expected} | {middle / 2**20:,.0f}{width} | {plan['peak'] / middle - 1:+.1%} | {holds}"


if __name__ == "__main__":
    main()
