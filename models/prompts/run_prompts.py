"""The prompts of a run, by name: what stands before the texts in training, and what an export keeps of it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

# Names that sentence-transformers gives to the prompts of queries and of documents.
ROLES = ("query", "document", "passage", "corpus")
MAX_ROW_PROMPTS = 1000  # different prompts of rows that get a name: a model's settings are no data set


@dataclass(frozen=True)
class NamedPrompt:
    """A prompt with its name in the export. `text` None: the model's own. `whose`: the data set that has it, or
    "some rows"; "": the evaluated data set."""

    name: str
    text: str | None
    whose: str = ""
    role: str = "query"  # or "document"

    def in_words(self) -> str:
        """The option that sets the prompt, with its value."""
        return f"{'' if self.whose else 'data.'}{self.role}_prompt={self.text!r}" + (self.whose and f" of {self.whose}")


@dataclass(frozen=True)
class RunPrompts:
    """The prompts of a run.

    `query` and `document` are those of the evaluated data set, which the export puts before a text unless it is told
    otherwise; None: the model's own. `named` are all others. `unnamed` counts the different prompts of rows beyond
    `MAX_ROW_PROMPTS`, which have no name.
    """

    query: str | None = None
    document: str | None = None
    named: tuple[NamedPrompt, ...] = ()
    unnamed: int = 0

    def of(self, role: str, own: str) -> list[NamedPrompt]:
        """The prompts of a role, that of the evaluated data set first. `own` is the model's own prompt."""
        prompts = [NamedPrompt(role, getattr(self, role), role=role), *(p for p in self.named if p.role == role)]
        return [replace(prompt, text=own) if prompt.text is None else prompt for prompt in prompts]

    def texts(self, role: str, own: str) -> dict[str, str]:
        """The named prompts of a role: {name: text}. `own` is the model's own prompt."""
        return {prompt.name: prompt.text or "" for prompt in self.of(role, own)[1:]}

    def without_name(self) -> list[str]:
        """The prompts of rows that have no name, in words; empty if there are none."""
        count = self.unnamed
        return [f"{count:,} more prompts of rows (the most frequent {MAX_ROW_PROMPTS:,} get a name)"] if count else []


def in_words(prompts: list[NamedPrompt]) -> list[str]:
    """The prompts in words, each text once."""
    return list({prompt.text: prompt.in_words() for prompt in reversed(prompts)}.values())[::-1]


def merge_prompts(saved: Mapping[str, str], named: Mapping[str, str], roles: Mapping[str, str]) -> dict[str, str]:
    """The prompts of a model after training: those `saved` with it before, the `named` ones of the run, and those of
    the `roles`. A saved prompt whose name is taken for another text gets a free name; a role has one text."""
    given = {**named, **roles}
    merged = {**saved, **given}
    for name, text in saved.items():
        if name in named and text not in given.values():
            merged[free_name(name, merged)] = text
    return merged


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or if it is taken `name` with the first free number from 2."""
    number, found = 2, name
    while found in taken:
        number, found = number + 1, f"{name}_{number}"
    return found
