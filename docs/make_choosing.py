"""Writes the part of docs/choosing.md that lists the published facts of models: python docs/make_choosing.py

The facts, with their sources, are in evaluation/known_models/published.yaml. The rest of the page is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.known_models.catalogue import published
from evaluation.known_models.facts import Fact, KnownModel
from evaluation.known_models.reading import FACTS

PAGE = Path(__file__).parent / "choosing.md"
BEGIN = "<!-- Written by `python docs/make_choosing.py`; a test compares it. -->\n"
END = "<!-- The end of what docs/make_choosing.py writes. -->\n"
DETAILED = ("mixedbread-ai/mxbai-rerank-large-v2", "mixedbread-ai/mxbai-rerank-base-v2")
SIZE = ("released", "parameters", "context")
EMBEDDER = (*SIZE, "dimension", "licence", "beir", "mteb_english", "mteb_multilingual")
RERANKER = (*SIZE, "licence", "beir", "nanobeir", "mteb_english_retrieval", "throughput")
HOSTED = ("released", "context", "dimension", "price", "billing", "beir", "mteb_multilingual")
HEADINGS = {
    "beir": "BEIR",
    "nanobeir": "NanoBEIR",
    "mteb_english": "MTEB English v2",
    "mteb_english_retrieval": "retrieval of MTEB English v2",
    "mteb_multilingual": "MTEB Multilingual v2",
    "throughput": "pairs/s",
    "price": "USD per million tokens",
}
UNITS = ((10**9, "B"), (10**6, "M"))


@dataclass
class Sources:
    """The sources of the page in the order in which they are named, each with the conditions that go with its facts."""

    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=dict)

    def cite(self, fact: Fact) -> str:
        number = self.numbers.setdefault((fact.source, fact.date), len(self.numbers) + 1)
        notes = self.notes.setdefault(number, [])
        if fact.note and fact.note not in notes:
            notes.append(fact.note)
        return f"[{number}]"

    def table(self) -> str:
        """The table of the sources, and their links."""
        keys = list(self.numbers)
        rows = [[f"[{n}]", day, "; ".join(self.notes[n])] for n, (_, day) in enumerate(keys, 1)]
        links = "\n".join(f"[{n}]: {url}" for n, (url, _) in enumerate(keys, 1))
        return f"{table(['source', 'date', 'conditions of the facts above'], rows)}\n{links}\n"


def shown(name: str, fact: Fact) -> str:
    """The value as a reader expects it."""
    value = fact.value
    if name == "parameters" and isinstance(value, int):
        unit, letter = next((unit for unit in UNITS if value >= unit[0]), (1, ""))
        return f"{value / unit:.3g}{letter}"
    if isinstance(value, bool | int):
        return f"{value:,}"
    if name == "price" and isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return (
        "; ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )


def cell(model: KnownModel, name: str, sources: Sources) -> str:
    """All that is stated, with the sources."""
    return " / ".join(f"{shown(name, fact)} {sources.cite(fact)}" for fact in model.facts.get(name, ()))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '&#124;') for text in line)} |" for line in lines) + "\n"


def list_models(models: Sequence[KnownModel], columns: Sequence[str], sources: Sources) -> str:
    """Return the table of models with these facts."""
    header = ["model", *(HEADINGS.get(name, name) for name in columns)]
    return table(header, [[f"`{model.name}`", *(cell(model, name, sources) for name in columns)] for model in models])


def detail(models: Sequence[KnownModel], sources: Sources) -> str:
    """Return all facts of some models side by side; the prompt, which has several lines, below."""
    names = [name for name in FACTS if name != "prompt" and any(name in model.facts for model in models)]
    rows = [[FACTS[name][1], *(cell(model, name, sources) for model in models)] for name in names]
    parts = [table(["", *(f"`{model.name}`" for model in models)], rows)]
    if prompt := models[0].fact("prompt"):
        text = str(prompt.value).rstrip("\n")
        parts.append(f"The prompt {sources.cite(prompt)} ({prompt.note}):\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def generated(models: Mapping[str, KnownModel]) -> str:
    """Return the part of the page that is generated."""
    sources = Sources()
    own = [model for model in models.values() if not model.hosted]
    of_kind = {
        kind: [model for model in own if model.kind == kind] for kind in ("embedder", "reranker", "multi_vector")
    }
    parts = [
        "### Embedders\n",
        list_models(of_kind["embedder"], EMBEDDER, sources),
        "### Rerankers\n\nThe figures of a reranker depend on what it reranks: compare those of one source.\n",
        list_models(of_kind["reranker"], RERANKER, sources),
        "### Multi-vector models (late interaction)\n",
        list_models(of_kind["multi_vector"], (*SIZE, "dimension", "licence", "beir"), sources),
        "### Hosted models\n\nPrices change: the date is that of the source.\n",
        list_models([model for model in models.values() if model.hosted], HOSTED, sources),
        "### mxbai-rerank-v2 in detail\n",
        detail([models[name] for name in DETAILED], sources),
        "### Sources\n",
        sources.table(),
    ]
    return "\n".join(parts)


def page() -> str:
    """Return the text of docs/choosing.md with the generated part as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{generated(published())}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
