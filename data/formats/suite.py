"""Evaluation suites: several data sets that are measured one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

from data.candidates import BM25Candidates, CandidateSource
from data.formats.beir import BEIRConfig
from data.formats.mteb_task import MTEBConfig
from data.formats.nanobeir import PARTS, NanoBEIRConfig, is_nanobeir
from data.option_names import building
from data.source import SourceOptions

MTEB = "mteb:"
HOW = "data.sources=[DIR,HUB_ID,mteb:TASK,...]"


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Data sets by place: a list of them, or a mapping {name: place or node of the group data}. A place is a folder
    (BEIR's or NanoBEIR's layout, or one whose folders are such), an id of the hub, or mteb:TASK.

    The other options are those of all sources that are given as places; a node has its own.
    """

    sources: list[str] | Mapping[str, Any] = field(default_factory=dict)
    candidates: CandidateSource = field(default_factory=BM25Candidates)
    on_error: str = "stop"
    dev_fraction: float = 0.1
    cache_dir: str = "~/.cache/plackett"
    query_prompt: str | None = None
    document_prompt: str | None = None
    rank_own_document: bool = False
    relevant_from: float | None = None

    def __post_init__(self) -> None:
        for name, source in self._named():
            if not isinstance(source, str | SourceOptions):
                raise ValueError(
                    f"data.sources.{name} is no place of a data set: give a folder, an id of the hub or mteb:TASK, or "
                    f"its options by +data@data.sources.{name}=beir"
                )
            if isinstance(source, SourceOptions) and source.loss is not None:
                raise ValueError(f"data.sources.{name}.loss is read in training only: leave it out")
        BEIRConfig(path="", **self._shared())  # checks the options
        if not self.sources or any(isinstance(source, str) for _, source in self._named()):
            return
        first, default = next(self._named())[0], SuiteConfig()
        own = [option for option in self._shared() if getattr(self, option) != getattr(default, option)]
        if own:
            raise ValueError(f"data.{own[0]} is for sources given as places: set data.sources.{first}.{own[0]}")

    @property
    def own_losses(self) -> Mapping[str, Any]:
        """No data set has a loss: a suite is evaluated."""
        return {}

    def prompt_options(self) -> dict[str, str]:
        """The prompts that are set, by the name of the option."""
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        of_sources = {
            f"sources.{name}.{option}": prompt
            for name, source in self._named()
            if isinstance(source, SourceOptions)
            for option, prompt in source.prompt_options().items()
        }
        return {option: prompt for option, prompt in prompts.items() if prompt is not None} | of_sources

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of sources that are places, if all are local folders; nodes name their own."""
        found: dict[str, dict[str, Path]] = {}
        for name, source in self._named():
            if not isinstance(source, str):
                continue
            key = f"sources.{name}" if isinstance(self.sources, Mapping) else "sources"
            files = found.setdefault(key, {})
            for place in _places(source):
                own = self._options(place).places() if Path(place).expanduser().is_dir() else {}
                if not own:
                    return {}
                files |= {f"{_name_of(place)}/{file}": path for file, path in own["path"].items()}
        return found

    def check_place(self) -> None:
        for name, source in self._named():
            with in_suite(source if isinstance(source, str) else name, self, source):
                for own in map(self._options, _places(source)) if isinstance(source, str) else [source]:
                    own.check_place()

    def map_sources(self, change: Callable[[SourceOptions], SourceOptions]) -> NoReturn:
        self.build()

    def build(self) -> NoReturn:
        """A suite is no data set that could be trained on, mined, encoded, ..."""
        raise ValueError(
            "data=suite is evaluated only, by launch/evaluate.py or as data@dev_suite=suite and data@test_suite=suite "
            "of launch/train.py: choose one data set here, such as data=beir data.path=FOLDER"
        )

    def evaluated_sets(self) -> dict[str, SourceOptions]:
        """The data sets by name: that of the mapping, of the folder, of the table in NanoBEIR's layout or of mteb's
        task; one that occurs again gets a number. Raises ValueError or FileNotFoundError, which names the source."""
        if not self.sources:
            raise ValueError("data.sources is empty: data.sources=[FOLDER,HUB_ID,mteb:TASK,...]")
        found: dict[str, SourceOptions] = {}
        for name, source in self._named():
            label = source if isinstance(source, str) else name
            with in_suite(label, self, source):
                for own, options in self._sets_of(name, source).items():
                    if any(_same(options, other) for other in found.values()):
                        raise ValueError(f"{own} is there twice, which would count twice in the mean: leave one out")
                    found[_free(own, found)] = options
        return found

    def _sets_of(self, name: str, source: Any) -> dict[str, SourceOptions]:
        """The data sets of one source. Their names begin with that of the mapping, if there is one."""
        if isinstance(source, SourceOptions):
            places = {"": source}
        else:
            places = {_name_of(place): self._options(place) for place in _places(source)}
        first = [name] if isinstance(self.sources, Mapping) else []
        named: dict[str, SourceOptions] = {}
        for place, options in places.items():
            for own, each in options.evaluated_sets().items():
                last = own or ("" if first and len(places) == 1 else place)
                named["-".join(first + [last] * bool(last))] = each
        return named

    def _named(self) -> Iterator[tuple[str, Any]]:
        if isinstance(self.sources, Mapping):
            yield from self.sources.items()
        else:
            yield from ((str(number), source) for number, source in enumerate(self.sources))

    def _options(self, place: str) -> SourceOptions:
        if place.startswith(MTEB):
            return MTEBConfig(task=place.removeprefix(MTEB), **self._shared())
        kind: Any = NanoBEIRConfig if is_nanobeir(place) else BEIRConfig
        options: SourceOptions = kind(path=place, **self._shared())
        return options

    def _shared(self) -> dict[str, Any]:
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name != "sources"}


@contextmanager
def in_suite(name: str, suite: Any, options: Any) -> Iterator[None]:
    """Name the data set in errors, and its options as they are named in the settings."""
    sources = getattr(suite, "sources", None)
    if isinstance(sources, Mapping) and name in sources and not isinstance(sources[name], str):
        with building(f"data.sources.{name}", options):
            yield
        return
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        where = name if sources is None else f"data.sources ({name})"  # a data set that has several sets itself
        raise type(error)(f"{where}: {str(error).removeprefix('data.path=')}") from error


def _places(source: str) -> list[str]:
    """The folders of a folder that is no collection itself but holds some; else the source alone. Those that lack a
    part are among them, so that reading them says what is missing: the mean would be over fewer sets."""
    folder = Path(source).expanduser()
    if source.startswith(MTEB) or not folder.is_dir() or _parts_in(folder):
        return [source]
    inner = sorted(str(each) for each in folder.iterdir() if each.is_dir() and _parts_in(each))
    return inner or [source]


def _parts_in(folder: Path) -> bool:
    """Whether a folder has a part of a collection, a file or folder."""
    return any(each.name.split(".")[0] in PARTS for each in folder.iterdir()) or is_nanobeir(str(folder))


def _same(options: SourceOptions, other: SourceOptions) -> bool:
    """Whether two sources are the same data, read alike; a path may be written in several ways."""
    if type(options) is not type(other):
        return False
    one, two = (vars(each) | {"path": _real(getattr(each, "path", ""))} for each in (options, other))
    return one == two


def _real(path: str) -> str:
    place = Path(path).expanduser()
    return str(place.resolve()) if path and place.exists() else path


def _name_of(place: str) -> str:
    """The name of a data set by its place, fit for names of files: the folder's, the task's, or the last part of an
    id."""
    folder = Path(place).expanduser()
    name = folder.resolve().name if folder.is_dir() else place.removeprefix(MTEB).rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "_", name) or "data"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or if it is taken the first of NAME-2, NAME-3, ... that is not."""
    return next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in taken)
