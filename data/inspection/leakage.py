"""Find queries that several splits share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from data.collection import normalised
from data.inspection.content import Content, Text
from data.inspection.finding import Finding, counted, first_few, have, shorten
from data.overlap import HeldOutQueries, find_overlap

PUNCTUATION = re.compile(
    r"[.,;:!?\"'()\[\]\u2018\u2019\u201c\u201d\u00ab\u00bb\u3002\u3001\uff0c\uff1f]"
)  # not signs such as + and #
PAIRS = (("train", "test"), ("train", "dev"), ("dev", "test"))


def find_leakage(content: Content) -> Iterator[Finding]:
    """The findings on the queries that two splits share: the same ones, which are left out of the first split, and
    those with the same words, which are not."""
    for split, held_out in PAIRS:
        if split not in content.queries or held_out not in content.queries:
            continue
        queries, others = content.queries[split], content.queries[held_out]
        by_text = {normalised(text): held_out for _, text in others.values()}
        by_id = dict.fromkeys(others, held_out) if content.has_ids else {}
        same = find_overlap(
            {key: text for key, (_, text) in queries.items()}, HeldOutQueries(content.name, by_text, by_id)
        )
        if same:
            yield Finding(
                "warning",
                "leakage",
                f"{len(same):,} of {len(queries):,} {split} queries {'is' if len(same) == 1 else 'are'} also in "
                f"{held_out}, and will be left out of {split}",
                f"remove them from {split} or from {held_out}",
                first_few([f"{queries[key].where}: {shorten(queries[key].text, 80)}" for key in same]),
            )
        yield from _near(split, held_out, {k: t for k, t in queries.items() if k not in same}, others)


def _near(split: str, held_out: str, queries: Mapping[str, Text], others: Mapping[str, Text]) -> Iterator[Finding]:
    words = {_words(text): where for where, text in others.values()}
    words.pop("", None)
    found = [
        f"{where}: {shorten(text, 80)}: as {words[_words(text)]}"
        for where, text in queries.values()
        if _words(text) in words
    ]
    if found:
        yield Finding(
            "warning",
            "near leakage",
            f"{counted(len(found), f'{split} query', f'{split} queries')} {have(len(found))} the "
            f"words of a {held_out} query, with other punctuation",
            f"remove them from {split}: the results on {held_out} would flatter the model",
            first_few(found),
        )


def _words(text: str) -> str:
    return " ".join(PUNCTUATION.sub(" ", normalised(text)).split())
