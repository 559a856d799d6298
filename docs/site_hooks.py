"""What the site changes in the pages, which are written to be read in the repository: called by mkdocs (mkdocs.yml).

Files of the repository's root become pages, paths of pages in the text become links, and links to source files, which
are not part of the site, become the name of the file.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = "commands.md"
OPTIONS = "options.md"
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]+\)")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
MENTION = re.compile(
    r"(?<!\]\()(?<![\w/\[.`-])(`?)(?:docs/((?:[\w-]+/)*[\w-]+\.md)|(CONTRIBUTING\.md|CHANGELOG\.md))\1(?![\w/`\]])"
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files below docs/."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMANDS, content=commands()))
    return files


def commands() -> str:
    """The page of the commands: the docstring of every file of launch/, which is what its --help shows."""
    parts = ["# Commands\n", "Each is a file of `launch/`; `--help` shows this text, the experiments and the groups.\n"]
    for file in sorted((ROOT / "launch").glob("*.py")):
        if file.name != "__init__.py":
            source = file.read_text(encoding="utf-8")
            docstring = inspect.cleandoc(source.split('"""')[1])
            first, _, rest = docstring.partition("\n\n")
            parts += [f"## launch/{file.name}\n", f"{first}\n", f"```text\n{rest}\n```\n" if rest else ""]
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page, outside its code."""
    if page.file.src_uri == OPTIONS:
        page.meta["search"] = {"boost": 4}  # who types the name of an option looks for its row first
    here = posixpath.dirname(page.file.src_uri)
    known = {file.src_uri for file in files}

    def link(match: re.Match[str]) -> str:
        target = match[2] or ROOT_PAGES[match[3]]
        text = match.group().strip("`")
        return f"[`{text}`]({posixpath.relpath(target, here or '.')})" if target in known else match.group()

    lines, fence = [], ""
    for line in markdown.split("\n"):
        if opened := FENCE.match(line):
            fence = "" if fence and opened[1].startswith(fence) else fence or opened[1]
        elif not fence and not line.startswith(("    ", "#")):
            line = OUTSIDE.sub(lambda match: f"`{match[1].strip('`')}`", line)
            line = MENTION.sub(link, line)
        lines.append(line)
    return "\n".join(lines)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from a network. Raises PluginError, which ends the build."""
    if loaded := sorted(set(LOADED.findall(output))):
        raise PluginError(f"{page.file.src_uri} loads {', '.join(loaded)}: the site works without a network")
    return output
