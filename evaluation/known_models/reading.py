"""Read and check a file of facts: published.yaml or a user's own."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml

from evaluation.known_models.facts import Fact, Kind, KnownModel, Value

KINDS: tuple[Kind, ...] = get_args(Kind)
# name -> (form of the value, meaning)
FACTS = {
    "released": ("date", "first publication"),
    "parameters": ("count", "parameters"),
    "context": ("count", "tokens that the model reads at most"),
    "dimension": ("count", "numbers of an embedding (of each vector, of a multi-vector model)"),
    "dimensions": ("counts", "dimensions to which an embedding may be cut"),
    "base_model": ("text", "the model that training started from"),
    "languages": ("text", "languages"),
    "licence": ("text", "licence of the weights"),
    "training": ("texts", "stages of training, in their order"),
    "trained_on": ("texts", "sets of BEIR whose training split was used: not zero-shot"),
    "prompts": ("prompts", "what is put before a query and a document"),
    "prompt": ("text", "the text in which a reranker reads query and document"),
    "scoring": ("text", "how the score is read off the model"),
    "price": ("number", "USD per million tokens"),
    "billing": ("text", "how use is billed, if not per token"),
    "latency": ("number", "seconds per query"),
    "throughput": ("number", "query-document pairs per second"),
    "beir": ("percent", "mean nDCG@10 on BEIR"),
    "beir_by_set": ("percents", "nDCG@10 on sets of BEIR, by name"),
    "nanobeir": ("percent", "mean nDCG@10 on NanoBEIR"),
    "mteb_english": ("percent", "MTEB English v2, mean of tasks"),
    "mteb_english_retrieval": ("percent", "MTEB English v2, mean nDCG@10 of the retrieval tasks"),
    "mteb_multilingual": ("percent", "MTEB Multilingual v2, mean of tasks"),
    "figures": ("numbers", "other published figures, by name"),
    "remark": ("text", "anything else"),
}
DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?")


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, and a date is a text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep=deep)


def read_models(file: Path, known: Mapping[str, KnownModel]) -> dict[str, KnownModel]:
    """Read the models of a file. A model of `known` needs no `kind` and keeps its own.

    Raises FileNotFoundError if there is no such file, ValueError with file and key if its content is not
    as docs/choosing.md says.
    """
    content = _mapping(load(file), str(file))
    _only(content, ("sources", "models"), str(file))
    sources = {
        name: _source(each, f"{file}: sources.{name}")
        for name, each in _mapping(content.get("sources") or {}, f"{file}: sources").items()
    }
    if not content.get("models"):
        raise ValueError(f"{file}: models is missing or empty: list models by hub id or folder (docs/choosing.md)")
    spelling = {name.casefold(): model for name, model in known.items()}
    models: dict[str, KnownModel] = {}
    for name, each in _mapping(content["models"], f"{file}: models").items():
        place = f"{file}: models.{name}"
        if twin := next((other for other in models if other.casefold() == name.casefold()), None):
            raise ValueError(f"{place} and models.{twin} are the same model: give it once")
        models[name] = _model(name, each, place, sources, spelling.get(name.casefold()))
    return models


def load(file: Path) -> Any:
    """The content of a YAML or JSON file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of facts ({file.absolute()}); check the path")
    try:
        return _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{file}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error


def _model(
    name: str, node: Any, place: str, sources: Mapping[str, tuple[str, str]], known: KnownModel | None
) -> KnownModel:
    node = _mapping(node, place)
    _only(node, ("kind", "hosted", "facts"), place)
    kind = node.get("kind", known.kind if known else None)
    if kind not in KINDS:
        given = "is missing" if kind is None else f"is {kind!r}"
        raise ValueError(f"{place}.kind {given}{_near(str(kind), KINDS)}: one of {', '.join(KINDS)} is needed")
    if known and kind != known.kind:
        raise ValueError(f"{place}.kind is {kind}, but {known.name} is known as {known.kind}: leave the line out")
    hosted = node.get("hosted", False)
    if not isinstance(hosted, bool):
        raise ValueError(f"{place}.hosted is {hosted!r}: write true (an API without weights) or false")
    facts = _mapping(node.get("facts") or {}, f"{place}.facts")
    if not facts:
        raise ValueError(f"{place} has no facts: add some, or leave the model out")
    _only(facts, FACTS, f"{place}.facts")
    return KnownModel(
        name, kind, {fact: _facts(fact, each, f"{place}.facts.{fact}", sources) for fact, each in facts.items()}, hosted
    )


def _facts(name: str, node: Any, place: str, sources: Mapping[str, tuple[str, str]]) -> tuple[Fact, ...]:
    """One statement, or a list of those of several sources."""
    if isinstance(node, list) and node:
        return tuple(_fact(name, each, f"{place}[{index}]", sources) for index, each in enumerate(node))
    return (_fact(name, node, place, sources),)


def _fact(name: str, node: Any, place: str, sources: Mapping[str, tuple[str, str]]) -> Fact:
    if not isinstance(node, dict):
        raise ValueError(f"{place} has no source: write {{value: ..., source: ..., date: ...}}")
    _only(node, ("value", "source", "date", "note"), place)
    form = FACTS[name][0]
    for key in ("value", "source"):
        if node.get(key) in (None, "", [], {}):
            raise ValueError(f"{place}: {key} is missing" + ": who says so?" * (key == "source"))
    value = FORMS[form](node["value"], f"{place}.value")
    source, day = _resolved(_text(node["source"], f"{place}.source"), node.get("date"), place, sources)
    if day is None:
        raise ValueError(f"{place}: date is missing: when was it published or read? e.g. 2026-05-31")
    note = node.get("note")
    return Fact(value, source, _date(day, f"{place}.date"), "" if note is None else _text(note, f"{place}.note"))


def _resolved(source: str, day: Any, place: str, sources: Mapping[str, tuple[str, str]]) -> tuple[str, Any]:
    """The URL and date of a source that the file names. Other texts with a blank or like a URL stand for themselves."""
    if source in sources:
        url, stated = sources[source]
        return url, stated if day is None else day
    is_url = source.startswith(("http://", "https://"))
    near = "" if is_url else _near(source, sources, cutoff=0.8)
    if near or not (is_url or re.search(r"[\s/:.]", source)):
        hint = near or _near(source, sources)
        raise ValueError(f"{place}.source {source!r} is not in sources{hint}: add it there, or give a URL")
    return source, day


def _source(node: Any, place: str) -> tuple[str, str]:
    node = _mapping(node, place)
    _only(node, ("url", "date"), place)
    if missing := [key for key in ("url", "date") if not node.get(key)]:
        raise ValueError(f"{place}: {missing[0]} is missing")
    return _text(node["url"], f"{place}.url"), _date(node["date"], f"{place}.date")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} is {value!r}: a text is needed")
    return value


def _date(value: Any, place: str) -> str:
    text = value if isinstance(value, str) else ""
    try:
        if DATE.fullmatch(text):
            date.fromisoformat(text if len(text) > len("2026-05") else f"{text}-01")
            return text
    except ValueError:
        pass
    raise ValueError(f"{place} is {value!r}: write 2026-05-31 or 2026-05")


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = ", without quotes or unit" if isinstance(value, str) else ""
        raise ValueError(f"{place} is {value!r}: a number is needed{hint}")
    return value


def _positive(value: Any, place: str) -> float:
    if _number(value, place) < 0:
        raise ValueError(f"{place} is {value!r}: a number of at least 0 is needed")
    return float(value)


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{place} is {value!r}: a whole number of at least 1 is needed, such as 8192")
    return value


def _percent(value: Any, place: str) -> float:
    number = float(_number(value, place))
    if 0 < number <= 1:
        raise ValueError(f"{place} is {value!r}: figures are on a scale of 100; write {round(100 * number, 6):g}")
    if not 0 <= number <= 100:
        raise ValueError(f"{place} is {value!r}: a figure from 0 to 100 is needed")
    return number


def _list_of(one: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def check(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"{place} is {value!r}: a list is needed, such as [a, b]")
        return tuple(one(each, f"{place}[{index}]") for index, each in enumerate(value))

    return check


def _mapping_of(one: Callable[[Any, str], Any], keys: Iterable[str] = ()) -> Callable[[Any, str], Any]:
    allowed = tuple(keys)

    def check(value: Any, place: str) -> Any:
        content = _mapping(value, place)
        if allowed:
            _only(content, allowed, place)
        return {key: one(each, f"{place}.{key}") for key, each in content.items()}

    return check


FORMS: dict[str, Callable[[Any, str], Value]] = {
    "text": _text,
    "texts": _list_of(_text),
    "date": _date,
    "count": _count,
    "counts": _list_of(_count),
    "number": _positive,
    "numbers": _mapping_of(_number),
    "percent": _percent,
    "percents": _mapping_of(_percent),
    "prompts": _mapping_of(_text, ("query", "document")),
}


def _mapping(node: Any, place: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        what = "is empty" if node is None else f"is {str(node)[:40]!r}"
        raise ValueError(f"{place} {what}: `key: value` lines are needed (docs/choosing.md)")
    if odd := [key for key in node if not isinstance(key, str)]:
        raise ValueError(f"{place}: the key {odd[0]!r} is not a text: put it in quotes")
    return node


def _only(node: Mapping[str, Any], keys: Iterable[str], place: str) -> None:
    keys = tuple(keys)
    for key in node:
        if key not in keys:
            raise ValueError(f"{place}: {key} is not a key{_near(key, keys)}; valid: {', '.join(keys)}")


def _near(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""
