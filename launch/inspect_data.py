"""Describe a data file and the losses that fit it, before anything is trained.

  python launch/inspect_data.py FILE.jsonl                                  also .csv, .tsv, .parquet, a folder, a glob
  python launch/inspect_data.py FILE.csv data.columns.query=title           name the columns that are not recognised
  python launch/inspect_data.py FILE.jsonl "data.ignore=[language]"         leave columns out
  python launch/inspect_data.py FILE.jsonl trainer.list_size=2              with training lists of another length
  python launch/inspect_data.py FILE.jsonl model=bi_encoder model.name_or_path=PATH    how many texts that model cuts

The report ends with the training lists that the file gives, the losses that fit them, and examples.
"""

from __future__ import annotations

try:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING, Any

    from launch.cli.arguments import Parser, run_command
    from launch.cli.compose import compose, instantiate
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from data.formats.columns import ListRecord
    from data.formats.file import FileConfig


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__)
    parser.add_argument("file", metavar="FILE", help="a file that data/formats/ reads, a folder or a glob")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for launch/train.py with data=file")
    options = parser.parse_args(arguments)
    print("\n".join(inspect_file(options.file, options.settings)))


def inspect_file(file: str, settings: Sequence[str]) -> list[str]:
    """The lines of the report on `file`, read with `settings` of a training configuration."""
    from data.formats.file_format import check_is_no_collection
    from data.inspection import describe_file, examples  # only once the arguments are known to be right
    from recipes.compatibility import ADD_NEGATIVES, has_only_positives

    check_is_no_collection(file, Path(file).expanduser())
    escaped = file.replace("\\", "\\\\").replace("'", "\\'")
    tree = compose(["data=file", f"data.path='{escaped}'", *settings])
    if tree["stages"]:
        raise ValueError("+exp: each stage of an experiment has its own training lists: give trainer.list_size instead")
    options: FileConfig = instantiate(tree["data"], "data")
    records, collection = list(options.records()), options.build()
    available = collection.available_with(tree["trainer"]["list_size"])
    lines = [*describe_file(file, records, collection), *cut_lines(records, tree, options, settings)]
    lines += fit_lines(available)
    if has_only_positives(collection.available):
        lines.append(f"for more losses: {ADD_NEGATIVES}")
    return [*lines, *examples(records)]


def cut_lines(
    records: Sequence[ListRecord], tree: Mapping[str, Any], options: FileConfig, settings: Sequence[str]
) -> Iterator[str]:
    """The line on texts that are longer than the model reads. Without a model in `settings` it is the default one, if
    that is found."""
    from data.inspection import longest_row, sample_truncation
    from data.truncation import cut_line

    most = tree["model"].get("max_length")
    if most is not None and longest_row(records) < most // 2:  # no more tokens than bytes: none is cut
        return
    try:
        model = instantiate(tree["model"], "model").build(0)
    except (ValueError, OSError):
        if any(setting.startswith(("model", "+exp")) for setting in settings):
            raise
        yield "tokens: not counted; model=NAME model.name_or_path=PATH says how many texts that model cuts"
        return
    model.expect_prompts({options.query_prompt, options.document_prompt, *(record.prompt for record in records)})
    count, rows = sample_truncation(records, model.tokenizer, options.query_prompt, options.document_prompt)
    length = model.tokenizer.max_length
    none = f"tokens: no text is longer than model.max_length={length}" if count else "tokens: not counted by this model"
    sampled = f", in a sample of {rows} rows" * (rows < len(records))
    yield f"{cut_line({'': count}, length) or none}{sampled} ({tree['model'].get('name_or_path')})"


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
