"""Compare the speed of listwise training with sentence-transformers' CrossEncoderTrainer, both with ListNet.

    python benchmarks/listwise_throughput.py [--runs 5] [--steps 20] [--batch-size 4] [--list-size 8] [--max-length 128]

Both train the same model, with its dropout, on the same lists of the docstring collection, in turns of `--steps` steps,
as benchmarks/speed/listwise.py says. `benchmarks/run.py` asks this and more with fixed sizes; here they are options.

Rows are (query, document) pairs; the first steps are not counted. The share of peak is the floating-point operations
per second of the model, counted on unpadded rows, divided by those of a large fp32 matmul in the same process.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import at_least_one
from benchmarks.speed.scripts import compare_speed
from benchmarks.speed.setting import DOCSTRINGS, FOLDER, Setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 5), ("steps", 20), ("batch-size", 4), ("list-size", 8), ("max-length", 128)):
        parser.add_argument(f"--{name}", type=at_least_one, default=value)
    parser.add_argument("--data", help="a folder in BEIR's format (default: the docstrings)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/listwise_throughput"))
    parser.add_argument("overrides", nargs="*", help="further key=value for both")
    arguments = parser.parse_intermixed_args()
    setting = Setting(
        "listwise",
        data=FOLDER if arguments.data else DOCSTRINGS,
        path=str(Path(arguments.data).resolve()) if arguments.data else "",
        batch_size=arguments.batch_size,
        list_size=arguments.list_size,
        max_length=arguments.max_length,
        steps=arguments.steps,
        overrides=tuple(arguments.overrides),
    )
    compare_speed(setting, arguments.runs, arguments.output_dir)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # of the settings
        sys.exit(f"error: {error}")
