"""What is declared about a model: licence and training data, by its card and by published facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluation.known_models.catalogue import KnownModels
from evaluation.known_models.facts import Match
from evaluation.known_models.folders import card_of
from recipes.model_card import data_of_card

SHOWN = ("context", "dimension", "parameters", "licence", "base_model", "trained_on", "beir", "mteb_english", "price")
LEAST_NAME = 3  # characters of a data set's name that is looked for
NO_NAMES = frozenset(
    ("data", "dataset", "datasets", "docs", "documents", "corpus", "train", "dev", "test")
)  # of folders


def declared(name: str, folder: Path | None, known: KnownModels) -> dict[str, Any]:
    """Licence, training data and published facts of a model, each with who says it, in JSON types."""
    card = card_of(folder) if folder else {}
    match = known.find(name) or (known.find(str(folder)) if folder else None)
    licence, said_by = _licence(card, match)
    return {
        "licence": licence,
        "licence_source": said_by,
        "trained_on": _trained_on(card, folder, match),
        "known_as": match.model.name if match else None,
        "caveat": match.caveat if match else "",
        "facts": _facts(match),
    }


def _licence(card: Mapping[str, Any], match: Match | None) -> tuple[str | None, str]:
    """The licence, and who says it: the card, or a fact (of the base model, if that is what is known)."""
    own = card.get("license") or card.get("licence")
    if isinstance(own, str):
        return own, "its card"
    fact = match.model.fact("licence") if match else None
    if match is None or fact is None:
        return None, ""
    return str(fact.value), f"{match.caveat or 'published'} ({fact.source}, {fact.date})"


def _trained_on(card: Mapping[str, Any], folder: Path | None, match: Match | None) -> list[dict[str, str]]:
    """The data sets that a model was trained on, each with who says it."""
    found = []
    listed = card.get("datasets") or []
    found += [(str(each), "its card") for each in (listed if isinstance(listed, list) else [listed])]
    text = _read(folder / "README.md") if folder else ""
    if own := data_of_card(text):
        found.append((own, "its card"))
    for fact in match.model.facts.get("trained_on", ()) if match else ():
        values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
        said_by = f"{match.caveat or 'published'} ({fact.source}, {fact.date})" if match else ""
        found += [(str(value), said_by) for value in values]
    return [{"data": data, "source": source} for data, source in dict.fromkeys(found)]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _facts(match: Match | None) -> dict[str, list[dict[str, Any]]]:
    if match is None:
        return {}
    return {
        name: [
            {"value": _plain(fact.value), "source": fact.source, "date": fact.date}
            for fact in match.model.facts.get(name, ())
        ]
        for name in (*SHOWN, "beir_by_set")
        if name in match.model.facts
    }


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def published_on(name: str, known: KnownModels, data: Iterable[str]) -> list[dict[str, Any]]:
    """The published nDCG@10 (0 to 100) of a model on the data set that it is measured on."""
    match = known.find(name)
    if match is None:
        return []
    facts = [fact for each in dict.fromkeys(data) for fact in match.model.on_set(each)]
    return [{"value": fact.value, "source": fact.source, "date": fact.date} for fact in facts]


def trained_on_these(trained_on: Iterable[Mapping[str, str]], names: Iterable[str]) -> list[Mapping[str, str]]:
    """What a model was trained on, of the data set with one of these `names`: the name is the whole of it, or a part
    between signs ("mteb/scifact", "scifact-train").

    >>> trained_on_these([{"data": "BeIR/SciFact", "source": "its card"}], ["scifact"])
    [{'data': 'BeIR/SciFact', 'source': 'its card'}]
    """
    wanted = {"".join(re.findall(r"\w+", name.casefold())) for name in names}
    wanted = {name for name in wanted if len(name) >= LEAST_NAME and name not in NO_NAMES}
    found = []
    for each in trained_on:
        last = each["data"].casefold().rpartition("/")[2]
        if wanted & {*re.findall(r"[^\W_]+", last), "".join(re.findall(r"\w+", last))}:
            found.append(each)
    return found
