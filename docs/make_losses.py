"""Writes docs/losses.md from conf/loss, the losses' docstrings and their contracts: python docs/make_losses.py

A loss says what the page shows in the docstring of its class, which opens with "FORMULA  (SOURCE)." and has the lines
`Use:`, when to take it, and `Cost:`, in time per list or batch. The opening comment of its configuration says which
loss this is. A line `Formula:` or `Source:` says what the opening does not. All four may stand in that comment too and
come before those of the class: a variant has a use of its own.
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
s are scores, y labels (0: not relevant), n the documents of a list, Q the lists of a step, d the size of an embedding;
cost is time, and memory where that is another. A list loss is the mean over the lists of the global step that count for
it, however they are split over ranks and chunks. List losses take a cross-encoder's scores or a bi-encoder's
similarities, matrix losses a bi-encoder's embeddings, wrappers what the losses inside take.
"""


@dataclass(frozen=True)
class Entry:
    """A file of conf/loss, as the page shows it."""

    name: str
    loss: Any
    title: str
    lines: dict[str, str]

    @classmethod
    def of(cls, name: str) -> Entry:
        """Raises ValueError where the page needs a line that is not there."""
        file = CONF / "loss" / f"{name}.yaml"
        text = file.read_text()
        target = locate(yaml.safe_load(text)["_target_"], str(file))
        docstring = inspect.cleandoc(target.__doc__ or "")
        comment = "\n".join(line.lstrip("# ") for line in re.match(r"(#.*\n)*", text).group().splitlines())
        lines = opening(docstring) | named_lines(docstring) | named_lines(comment)
        if missing := [f"{line}:" for line in LINES if line not in lines]:
            raise ValueError(
                f"{target.__module__.replace('.', '/')}.py: the docstring of {target.__name__} lacks {missing[0]}, "
                f"as does the opening comment of conf/loss/{name}.yaml; docs/losses.md shows them (CONTRIBUTING.md)"
            )
        title = comment.partition("\n")[0].removesuffix(".").removesuffix(":") + "."
        loss = load([f"loss={name}"]).loss
        return cls(name, loss, title, lines)

    @property
    def data(self) -> str:
        return "; ".join(REQUIREMENTS[name] for name in REQUIREMENTS if name in requirements(self.loss)) or "any lists"

    @property
    def inputs(self) -> str:
        return ", ".join([INPUTS[self.loss.contract], *(f"`{name}`" for name in input_names(self.loss))])

    def section(self) -> str:
        module, kind = type(self.loss).__module__, type(self.loss).__name__
        path = f"{module.replace('.', '/')}.py"
        facts = {
            "Use": self.lines["Use"],
            "Data": self.data,
            "Inputs": self.inputs,
            "Cost": self.lines["Cost"],
            "Source": self.lines["Source"],
            "Code": f"`{kind}` in [{path}](../{path}), contract {self.loss.contract}",
        }
        listed = "\n".join(f"- **{name}**: {fact}" for name, fact in facts.items())
        return f"## {self.name}\n\n{self.title}\n\n```text\n{self.lines['Formula']}\n```\n\n{listed}\n"


def opening(docstring: str) -> dict[str, str]:
    """Formula and source of a docstring that opens with "FORMULA  (SOURCE)."."""
    first = docstring.partition("\n\n")[0]
    formula, _, source = first.partition("  (")
    found = {"Formula": formula.strip().removesuffix(".")}
    return found | ({"Source": " ".join(source.rpartition(")")[0].split())} if source else {})


def named_lines(text: str) -> dict[str, str]:
    """The lines `Use: ...` and so on of a docstring or a comment, each with those that go on with it."""
    found = re.findall(rf"^({'|'.join(LINES)}): (.+(?:\n(?!(?:{'|'.join(LINES)}):).+)*)", text, re.MULTILINE)
    return {name: " ".join(line.split()).removesuffix(".") for name, line in found}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"


def inputs_read(entries: list[Entry]) -> str:
    """The further inputs, as the comments of losses.contracts.Lists say what they are."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(LossInputs), re.MULTILINE))
    names = [name for name in comments if any(name in input_names(entry.loss) for entry in entries)]
    return table(["input", "what it is"], [[f"`{name}`", comments[name]] for name in names])


def page() -> str:
    folder = CONF / "loss"
    names = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
    entries = [Entry.of(name) for name in names]
    parts = [HEAD]
    for contract in INPUTS:
        parts.append(f"Contract {contract}:\n")
        of_contract = [entry for entry in entries if entry.loss.contract == contract]
        rows = [
            [f"[{each.name}](#{each.name})", each.lines["Use"], each.data, each.lines["Cost"]] for each in of_contract
        ]
        parts.append(table(["loss", "use", "data", "cost"], rows))
    parts += ["Further inputs, which a loss names under Inputs:\n", inputs_read(entries)]
    return "\n".join([*parts, *(entry.section() for entry in entries)])


if __name__ == "__main__":
    PAGE.write_text(page())
