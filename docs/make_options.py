"""Writes docs/options.md, all options of all commands and groups, from the files of conf/: python docs/make_options.py

A row is a key of a YAML file, with its default and its comment. A file that builds on another (its defaults list)
states only its differences; a key without a comment has that of the file below it, or of the same class elsewhere in
the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from runs.source_tree import CONF

PAGE = Path(__file__).parent / "options.md"
COMMANDS = {  # file of conf/ -> the command whose settings it holds
    "train": "launch/train.py",
    "evaluate": "launch/evaluate.py",
    "choose": "launch/choose.py",
    "mine": "launch/mine.py",
    "make_queries": "launch/make_queries.py",
    "score": "launch/score.py",
    "relabel": "launch/relabel.py",
    "encode": "launch/encode.py",
    "ablate": "launch/ablate.py",
    "reason": "launch/reason.py",
}
HIDDEN = ("_target_", "defaults", "hydra")
HEAD = """\
# All options

Written by `python docs/make_options.py` from the files of `conf/`; a test compares them. The search finds an option by
its name. On the command line an option is `KEY=VALUE`: those of a group stand below the name of the group
(`trainer.max_steps=500`, `loss.temperature=0.02`, `data.path=FOLDER`), and `GROUP=FILE` chooses a file
(`loss=info_nce`). `???` must be given. `--cfg job` after any command prints every setting with its value. How options
work together is in docs/reference.md, what the losses compute in docs/losses.md.
"""


@dataclass(frozen=True)
class Option:
    """One key of a YAML file."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class ConfFile:
    """One file of conf/: its name below the group, its first comment, what it builds on and its own options."""

    name: str
    comment: str
    target: str
    builds_on: tuple[str, ...]
    options: tuple[Option, ...]

    @classmethod
    def read(cls, path: Path, name: str) -> ConfFile:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text)
        tree = yaml.safe_load(text) or {}
        first = re.match(r"(?:#.*\n)*", text)
        lines = [line.lstrip("#").strip() for line in first.group().splitlines()] if first else []
        comment = " ".join(line for line in lines if not line.startswith("@package"))
        own = [each for each in tree.get("defaults", []) if isinstance(each, str) and each != "_self_"]
        builds_on = tuple(each.partition("@")[0] for each in own)
        folder = "" if path.parent == CONF else str(path.parent.relative_to(CONF))
        options = (*choices(root, text, folder), *walk(root, "", text)) if root else ()
        return cls(name, comment, str(tree.get("_target_", "")), builds_on, options)


def comment_after(text: str, line: int, column: int) -> str:
    """The comment behind a place, with the lines of nothing but a comment that continue it."""
    lines = text.splitlines()
    rest = lines[line][column:] if line < len(lines) else ""
    if "#" not in rest:
        return ""
    found = [rest.partition("#")[2].strip()]
    for following in lines[line + 1 :]:
        if not (continued := re.match(r"\s+#\s*(.*)", following)):
            break
        found.append(continued[1].strip())
    return " ".join(found)


def walk(node: yaml.Node, prefix: str, text: str) -> Iterator[Option]:
    """Yield the options of a mapping, those of mappings inside it by their dotted names."""
    for key, value in node.value:
        if key.value in HIDDEN:
            continue
        name = f"{prefix}{key.value}"
        block = isinstance(value, yaml.MappingNode | yaml.SequenceNode) and not value.flow_style
        end = key.end_mark if block else value.end_mark
        meaning = comment_after(text, end.line, end.column)
        if block and isinstance(value, yaml.MappingNode):
            targets = [inner.value for each, inner in value.value if each.value == "_target_"]
            yield Option(name, f"`{targets[0]}`" if targets else "", meaning)
            yield from walk(value, f"{name}.", text)
        else:
            source = text[value.start_mark.index : value.end_mark.index]
            if block:
                source = f"[{', '.join(each.value for each in value.value)}]"
            yield Option(name, f"`{' '.join(source.split())}`", meaning)


def choice_of(name: str, folder: str) -> str:
    """What may be chosen for an entry of a defaults list: a file of its group, `candidates` in conf/data for one."""
    group = name.partition("@")[0]
    group = f"{folder}/{group}" if (CONF / folder / group).is_dir() and folder else group
    return f"a file of the group [{group}](#group-{group.replace('/', '')})"


def choices(root: yaml.Node, text: str, folder: str) -> Iterator[Option]:
    """Yield the groups of a file's defaults list, with the files that it chooses."""
    for key, value in root.value:
        if key.value != "defaults":
            continue
        for entry in value.value:
            if isinstance(entry, yaml.MappingNode) and "hydra/" not in entry.value[0][0].value:
                group, choice = entry.value[0]
                end = choice.end_mark
                meaning = comment_after(text, end.line, end.column)
                yield Option(group.value, f"`{choice.value}`", meaning or choice_of(group.value, folder))


def group_files(group: str) -> list[ConfFile]:
    """The files of a group, those of its folders too (`shared/options`), but not those of groups inside it."""
    folder = CONF / group
    inner = {path.parent for path in folder.rglob("*.yaml")} & {CONF / each for each in GROUPS if each != group}
    paths = sorted(path for path in folder.rglob("*.yaml") if path.parent not in inner)
    return [ConfFile.read(path, str(path.relative_to(folder).with_suffix(""))) for path in paths]


GROUPS = sorted(
    str(folder.relative_to(CONF))
    for folder in CONF.rglob("*")
    if folder.is_dir() and folder.name not in ("exp", "shared")
)


def meanings(files: list[ConfFile]) -> dict[tuple[str, str], str]:
    """The comment of each (file, option) of a group: its own, else that of the file that it builds on, else that of
    another file of the same class."""
    of_class: dict[tuple[str, str], str] = {}
    own = {(file.name, option.name): option.meaning for file in files for option in file.options if option.meaning}
    for file in files:
        for option in file.options:
            if option.meaning and file.target:
                of_class.setdefault((file.target, option.name), option.meaning)
    found = {}
    for file in files:
        for option in file.options:
            below = [own[each, option.name] for each in file.builds_on if (each, option.name) in own]
            others = [of_class.get((file.target, option.name), "")]
            found[file.name, option.name] = next((each for each in (option.meaning, *below, *others) if each), "")
    return found


def table(file: ConfFile, known: dict[tuple[str, str], str]) -> str:
    """The Markdown table of a file's options."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in file.options:
        cells = [f"`{option.name}`", option.default, known[file.name, option.name].replace("<", "&lt;")]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def section(file: ConfFile, title: str, known: dict[tuple[str, str], str], level: str) -> str:
    """A file of conf/ with its comment, what it builds on and its options."""
    parts = [f"{level} {title}\n", f"{file.comment.replace('<', '&lt;')}\n"]
    if file.builds_on:
        parts.append(f"Builds on {', '.join(f'`{each}`' for each in file.builds_on)}; other values than there:\n")
    if file.options:
        parts.append(table(file, known))
    return "\n".join(parts)


def experiments() -> str:
    """The table of experiments with their commands."""
    lines = ["## Experiments: `+exp=NAME`\n", "| experiment | command, and what it trains |", "|---|---|"]
    for path in sorted((CONF / "exp").glob("*.yaml")):
        comment = ConfFile.read(path, path.stem).comment
        lines.append(f"| `{path.stem}` | {comment.replace('|', '&#124;').replace('<', '&lt;')} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the text of docs/options.md."""
    commands = [ConfFile.read(CONF / f"{name}.yaml", name) for name in COMMANDS]
    known = meanings(commands)
    parts = [HEAD, *(section(file, f"`{COMMANDS[file.name]}`", known, "##") for file in commands), experiments()]
    for group in GROUPS:
        files = group_files(group)
        known = meanings(files)
        parts.append(f"## Group `{group}`\n")
        parts += [section(file, f"`{group}={file.name}`", known, "###") for file in files]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
