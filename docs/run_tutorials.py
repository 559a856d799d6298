"""Runs the code of a page from top to bottom, as a reader would, and compares what it prints with what the page shows:

  python docs/run_tutorials.py docs/tutorials/embedder.md            run and compare
  python docs/run_tutorials.py docs/tutorials/embedder.md --write    run, and put what was printed into the page
  python docs/run_tutorials.py docs/tutorials/embedder.md --keep DIR    run in DIR, and leave there what the runs wrote

A fenced block of `bash` or `python` is run in a new folder that has the repository's packages, docs and conf; the next
block `text title="Output"` is what it printed, or some lines of it. A block whose title is a file name is written to
that file, one whose title begins with "Not run" is shown only. Numbers may differ a little (`alike`), times, memory and
p-values altogether; lines `...` stand for any others, and at the end of a line `...` for the rest of it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 1500
SKIPPED = "..."
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
VOLATILE = re.compile(
    r"p [=<] [\d.]+|[\d.,:]+ ?(?:ms|s|min|h|[KMG]i?B)\b|[\d.,]+ (?=(?:seconds|minutes|rows/s|texts/s|tokens/s|docs/s))"
)
ABSOLUTE, RELATIVE = 0.03, 0.05  # other processors round differently, and short runs move by so much


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `first` and `end` are the lines of its content (end is the closing fence)."""

    language: str
    title: str
    content: str
    first: int
    end: int

    @property
    def is_output(self) -> bool:
        return self.title == "Output"

    @property
    def is_file(self) -> bool:
        return bool(re.fullmatch(r"[\w./-]+\.\w+", self.title))

    @property
    def is_run(self) -> bool:
        return self.language in ("bash", "python") and not self.is_file and not self.title.startswith("Not run")


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a page in their order."""
    blocks = []
    for token in MarkdownIt().parse(text):
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            words = dict(word.partition("=")[::2] for word in shlex.split(rest))
            first, end = token.map or (0, 0)
            blocks.append(Block(language, words.get("title", ""), token.content, first + 1, end - 1))
    return blocks


def alike(expected: str, actual: str) -> bool:
    """Whether two lines are the same text, with numbers that differ by at most .03 and a twentieth of their size. Of a
    line of the page that ends in `...` only its beginning counts."""
    expected, actual = (" ".join(VOLATILE.sub("~", line).split()) for line in (expected, actual))
    if is_cut := expected.endswith(f" {SKIPPED}"):
        expected = expected.removesuffix(SKIPPED).rstrip()
    same, found = (NUMBER.sub("#", line) for line in (expected, actual))
    if not (found.startswith(same) if is_cut else found == same):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(actual), strict=not is_cut)
    values = [[float(number.replace(",", "")) for number in pair] for pair in pairs]
    return all(abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b)) for a, b in values)


def cut_like(line: str, printed: str) -> str | None:
    """The printed line, cut where a line of the page is cut by `...`; None if that is another line, or not cut."""
    begin = line.removesuffix(f" {SKIPPED}")
    if begin == line:
        return None
    text = [r"\s+".join(map(re.escape, part.split(" "))) for part in NUMBER.split(re.sub(" +", " ", begin))]
    found = re.match(NUMBER.pattern.join(text), printed)
    return f"{found[0]} {SKIPPED}" if found else None


def difference(expected: Sequence[str], actual: Sequence[str]) -> str:
    """The first line of the page that was not printed (after those above it) and what is nearest to it; or nothing."""
    position = 0
    for line in expected:
        if not line.strip() or line.strip() == SKIPPED:
            continue
        found = next((place for place in range(position, len(actual)) if alike(line, actual[place])), None)
        if found is None:
            near = difflib.get_close_matches(line, actual[position:], n=1, cutoff=0.0)
            return f"the page shows   {line}\nbut printed was   {near[0] if near else '(nothing more)'}"
        position = found + 1
    return ""


def refreshed(expected: Sequence[str], actual: Sequence[str]) -> list[str]:
    """The lines of the page with what was printed now. An empty block takes all of it."""
    if not [line for line in expected if line.strip()]:
        return list(actual)
    position, lines = 0, []
    for line in expected:
        near: list[str] = []
        shown = line
        if line.strip() and line.strip() != SKIPPED:
            rest = list(actual[position:])
            same = [each for each in rest if NUMBER.sub("#", each) == NUMBER.sub("#", line)]
            cut = [each for each in rest if cut_like(line, each)]
            near = same[:1] or cut[:1] or difflib.get_close_matches(line, rest, n=1, cutoff=0.5)
        if near:
            position = list(actual).index(near[0], position) + 1
            shown = cut_like(line, near[0]) or near[0]
        lines.append(shown)
    return lines


def lines_of(output: str) -> list[str]:
    """What a terminal shows of an output: of a line that was overwritten (a progress bar) the last state."""
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.split("\n")]
    return [re.sub(r"\x1b\[[\d;]*\w", "", line) for line in shown]


def make_workspace(folder: Path) -> Path:
    """A folder that looks like a clone and is empty otherwise. It is made; FileExistsError if it was used before."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("outputs", "build", "wandb"):
            (folder / entry.name).symlink_to(entry)
    return folder


def environment(home: Path) -> dict[str, str]:
    """The environment of a reader who has activated .venv, without a network and with fresh caches."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}
    return {**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1"}


def run_block(block: Block, workspace: Path, variables: dict[str, str]) -> tuple[int, list[str]]:
    """Run a block and return its exit status and what it printed."""
    if block.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block.content]
    else:
        command = [sys.executable, "-c", block.content]
    try:
        done = subprocess.run(
            command, cwd=workspace, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        return 124, [*lines_of((error.stdout or b"").decode()), f"not done after {TIMEOUT_S} s"]
    return done.returncode, lines_of(done.stdout.decode(errors="replace"))


def run_page(text: str, workspace: Path, variables: dict[str, str]) -> Iterator[tuple[Block, list[str]]]:
    """Run the blocks of a page and yield each output block with what its code printed.

    Raises RuntimeError with the code and the end of its output if it fails, and for a file in a folder of the
    repository.
    """
    printed: list[str] = []
    for block in read_blocks(text):
        if block.is_output:
            yield block, printed
        elif block.is_file:
            file = workspace / block.title
            if not file.resolve().is_relative_to(workspace.resolve()):
                raise RuntimeError(f"line {block.first + 1}: {block.title} would be written into the repository")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.content, encoding="utf-8")
        elif block.is_run:
            status, printed = run_block(block, workspace, variables)
            if status:
                end = "\n".join(printed[-30:])
                raise RuntimeError(f"line {block.first + 1}: exit status {status} of\n{block.content}\n{end}")


def check(page: Path, home: Path, write: bool = False, keep: Path | None = None) -> list[str]:
    """Run a page and return what differs; with `write`, put what was printed into the page instead. `keep` is the
    folder to run in, a temporary one if it is None."""
    lines = page.read_text(encoding="utf-8").split("\n")
    problems, changes = [], []
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder) if keep is None else keep)
        for block, printed in run_page("\n".join(lines), workspace, environment(home)):
            shown = block.content.split("\n")
            if found := difference(shown, printed):
                problems.append(f"{page.name}, line {block.first + 1}:\n{found}")
            changes.append((block, refreshed(block.content.removesuffix("\n").split("\n"), printed)))
    if write:
        for block, new in reversed(changes):
            lines[block.first : block.end] = new
        page.write_text("\n".join(lines), encoding="utf-8")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="of one page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        problems = [
            problem for page in options.pages for problem in check(page, Path(home), options.write, options.keep)
        ]
    print("\n\n".join(problems))
    sys.exit(1 if problems and not options.write else 0)


if __name__ == "__main__":
    main()
