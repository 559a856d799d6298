"""Compare contrastive training with sentence-transformers' SentenceTransformerTrainer (MultipleNegativesRankingLoss).

    python benchmarks/contrastive_throughput.py                                       # speed and memory
    python benchmarks/contrastive_throughput.py --quality --data FOLDER --steps 40    # test nDCG@10 after training

Both use one configuration (`+exp=embedder_infonce`: MiniLM with its dropout), and train on the same triples with one
hard negative each, in turns of `--steps` steps (benchmarks/speed/contrastive.py). `benchmarks/run.py` asks this and
more with fixed sizes; here they are options.

With --quality plackett's evaluator measures both models after the last step; no checkpoint is selected.
`model.dropout=0` gives equal losses up to rounding ("losses" in the file), which shows that the conditions are equal.
What is finished is kept in the output directory and not measured again. Overrides of data, trainer, model.dropout or
loss.temperature must come before --seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import at_least_one
from benchmarks.speed.scripts import compare_quality, compare_speed
from benchmarks.speed.setting import DOCSTRINGS, FOLDER, Setting


def main() -> None:
    arguments = parse()
    setting = Setting(
        "contrastive",
        data=FOLDER if arguments.data else DOCSTRINGS,
        path=str(Path(arguments.data).resolve()) if arguments.data else "",
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        steps=arguments.steps,
        overrides=tuple(arguments.overrides),
    )
    if arguments.quality:
        compare_quality(setting, arguments.seeds, arguments.output_dir)
    else:
        compare_speed(setting, arguments.runs, arguments.output_dir, rows="texts")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 5), ("steps", 20), ("batch-size", 16), ("max-length", 128)):
        parser.add_argument(f"--{name}", type=at_least_one, default=value)
    parser.add_argument("--quality", action="store_true", help="measure the trained models instead of the speed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="for --quality")
    parser.add_argument("--data", help="a folder in BEIR's format (default: the docstrings)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/contrastive_throughput"))
    parser.add_argument("overrides", nargs="*", help="further key=value for both")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # of the settings
        sys.exit(f"error: {error}")
