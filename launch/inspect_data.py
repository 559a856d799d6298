"""What a data file holds and which losses fit it: `python launch/inspect_data.py FILE [key=value ...]`, see --help."""

from __future__ import annotations

try:
    import sys
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data.formats.file import FileConfig
    from data.inspection import describe_file, examples
    from launch.cli.arguments import Parser, run_command
    from launch.cli.catalog import configured_losses
    from launch.cli.compose import compose, instantiate
    from launch.cli.errors import USER_ERRORS, explain
    from losses.contracts import REQUIREMENTS, missing_requirements
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report; a user's mistake is one line and exit status 2."""
    try:
        parser = Parser(prog="inspect_data.py", description="What a data file holds and which losses fit it.")
        parser.add_argument("file", metavar="FILE", help="a file (.jsonl, .csv, .tsv, .parquet), a folder or a glob")
        parser.add_argument(
            "settings", nargs="*", metavar="key=value", help="as for training: data.columns.query=title, ..."
        )
        options = parser.parse_args(arguments)
        print("\n".join(inspect_file(options.file, options.settings)))
    except USER_ERRORS as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def inspect_file(file: str, settings: Sequence[str]) -> list[str]:
    """The lines of the report on `file`, read with `settings` of a training configuration."""
    if (Path(file).expanduser() / "corpus.jsonl").is_file():
        raise ValueError(f"{file} is a collection in BEIR's layout (it has a corpus.jsonl): data=beir data.path={file}")
    escaped = file.replace("\\", "\\\\").replace("'", "\\'")
    tree = compose(["data=file", f"data.path='{escaped}'", *settings])
    if tree["stages"]:
        raise ValueError("+exp: the stages of an experiment have training lists of their own: give trainer.list_size")
    options: FileConfig = instantiate(tree["data"])
    records, collection = list(options.records()), options.build()
    provided = collection.available_with(tree["trainer"]["list_size"])
    return [*describe_file(file, records, collection), *fit_lines(provided), *examples(records)]


def fit_lines(provided: frozenset[str]) -> Iterator[str]:
    """What the lists give, the losses that fit, and the others by what they lack."""
    yield "training lists give: " + ("; ".join(f"{n} ({REQUIREMENTS[n]})" for n in sorted(provided)) or "nothing")
    by_lack: dict[tuple[str, ...], list[str]] = {}
    for name, loss in configured_losses().items():
        by_lack.setdefault(tuple(missing_requirements(loss, provided)), []).append(name)
    yield f"losses that fit: {', '.join(by_lack.pop((), [])) or 'none'}"
    for lack, names in sorted(by_lack.items()):
        yield f"losses that do not fit, for want of {' and '.join(lack)}: {', '.join(names)}"


if __name__ == "__main__":
    run_command(main)
