"""List and remove what the cache holds: collections in memory-mapped files, indexes and candidates of BM25.

python launch/cache.py list                           every entry with its size and date
python launch/cache.py size                           the sum by kind
python launch/cache.py remove NAME [NAME ...]         remove entries; what is needed again is made again
python launch/cache.py list data.cache_dir=FOLDER     of another cache than ~/.cache/plackett
"""

from __future__ import annotations

try:
    from collections import Counter
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from launch.cli.arguments import Parser, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

DEFAULT = "~/.cache/plackett"
OPTION = "data.cache_dir="


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__)
    parser.add_argument("what", choices=("list", "size", "remove"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to remove, or data.cache_dir=FOLDER")
    options = parser.parse_args(arguments)
    places = [name.removeprefix(OPTION) for name in options.names if name.startswith(OPTION)]
    names = [name for name in options.names if not name.startswith(OPTION)]
    if bool(names) != (options.what == "remove"):
        parser.error("remove takes the names of entries, list and size take none")
    folder = Path(places[-1] if places else DEFAULT).expanduser()
    print("\n".join({"list": listed, "size": sizes}[options.what](folder) if not names else removed(folder, names)))


def listed(folder: Path) -> Iterator[str]:
    """The lines of all entries, and of their sum."""
    from data.cache import entries

    found = entries(folder)
    for entry in found:
        date = datetime.fromtimestamp(entry.changed).strftime("%Y-%m-%d %H:%M")
        yield f"{mebibytes(entry.num_bytes)}  {date}  {entry.name}{'' if entry.is_finished else '  (not finished)'}"
    yield f"{mebibytes(sum(entry.num_bytes for entry in found))}  in {len(found)} entries of {folder}"


def sizes(folder: Path) -> Iterator[str]:
    """The lines of the kinds of entries."""
    from data.cache import entries

    kinds: Counter[str] = Counter()
    for entry in entries(folder):
        kinds[entry.name.split("/")[0] if "/" in entry.name else "other"] += entry.num_bytes
    for kind, num_bytes in sorted(kinds.items()):
        yield f"{mebibytes(num_bytes)}  {kind}"
    yield f"{mebibytes(kinds.total())}  in {folder}"


def removed(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Remove entries. The lines say what was removed."""
    from data.cache import remove

    for name in names:
        for entry in remove(folder, name):
            yield f"{mebibytes(entry.num_bytes)}  {entry.name} removed"


def mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:10,.1f} MiB"


if __name__ == "__main__":
    run_command(main)
