"""Tell labels of relevance from degrees of similarity, such as ratings from 1 to 5 or STS scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

Labels = Mapping[str, Mapping[str, float]]  # query -> document -> label


def degrees_of(labels: Labels) -> str:
    """Why the labels are degrees of similarity, in words for a message; empty if they are labels of relevance.

    Labels of relevance are integers, and 0 means not relevant. So labels are degrees if one is no integer, if they
    have several levels of which none is 0, or if they have several levels above 0 and belong to pairs. Labels of one
    level only are relevance: such rows are all positive.

    >>> degrees_of({"q": {"a": 4.8}, "r": {"a": 0.0}})
    'the label 4.8 is no integer'
    >>> degrees_of({"q": {"a": 5.0, "b": 1.0}})
    'labels go from 1 to 5 and none is 0'
    >>> degrees_of({"q": {"a": 5.0}, "r": {"a": 0.0}, "s": {"a": 2.0}})
    'labels go from 0 to 5 with one document to a query'
    >>> degrees_of({"q": {"a": 1.0}, "r": {"a": 0.0}}) or degrees_of({"q": {"a": 2.0, "b": 1.0, "c": 0.0}})
    ''
    """
    levels = {float(label) for judged in labels.values() for label in judged.values()}
    fractions = [level for level in levels if not level.is_integer()]
    if fractions:
        return f"the label {max(fractions):g} is no integer"
    if len(levels) > 1 and min(levels) > 0:
        return f"labels go from {min(levels):g} to {max(levels):g} and none is 0"
    if len([level for level in levels if level > 0]) > 1 and are_pairs(labels.values()):
        return f"labels go from {min(levels):g} to {max(levels):g} with one document to a query"
    return ""


def are_pairs(judged: Collection[Mapping[str, float]]) -> bool:
    """Whether labels belong to pairs and not to lists: at least half of them are the only one of their query."""
    sizes = Counter(map(len, judged))
    return sizes[1] * 2 >= sum(size * count for size, count in sizes.items()) > 0


def are_binary_pairs(judged: Collection[Mapping[str, float]]) -> bool:
    """Whether labels belong to pairs of two levels, 0 and one other, as pairs of duplicates do.

    >>> are_binary_pairs([{"a": 1.0}, {"a": 0.0}]), are_binary_pairs([{"a": 1.0}]), are_binary_pairs([{"a": 1, "b": 0}])
    (True, False, False)
    """
    levels = {label for labels in judged for label in labels.values()}
    return len(levels) == 2 and 0 in levels and are_pairs(judged)
