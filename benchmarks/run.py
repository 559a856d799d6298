"""Measure plackett beside sentence-transformers, and options beside each other: all questions in one command.

    python benchmarks/run.py --data SCIFACT                     # all, about 70 minutes on two idle cores
    python benchmarks/run.py encode_docstrings grpo             # some; --list names them, with an estimate of the time
    python benchmarks/run.py --quick                            # all at toy size, to see that they run; no figures

Each side has a process of its own, and both work in turn, so that a pair of turns lies within seconds. They get the
same texts, model and precision (fp32). Values are medians over the pairs; a ratio is that within a pair. Operations are
counted on texts without padding, and divided by what a large fp32 matrix product reaches in the same process.

`--output` is a JSON file with the machine, the versions, the commit, the command and every pair. A pair that is there
is not measured again: after a kill the same command goes on. `python docs/make_speed.py` makes the page of it.

Nothing else should run on the machine. `load` in the file tells, for each pair, how busy it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed.measure import NoEffect, measure
from benchmarks.speed.questions import Question, all_questions, small
from benchmarks.speed.record import OtherConditions, Record, environment
from benchmarks.speed.turns import WorkerFailed


def main() -> int:
    arguments = parse()
    questions = chosen(arguments)
    if arguments.list:
        for question in questions:
            print(f"{question.name:<20} {question.minutes:>3g} min  {question.title}")
        print(f"{'all of them':<20} {sum(question.minutes for question in questions):>3g} min")
        return 0
    now = environment()
    try:
        record = Record(arguments.output)
        entries = {each.name: record.open(each, now, again=arguments.again) for each in questions}
    except (OtherConditions, ValueError) as error:
        sys.exit(f"error: {error}")
    failed = [each.name for each in questions if not answered(each, entries[each.name], record, arguments)]
    print_table(record, [each.name for each in questions])
    if arguments.quick:
        print("toy size: these figures mean nothing")
    print(f"written to {arguments.output}", flush=True)
    if failed:
        print(f"error: not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="default: all")
    parser.add_argument("--pairs", type=int, default=5, help="of turns, for each question (default: 5)")
    parser.add_argument("--data", default="", help="a folder in BEIR's layout, for long natural texts (SciFact)")
    parser.add_argument("--output", type=Path, help="JSON file (default: outputs/benchmarks/figures.json)")
    parser.add_argument("--again", action="store_true", help="measure what the file has already anew")
    parser.add_argument("--quick", action="store_true", help="two pairs at toy size")
    parser.add_argument("--list", action="store_true", help="only name the questions")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error(f"--pairs {arguments.pairs} must be at least 1")
    if arguments.data and not (Path(arguments.data) / "corpus.jsonl").is_file():
        parser.error(f"--data {arguments.data} has no corpus.jsonl: give a folder in BEIR's layout")
    if arguments.output is None:
        arguments.output = Path("outputs/benchmarks") / ("quick.json" if arguments.quick else "figures.json")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[Question]:
    """The questions of the command line, at toy size with --quick."""
    known = all_questions(str(Path(arguments.data).resolve()) if arguments.data else "")
    if unknown := [name for name in arguments.questions if name not in known]:
        sys.exit(f"error: no question {', '.join(unknown)}: choose from {', '.join(known)}")
    questions = [known[name] for name in dict.fromkeys(arguments.questions or known)]
    return [small(each) for each in questions] if arguments.quick else questions


def answered(question: Question, entry: dict[str, Any], record: Record, arguments: argparse.Namespace) -> bool:
    """Measure a question, and say how far it is. Returns whether it did not fail; one that is skipped has not."""

    def say(line: str) -> None:
        print(f"{question.name}: {line}", flush=True)

    started = time.perf_counter()
    wanted = min(question.pairs or arguments.pairs, 2 if arguments.quick else arguments.pairs)
    folder = (Path("outputs/benchmarks") / question.name).resolve()
    try:
        if reason := "" if arguments.quick else question.needs():
            raise NoEffect(reason)
        measure(question, entry, wanted, folder, record.save, say)
        say(f"{time.perf_counter() - started:.0f} s")
    except NoEffect as error:
        entry["skipped"] = str(error)
        record.save()
        say(f"skipped: {error}")
    except WorkerFailed as error:
        say(f"failed: {error}")
        return False
    return True


def print_table(record: Record, names: list[str]) -> None:
    print("\n| question | measured | value | holds when | holds |\n|---|---|---|---|---|")
    for name in names:
        entry = record.questions[name]
        if "skipped" in entry:
            print(f"| {entry['title']} | skipped: {entry['skipped']} | | | |")
        for check in entry.get("checks", ()):
            holds = "yes" if check["holds"] else "**no**"
            print(f"| {entry['title']} | {check['what']} | {check['shown']} | {check['holds_when']} | {holds} |")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last pair")
