"""Describe a data file and the losses that fit it, before anything is trained.

  python launch/inspect_data.py FILE.jsonl                                  also .csv, .tsv, .parquet, a folder, a glob
  python launch/inspect_data.py FILE.csv data.columns.query=title           name the columns that are not recognised
  python launch/inspect_data.py FILE.jsonl "data.ignore=[language]"         leave columns out
  python launch/inspect_data.py FILE.jsonl trainer.list_size=2              with training lists of another length

The report ends with the training lists that the file gives, the losses that fit them, and examples.
"""

from __future__ import annotations

try:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING

    from launch.cli.arguments import Parser, run_command
    from launch.cli.compose import compose, instantiate
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from data.formats.file import FileConfig


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__)
    parser.add_argument("file", metavar="FILE", help="a file that data/formats/ reads, a folder or a glob")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for launch/train.py with data=file")
    options = parser.parse_args(arguments)
    print("\n".join(inspect_file(options.file, options.settings)))


def inspect_file(file: str, settings: Sequence[str]) -> list[str]:
    """The lines of the report on `file`, read with `settings` of a training configuration."""
    from data.inspection import describe_file, examples  # only once the arguments are known to be right

    if (Path(file).expanduser() / "corpus.jsonl").is_file():
        raise ValueError(f"{file} is a collection in BEIR's layout (it has a corpus.jsonl): data=beir data.path={file}")
    escaped = file.replace("\\", "\\\\").replace("'", "\\'")
    tree = compose(["data=file", f"data.path='{escaped}'", *settings])
    if tree["stages"]:
        raise ValueError("+exp: each stage of an experiment has its own training lists: give trainer.list_size instead")
    options: FileConfig = instantiate(tree["data"])
    records, collection = list(options.records()), options.build()
    available = collection.available_with(tree["trainer"]["list_size"])
    return [*describe_file(file, records, collection), *fit_lines(available), *examples(records)]


def fit_lines(available: frozenset[str]) -> Iterator[str]:
    """The lines on what the training lists give, the losses that fit, and what the other losses need."""
    from launch.cli.catalog import configured_losses
    from losses.contracts import REQUIREMENTS, missing_requirements

    yield "training lists give: " + ("; ".join(f"{n} ({REQUIREMENTS[n]})" for n in sorted(available)) or "nothing")
    by_missing: dict[tuple[str, ...], list[str]] = {}
    for name, loss in configured_losses().items():
        by_missing.setdefault(tuple(missing_requirements(loss, available)), []).append(name)
    yield f"losses that fit: {', '.join(by_missing.pop((), [])) or 'none'}"
    for missing, names in sorted(by_missing.items()):
        yield f"losses that do not fit, they need {' and '.join(missing)}: {', '.join(names)}"


if __name__ == "__main__":
    run_command(main)
