"""Find labels that contradict each other, and queries that nothing answers."""

from __future__ import annotations

from collections.abc import Iterator

from data.collection import normalised
from data.inspection.content import Content, Judgement
from data.inspection.finding import Finding, counted, first_few, have, shorten


def find_label_problems(content: Content) -> Iterator[Finding]:
    """The findings about labels."""
    conflicts: list[str] = []
    negatives: list[str] = []
    for group in content.groups():
        degrees = bool(content.degrees.get(group[0].split))
        conflicts += _conflicts(content, group)
        negatives += [] if degrees else _positives_as_negatives(content, group)
    if conflicts:
        yield Finding(
            "warning" if content.skips else "error",
            "conflicting labels",
            f"{counted(len(conflicts), 'document')} {have(len(conflicts))} two labels for one query"
            f"{', and the later row will be left out' * content.skips}",
            "keep one label of each query and document",
            first_few(conflicts),
        )
    if negatives:
        yield Finding(
            "warning",
            "positives as negatives",
            f"{counted(len(negatives), 'negative')} {'is' if len(negatives) == 1 else 'are'} a positive of the same "
            "query, or the query itself (equal up to case and spacing), and will be no negatives",
            "correct the labels, or remove these negatives",
            first_few(negatives),
        )
    yield from _opposite_preferences(content)
    yield from _conflicts_of_spellings(content)
    yield from _own_answers(content)
    yield from _unanswered(content)


def _conflicts(content: Content, group: list[Judgement]) -> Iterator[str]:
    """The documents with two labels, in rows whose labels are given (in tuples the positive counts)."""
    first: dict[str, Judgement] = {}
    for judgement in group:
        other = first.setdefault(judgement.document, judgement)
        if None in (other.label, judgement.label) or judgement.kind == "tuples":
            continue
        if other.label != judgement.label:
            yield (
                f"{judgement.where}: {judgement.label:g}, at {other.where} {other.label:g}: query "
                f"{shorten(_query(content, judgement), 40)!r}, document {shorten(_document(content, judgement), 40)!r}"
            )


def _positives_as_negatives(content: Content, group: list[Judgement]) -> Iterator[str]:
    negatives = [judgement for judgement in group if judgement.label is not None and judgement.label <= 0]
    positives = [judgement for judgement in group if judgement.label is not None and judgement.label > 0]
    if not negatives or not positives:
        return
    texts = {normalised(_document(content, judgement)): judgement for judgement in positives}
    own = "" if content.has_ids else normalised(_query(content, group[0]))
    for judgement in negatives:
        text = normalised(_document(content, judgement))
        positive = texts.get(text)
        if positive is not None and text and (judgement.kind == "tuples" or positive.document != judgement.document):
            place = "the same row" if positive.where == judgement.where else positive.where
            yield f"{judgement.where}: positive in {place}: {shorten(_document(content, judgement), 60)!r}"
        elif text and text == own:
            yield f"{judgement.where}: the query itself: {shorten(_document(content, judgement), 60)!r}"


def _opposite_preferences(content: Content) -> Iterator[Finding]:
    """Preferences of one query that say the opposite of each other."""
    first: dict[tuple[str, str, str], str] = {}
    opposite = []
    for group in content.groups():
        if group[0].kind != "preferences" or len(group) != 2:
            continue
        chosen, rejected = (judgement.document for judgement in group)
        query = group[0].query
        first.setdefault((query, chosen, rejected), group[0].where)
        if chosen != rejected and (query, rejected, chosen) in first:
            opposite.append(f"{group[0].where}: as {first[query, rejected, chosen]}, the other way round")
    if opposite:
        yield Finding(
            "warning",
            "conflicting labels",
            f"{counted(len(opposite), 'preference')} {have(len(opposite))} an opposite one",
            "keep one of the two",
            first_few(opposite),
        )


def _conflicts_of_spellings(content: Content) -> Iterator[Finding]:
    """Documents that are relevant to a query, and not relevant to one that differs in case or spacing alone."""
    first: dict[tuple[str, str, str], Judgement] = {}
    found = []
    for judgement in _of_respelled_queries(content):
        if judgement.label is None or content.degrees.get(judgement.split):
            continue
        texts = normalised(judgement.query), normalised(_document(content, judgement))
        other = first.setdefault((judgement.split, *texts), judgement)
        if other.query != judgement.query and ((other.label or 0) > 0) != (judgement.label > 0):
            found.append(
                f"{judgement.where}: {judgement.label:g}, at {other.where} {other.label:g}: query "
                f"{shorten(_query(content, judgement), 40)!r}, document {shorten(_document(content, judgement), 40)!r}"
            )
    if found:
        yield Finding(
            "warning",
            "conflicting labels",
            f"{counted(len(found), 'document')} {have(len(found))} two labels for queries that are equal up to case "
            "and spacing",
            "write the queries alike, and keep one label of each document",
            first_few(found),
        )


def _of_respelled_queries(content: Content) -> list[Judgement]:
    """The judgements of queries that are equal to others up to case and spacing, in data without ids."""
    if content.has_ids:
        return []
    spellings: dict[tuple[str, str], set[str]] = {}
    for split, queries in content.queries.items():
        for key in queries:
            spellings.setdefault((split, normalised(key)), set()).add(key)
    respelled = {(split, key) for (split, _), keys in spellings.items() if len(keys) > 1 for key in keys}
    return [each for each in content.judgements if (each.split, each.query) in respelled] if respelled else []


def _own_answers(content: Content) -> Iterator[Finding]:
    """Positives that are the query itself, of data without ids. (Rankings of other data leave such documents out.)"""
    if content.has_ids:
        return
    positives = [each for each in content.judgements if (each.label or 0) > 0 and not content.degrees.get(each.split)]
    queries = {
        split: {key: normalised(text) for key, (_, text) in own.items()} for split, own in content.queries.items()
    }
    found = [
        f"{each.where}: {shorten(_document(content, each), 60)!r}"
        for each in positives
        if normalised(_document(content, each)) == queries[each.split][each.query] != ""
    ]
    if found:
        number = len(found)
        yield Finding(
            "warning",
            "queries as positives",
            f"{number:,} of {counted(len(positives), 'positive')} {'is' if number == 1 else 'are'} the query itself "
            "(equal up to case and spacing), and will teach nothing but that",
            "give the answers, unless it is meant so (SimCSE)",
            first_few(found),
        )


def _unanswered(content: Content) -> Iterator[Finding]:
    """Queries of judgements none of which is relevant. (Rows of a file may be negatives alone.)"""
    if not content.has_ids:
        return
    groups = list(content.groups())
    found = [group for group in groups if not any((judgement.label or 0) > 0 for judgement in group)]
    if found and len(found) < len(groups):
        yield Finding(
            "warning",
            "queries without a relevant document",
            f"{len(found):,} of {len(groups):,} judged queries {have(len(found))} no relevant document, and will be "
            "left out",
            "judge a document of each of them relevant, or remove them",
            first_few([f"{group[0].where}: query {group[0].query!r}" for group in found]),
        )


def _query(content: Content, judgement: Judgement) -> str:
    return content.queries[judgement.split][judgement.query].text


def _document(content: Content, judgement: Judgement) -> str:
    found = content.documents.get(judgement.document)
    return found.text if found is not None else ""
