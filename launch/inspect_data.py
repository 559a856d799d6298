"""What a data file holds and which losses fit it: `python launch/inspect_data.py FILE [key=value ...]`, see --help."""

from __future__ import annotations

try:
    import signal
    import sys
    from collections.abc import Sequence

    from launch.entry import prepare_process
    from launch.errors import USER_ERRORS, explain, reported
    from launch.inspecting import inspect_file
    from launch.rerank import Parser
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


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `inspect_data.py ... | head` ends quietly
    with reported():
        prepare_process(config_dir=None)
        main()
