"""Writes the table of docs/coming_from.md of names that several trainers share: python docs/make_coming_from.py

The names are those of launch/cli/foreign_names.py, which error messages use. The rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from launch.cli.foreign_names import OPTIONS

PAGE = Path(__file__).parent / "coming_from.md"
BEGIN = "<!-- Written by `python docs/make_coming_from.py` from launch/cli/foreign_names.py; a test compares it. -->\n"
END = "<!-- The end of what docs/make_coming_from.py writes. -->\n"


def generated() -> str:
    """The table of our options with the names that they have elsewhere; a name that is the same is not listed."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, target in OPTIONS.items():
        if name != target[0].rpartition(".")[2]:
            names.setdefault(target, []).append(f"`{name}`")
    lines = ["| elsewhere | here | meaning |", "|---|---|---|"]
    lines += [f"| {', '.join(theirs)} | `{option}` | {remark} |" for (option, remark), theirs in names.items()]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the text of docs/coming_from.md with the generated part as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{generated()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
