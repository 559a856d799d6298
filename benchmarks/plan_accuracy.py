"""Predicted memory beside measured: python benchmarks/plan_accuracy.py

Each case is a real run of a few updates, alone on the torch engine and on two ranks of a ZeRO stage, whose peak
resident memory (`peak_memory_bytes` of summary.json, the larger of the ranks') is compared with what launch/plan.py
says of the same settings. A model of 110 million random weights is written for it; MiniLM is the default model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import BertConfig, BertModel

from models.resolve import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parents[1]
COMMON = ["logger=none", "eval.max_queries=3", "eval.dev_max_queries=3", "trainer.workers=0"]
ENGINES = (("torch", 1), ("zero2", 2))


def cases(folder: Path) -> dict[str, list[str]]:
    """Settings by name."""
    large = write_large(folder / "bert_base")
    retrieval = ["eval=reranking"]  # of few queries: a corpus is not what is measured
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
    }


def write_large(folder: Path) -> Path:
    """BERT-base's shape with random weights and MiniLM's tokenizer, which is BERT's own."""
    source = resolve(DEFAULT_MODEL)
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / file).is_file():
            shutil.copy(source / file, folder)
    BertModel(BertConfig()).save_pretrained(folder)
    return folder


def run(command: list[str], log: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with log.open("w") as errors:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    return done.stdout


def predicted(settings: list[str], log: Path) -> dict[tuple[str, int], float]:
    output = run([sys.executable, "launch/plan.py", "--device", "cpu", "--ranks", "1,2", "--json", *settings], log)
    [plan] = json.loads(output).values()
    return {(row["engine"], row["ranks"]): row["peak"] for row in plan["estimates"]}


def measured(settings: list[str], engine: str, ranks: int, folder: Path) -> float:
    launcher = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run"]
    launcher += [] if ranks == 1 else ["--standalone", "--nproc_per_node", str(ranks)]
    where = [f"engine={engine}", f"output_dir={folder}", "run_name=run", "resume=none"]
    run([*launcher, "launch/train.py", *settings, *where], folder / "log")
    return json.loads((folder / "run" / "summary.json").read_text())["peak_memory_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("settings", nargs="*", help="further settings of all runs: data=beir data.path=...")
    options = parser.parse_args()
    print(
        "| model | engine | ranks | predicted MiB | measured MiB | difference |\n|---|---|---|---|---|---|", flush=True
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, own in cases(folder).items():
            if options.only not in case:
                continue
            settings = [*own, *COMMON, f"trainer.max_steps={options.steps}", *options.settings]
            plan = predicted(settings, folder / "log")
            for engine, ranks in ENGINES:
                found, expected = measured(settings, engine, ranks, folder), plan[engine, ranks]
                print(
                    f"| {case} | {engine} | {ranks} | {expected / 2**20:,.0f} | {found / 2**20:,.0f} "
                    f"| {expected / found - 1:+.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
