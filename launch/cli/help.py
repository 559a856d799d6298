"""The page of --help: what a command does, examples, experiments, groups and settings.

It is made from the files of conf/ and their comments, without Hydra and without slow imports.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.cli.overrides import EXPERIMENTS, choices

FLAGS = """\
flags:
  --config-dir DIR  also search DIR for configuration files, such as DIR/exp/NAME.yaml of your own
  --cfg job         print all settings with their values and stop
  -m, --multirun    one run for each of several values: KEY=A,B
  -h, --help        print this page
docs/reference.md explains the options; each also has a comment in its file below conf/."""


def help_page(about: str, config_name: str, folders: Sequence[Path], *, flags: str = FLAGS) -> str:
    """The page of a command whose settings are KEY=VALUE. `about`: what the command does, and examples."""
    root = _root(config_name, folders)
    text, node = (root.read_text(encoding="utf-8"), _load(root)) if root else ("", {})
    defaults = _defaults(node)
    parts = [
        about.strip(),
        experiments_part(folders, defaults),
        _part("groups (GROUP=CHOICE, * by default):", _group_rows(node, defaults, folders)),
        _part("settings (KEY=VALUE), beside those of the groups:", _setting_rows(text)),
        flags,
    ]
    return "\n\n".join(part for part in parts if part)


def experiments_part(folders: Sequence[Path], defaults: Mapping[str, Any] | None = None) -> str:
    """All experiments that the command can run, one line each. `defaults`: the default choices of the command's groups;
    None: those of launch/train.py."""
    if defaults is None:
        root = _root("train", folders)
        defaults = _defaults(_load(root)) if root else {}
    files = _files(EXPERIMENTS, folders)
    rows = {name: _first_sentence(file) for name, file in files.items() if _fits_command(file, defaults)}
    return _part("experiments (+exp=NAME):", rows, one_line=True)


def ablation_page(about: str, folders: Sequence[Path]) -> str:
    """The page of launch/ablate.py, with the files of whole ablations, and the experiments that its runs may be."""
    rows = {name: _first_sentence(file) for name, file in _files("ablation", folders).items()}
    files = _part("ablations (+ablation=NAME):", rows, one_line=True)
    flags = [line for line in FLAGS.splitlines() if "--cfg" not in line and "--multirun" not in line]
    about = "\n\n".join([about.strip(), files, experiments_part(folders)])
    return help_page(about, "ablate", folders, flags="\n".join(flags))


def _files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The files of a group by name, those in folders inside it too, in the order of their names."""
    files = {
        str(file.relative_to(folder / group).with_suffix("")): file
        for folder in folders
        for file in sorted((folder / group).rglob("*.yaml"))
    }
    return dict(sorted(files.items()))


def _root(config_name: str, folders: Sequence[Path]) -> Path | None:
    return next((file for folder in reversed(folders) if (file := folder / f"{config_name}.yaml").is_file()), None)


def _load(file: Path) -> dict[str, Any]:
    """The content of a configuration file; empty if it is broken, which only a run reports."""
    try:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}
    return node if isinstance(node, dict) else {}


def _defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """The default choice of each group in a defaults list, without Hydra's own groups."""
    entries = [entry for entry in node.get("defaults", []) if isinstance(entry, dict)]
    pairs = {str(key).removeprefix("override ").lstrip("/"): value for entry in entries for key, value in entry.items()}
    return {group: value for group, value in pairs.items() if not group.startswith("hydra/")}


def _fits_command(experiment: Path, defaults: Mapping[str, Any]) -> bool:
    """Whether the command has all groups whose defaults the experiment replaces. `data/lists` is one inside `data`, and
    `loss@loss.terms.main.loss` one inside `loss`."""
    entries = [entry for entry in _load(experiment).get("defaults", []) if isinstance(entry, dict)]
    replaced = [key for entry in entries for key in map(str, entry) if key.startswith("override ")]
    groups = (key.removeprefix("override ").lstrip("/") for key in replaced)
    return all(group in defaults or re.split(r"/|@loss\.", group)[0] in defaults for group in groups)


def _first_sentence(file: Path) -> str:
    """The first sentence of the comment at the top of an experiment, after its package and its command."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment = line.lstrip("# ")
        if not comment.startswith(("@package", "torchrun ", "python ")):
            words.append(comment)
    return re.split(r"\.(?:\s|$)", " ".join(words), maxsplit=1)[0]


def _group_rows(
    node: Mapping[str, Any], defaults: Mapping[str, Any], folders: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    """The command's groups with their choices; groups inside groups are included."""
    names = [*defaults, *(key for key in node if key not in defaults and any((f / str(key)).is_dir() for f in folders))]
    for name in names:
        group, _, role = name.partition("@")
        default = defaults.get(name)
        if role:
            yield name, f"another {group}, as the {role}"
            continue
        marked = [f"{choice}*" if choice == default else choice for choice in choices(group, folders)]
        yield name, ", ".join(marked) + " (default: what fits the other choices)" * ("$" in str(default))
        files = [_load(file) for folder in folders for file in (folder / group).glob("*.yaml")]
        chosen = {
            child for file in files for child in _defaults(file)
        }  # other subfolders hold files that several choices share
        subfolders = {child.name for folder in folders for child in (folder / group).glob("*/")}
        for child in sorted(subfolders & chosen):
            yield f"{group}/{child}", ", ".join(choices(f"{group}/{child}", folders))


def _setting_rows(text: str) -> Iterator[tuple[str, str]]:
    """The settings at the top level of a configuration file, with their comments."""
    row = r"^(\w+):[ ]*([^#\n]*?)[ ]*(?:#[ ]*(.+(?:\n[ ]+#.*)*))?$"  # a comment may go on in the next lines
    for key, value, comment in re.findall(row, text, re.MULTILINE):
        if key not in ("_target_", "defaults", "hydra"):
            yield f"{key}={value}" if value else key, re.sub(r"\s*\n[ ]+#[ ]*", " ", comment)


def _part(title: str, rows: Mapping[str, str] | Iterable[tuple[str, str]], *, one_line: bool = False) -> str:
    """A title and an aligned table of two columns; empty if there are no rows."""
    table = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    if not table:
        return ""
    width = min(max(shutil.get_terminal_size((120, 24)).columns, 80), 120)
    first = max(len(name) for name, _ in table) + 4
    lines = [title]
    for name, text in table:
        room = width - first
        cells = [textwrap.shorten(text, room, placeholder=" ...")] if one_line else textwrap.wrap(text, room)
        lines += [f"  {name if number == 0 else '':<{first - 2}}{cell}" for number, cell in enumerate(cells or [""])]
    return "\n".join(line.rstrip() for line in lines)
