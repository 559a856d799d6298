"""Writes docs/losses.md from conf/loss, the losses' docstrings and their contracts: python docs/make_losses.py

The page shows the docstring of a loss's class. It opens with "FORMULA  (SOURCE)." (two spaces) and has the lines `Use:`
(when to use the loss) and `Cost:` (time per list or batch). If formula or source are not in the opening, there are
lines `Formula:` and `Source:`. The title is the first comment of the configuration file. All four lines may also be in
that comment, where they replace those of the class: a variant has its own use.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.cli.compose import load
from launch.cli.schema import locate
from losses.contracts import REQUIREMENTS, LossInputs, input_names, requirements
from runs.source_tree import CONF

PAGE = Path(__file__).parent / "losses.md"
LINES = ("Formula", "Use", "Cost", "Source")
INPUTS = {"list": "scores", "matrix": "embeddings", "wrapper": "those of the losses inside"}
HEAD = """\
# Losses

Written by `python docs/make_losses.py` from `conf/loss` and the docstrings of `losses/`; a test compares them.

`loss=NAME` chooses one, `loss.OPTION=VALUE` sets an option; the files of `conf/loss` state all options and defaults.
s are scores, y labels (0: not relevant), n is the number of documents of a list, Q the number of lists of a step, d the
size of an embedding. The cost is time, and also memory if that differs. A list loss is the mean over the valid lists of
the global step, however they are split over ranks and chunks. List losses take a cross-encoder's scores or a
bi-encoder's similarities, matrix losses a bi-encoder's embeddings, wrappers what the losses inside them take.
"""


@dataclass(frozen=True)
class Entry:
    """One file of conf/loss on the page."""

    name: str
    loss: Any
    title: str
    lines: dict[str, str]

    @classmethod
    def load(cls, name: str) -> Entry:
        """Read a file of conf/loss and its class. Raises ValueError if a line that the page needs is missing."""
        file = CONF / "loss" / f"{name}.yaml"
        text = file.read_text()
        target = locate(yaml.safe_load(text)["_target_"], str(file))
        docstring = inspect.cleandoc(target.__doc__ or "")
        comment = "\n".join(line.lstrip("# ") for line in re.match(r"(#.*\n)*", text).group().splitlines())
        lines = opening(docstring) | named_lines(docstring) | named_lines(comment)
        if missing := [f"{line}:" for line in LINES if line not in lines]:
            raise ValueError(
                f"{target.__module__.replace('.', '/')}.py: neither the docstring of {target.__name__} nor the first "
                f"comment of conf/loss/{name}.yaml has {missing[0]} for docs/losses.md: add it (CONTRIBUTING.md)"
            )
        title = comment.partition("\n")[0].removesuffix(".").removesuffix(":") + "."
        return cls(name, load([f"loss={name}"]).loss, title, lines)

    @property
    def data(self) -> str:
        return "; ".join(REQUIREMENTS[name] for name in REQUIREMENTS if name in requirements(self.loss)) or "any lists"

    @property
    def inputs(self) -> str:
        return ", ".join([INPUTS[self.loss.contract], *(f"`{name}`" for name in input_names(self.loss))])

    def section(self) -> str:
        path = f"{type(self.loss).__module__.replace('.', '/')}.py"
        facts = {
            "Use": self.lines["Use"],
            "Data": self.data,
            "Inputs": self.inputs,
            "Cost": self.lines["Cost"],
            "Source": self.lines["Source"],
            "Code": f"`{type(self.loss).__name__}` in [{path}](../{path}), contract {self.loss.contract}",
        }
        bullets = "\n".join(f"- **{name}**: {fact}" for name, fact in facts.items())
        return f"## {self.name}\n\n{self.title}\n\n```text\n{self.lines['Formula']}\n```\n\n{bullets}\n"


def opening(docstring: str) -> dict[str, str]:
    """Return formula and source of a docstring that opens with "FORMULA  (SOURCE)."."""
    first = docstring.partition("\n\n")[0]
    formula, _, source = first.partition("  (")
    lines = {"Formula": formula.strip().removesuffix(".")}
    return lines | ({"Source": " ".join(source.rpartition(")")[0].split())} if source else {})


def named_lines(text: str) -> dict[str, str]:
    """Return the lines `Use: ...` and so on of a docstring or a comment, each with its continuation lines."""
    matches = re.findall(rf"^({'|'.join(LINES)}): (.+(?:\n(?!(?:{'|'.join(LINES)}):).+)*)", text, re.MULTILINE)
    return {name: " ".join(line.split()).removesuffix(".") for name, line in matches}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"


def inputs_table(entries: list[Entry]) -> str:
    """Return the table of further inputs, described by the comments of losses.contracts.LossInputs."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(LossInputs), re.MULTILINE))
    names = [name for name in comments if any(name in input_names(entry.loss) for entry in entries)]
    return table(["input", "meaning"], [[f"`{name}`", comments[name]] for name in names])


def page() -> str:
    """Return the text of docs/losses.md."""
    folder = CONF / "loss"
    names = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
    entries = [Entry.load(name) for name in names]
    parts = [HEAD]
    for contract in INPUTS:
        parts.append(f"Contract {contract}:\n")
        of_contract = [entry for entry in entries if entry.loss.contract == contract]
        rows = [
            [f"[{each.name}](#{each.name})", each.lines["Use"], each.data, each.lines["Cost"]] for each in of_contract
        ]
        parts.append(table(["loss", "use", "data", "cost"], rows))
    parts += ["Further inputs, which a loss lists under Inputs:\n", inputs_table(entries)]
    return "\n".join([*parts, *(entry.section() for entry in entries)])


if __name__ == "__main__":
    PAGE.write_text(page())
