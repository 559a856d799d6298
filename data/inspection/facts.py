"""What a report says of a data set beside its tables and findings: what is said, and the values in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from data.collection import Collection
from data.degrees import are_pairs
from data.formats.columns import ListRecord
from data.inspection.content import Content
from data.inspection.measures import Spread
from data.inspection.tokens import TokenCounts
from data.truncation import cut_line


def facts_of(content: Content, collection: Collection | None, tokens: TokenCounts | None) -> Iterator[tuple[str, str]]:
    """The facts of a data set. `collection` is what training makes of it, if that is known."""
    yield "queries", _queries(content, collection)
    lists = [{judgement.document for judgement in group} for group in content.groups()]
    if (sizes := Spread.of(map(len, lists))) is not None:
        yield "documents per list", str(sizes)
    listed = Counter(document for documents in lists for document in documents)
    repeated = sum(count > 1 for count in listed.values())
    what = "documents whose texts were looked at" if content.has_ids else "different texts"
    yield "documents", f"{len(content.documents):,} {what}, {repeated:,} of them in several lists"
    yield from _of_rows(content.records)
    if degrees := next(iter(content.degrees.values()), ""):
        pairs = are_pairs([dict.fromkeys(documents, 1.0) for documents in lists])
        evaluation = "eval=similarity is used" if pairs else "eval=similarity measures them"
        remedy = "data.relevant_from=X makes labels of X and more relevant, loss=bce_soft takes labels from 0 to 1"
        yield "degrees of similarity", f"{degrees}; {evaluation}; {remedy}"
    yield "tokens", _tokens(tokens)


def _queries(content: Content, collection: Collection | None) -> str:
    if collection is None:
        return f"{', '.join(f'{name} {len(own):,}' for name, own in content.queries.items())} (as read)"
    splits = ", ".join(f"{name} {len(split.queries):,}" for name, split in collection.splits.items())
    if not content.has_ids:
        return f"{splits} (rows of one query are one list)"
    is_drawn = not collection.splits.keys() <= set(content.judged_splits)
    return f"{splits}{' (dev is held out of train)' * is_drawn}"


def _of_rows(records: Sequence[ListRecord]) -> Iterator[tuple[str, str]]:
    scores = [score for record in records for score in record.scores or ()]
    if (spread := Spread.of(scores)) is not None:
        scored = sum(record.scores is not None for record in records)
        yield f"teacher scores in {scored} of {len(records)} rows", str(spread)
    if (number := len({record.weight for record in records})) > 1:
        yield "weights", f"{number} different ones"
    if (number := len({record.prompt for record in records})) > 1:
        yield "prompts", f"{number} different ones"


def _tokens(tokens: TokenCounts | None) -> str:
    if tokens is None:
        return "not counted; model=NAME model.name_or_path=PATH says how many texts that model cuts"
    if tokens.truncation is None:
        return "not counted by this model"
    line = cut_line({"": tokens.truncation}, tokens.limits).partition(" (raise")[0].partition(": ")[2]
    none = f"no text is longer than {' or '.join(f'{option}={length}' for option, length in tokens.limits.items())}"
    return f"{line or none}{f', in {tokens.sampled}' if tokens.sampled else ''} ({tokens.model})"
