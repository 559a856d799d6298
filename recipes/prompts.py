"""The prompts of a run from its data: those of data sets and rows, in training and evaluation, each with a name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from unicodedata import category

from data.collection import Collection, Split
from data.sampling.mixture import Mixture
from models.capabilities import ModelOptions, RankingModel
from models.prompts.run_prompts import MAX_ROW_PROMPTS, ROLES, NamedPrompt, RunPrompts, free_name

logger = logging.getLogger(__name__)

Data = Collection | Mixture


def run_prompts(evaluated: Data, training: Data, *, stage: str | None = None, adopted: bool = False) -> RunPrompts:
    """The prompts of `training`, by name, and those of the `evaluated` data set.

    A prompt of a mixture's data set gets the data set's name (of documents: NAME_document), one of the own data of a
    `stage` the stage's name, one of rows a name made of its words. `adopted`: the model starts from one that an earlier
    stage has given the evaluated data set's prompts.
    """
    first, sources = evaluated.evaluated, training.sources
    query, document = _query_prompt(first, first.splits.values()), first.document_prompt
    is_mixture = len(sources) > 1 or training.held_out_alone
    if not is_mixture:
        sources = {} if stage is None else {stage: next(iter(sources.values()))}
    named = [
        prompt
        for name, source in sources.items()
        for prompt in _prompts_of_source(name, source, (query, document), is_mixture=is_mixture, adopted=adopted)
    ]
    known = {query, *(prompt.text for prompt in named if prompt.role == "query")}
    splits = [*first.splits.values(), *(split for source in training.sources.values() for split in _train(source))]
    rows = [text for text, _ in Counter(_row_prompts(splits)).most_common() if text not in known]
    named += [NamedPrompt(_name_of(text), text, "some rows") for text in rows[:MAX_ROW_PROMPTS]]
    return RunPrompts(query, document, _with_free_names(named), len(rows[MAX_ROW_PROMPTS:]))


def expect_prompts(model: RankingModel, *data: Data) -> None:
    """Tell `model` all prompts that `data` put before texts, in any split. Call it before texts are tokenised."""
    sources = {id(source): source for each in data for source in (each.evaluated, *each.sources.values())}.values()
    of_rows = {text for source in sources for split in source.splits.values() for text in split.prompts.values()}
    of_data = {text for source in sources for text in (source.query_prompt, source.document_prompt)}
    model.expect_prompts(of_rows | of_data)


def check_prompts(model: ModelOptions, evaluated: Data, prompts: RunPrompts, *, may_be_lost: bool) -> None:
    """Raise ValueError if the export would lose a prompt of training, unless prompts `may_be_lost`. Say so if the rows
    decide which prompt the export puts before a query."""
    lost = model.lost_prompts(prompts)
    if lost and not may_be_lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise ValueError(
            f"{lost[0]}{more}: trained with it, the exported model would not put it before texts. Leave it out, write "
            "it into the texts, or set allow_lost_prompts=true: then the model card says so"
        )
    first = evaluated.evaluated
    if prompts.query != first.query_prompt and len(set(_row_prompts(first.splits.values()))) > 1:
        logger.warning(
            "the rows of %s have different prompts: the exported model puts the most frequent, %r, before a query, "
            "and has the others by name; %s.query_prompt chooses another of them",
            first.name,
            prompts.query,
            first.node,
        )


def lost_in_words(model: ModelOptions, prompts: RunPrompts) -> dict[str, str]:
    """The line of the model card on prompts of training that the export does not hold; empty if there are none."""
    lost = "; ".join(model.lost_prompts(prompts))
    text = f"trained with {lost}, which this export does not put before texts: do it where they are served"
    return {"prompts": text} if lost else {}


def _prompts_of_source(
    name: str, source: Collection, defaults: tuple[str | None, str | None], *, is_mixture: bool, adopted: bool
) -> Iterable[NamedPrompt]:
    """The prompts of a data set that need a name beside the `defaults`, those of the evaluated one: in a mixture all if
    one of the two is set, else those that differ."""
    given = (_query_prompt(source, _train(source)), source.document_prompt)
    for role, default, own in zip(("query", "document"), defaults, given, strict=True):
        text = default if adopted and own is None else own
        if text != default or (is_mixture and text is not None):
            yield NamedPrompt(name if role == "query" else f"{name}_document", text, name, role)


def _train(source: Collection) -> list[Split]:
    return [source.splits["train"]] if "train" in source.splits else []


def _row_prompts(splits: Iterable[Split]) -> Iterable[str]:
    """The rows' own prompts, one per query that has one."""
    return (text for split in splits for query, text in split.prompts.items() if query in split.queries)


def _query_prompt(source: Collection, splits: Iterable[Split]) -> str | None:
    """The prompt of queries: the data set's if any row has no prompt of its own, else one of the rows', the data set's
    if it is among them, or the most frequent."""
    splits = list(splits)
    rows = Counter(_row_prompts(splits))
    if rows.total() < sum(len(split.queries) for split in splits) or not rows or source.query_prompt in rows:
        return source.query_prompt
    return rows.most_common(1)[0][0]


def _name_of(text: str) -> str:
    """A name of a row's prompt: its first words, with the marks of scripts that write vowels as such."""
    kept = "".join(sign if category(sign)[0] in "LMN" else " " for sign in text.lower())
    return "_".join(kept.split())[:40].strip("_") or "prompt"


def _with_free_names(prompts: Iterable[NamedPrompt]) -> tuple[NamedPrompt, ...]:
    """The prompts with different names, none of which is a role's."""
    taken: dict[str, NamedPrompt] = {}
    for prompt in prompts:
        name = free_name(prompt.name, {*ROLES, *taken})
        taken[name] = NamedPrompt(name, prompt.text, prompt.whose, prompt.role)
    return tuple(taken.values())
