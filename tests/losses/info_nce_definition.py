"""InfoNCE by its definition: every pair, every direction, every candidate, one at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.info_nce import InfoNCE

Cell = tuple[int, int]  # a document: its list, and its place there


def by_definition(loss: InfoNCE, lists: dict[str, Tensor]) -> float:
    """The value of the loss for the inputs `lists`, by name."""
    return Definition(loss, lists).value()


class Definition:
    """The loss of lists, of a pair (query, positive document), and the logits of a pair's negatives."""

    def __init__(self, loss: InfoNCE, lists: dict[str, Tensor]) -> None:
        self.loss, self.lists = loss, lists
        self.queries, self.documents = lists["queries"], lists["documents"]
        self.guide_queries = F.normalize(lists["guide_queries"], dim=-1)
        self.guide_documents = F.normalize(lists["guide_documents"], dim=-1)
        self.scale = float(lists["scale"]) if loss.temperature is None else 1 / loss.temperature
        self.cells: list[Cell] = [(i, j) for i, j in lists["mask"].nonzero().tolist()]
        self.positives = [cell for cell in self.cells if lists["labels"][cell] > 0]

    def value(self) -> float:
        per_query: dict[int, list[float]] = {}
        for query, column in self.positives:
            per_query.setdefault(query, []).append(self.of_pair(query, (query, column)))
        weights = self.lists.get("weights", torch.ones(len(self.queries)))
        return sum(float(weights[i]) * sum(v) / len(v) for i, v in per_query.items()) / len(per_query)

    def of_pair(self, query: int, document: Cell) -> float:
        loss = self.loss
        similarity = float(self.queries[query] @ self.documents[document])
        if loss.positive_margin_form == "arcface":
            similarity = math.cos(math.acos(similarity) + loss.positive_margin)
        else:
            similarity -= loss.positive_margin
        logit = similarity * self.scale
        groups = [self.negatives(direction, query, document) for direction in loss.directions]
        copies = [0 if loss.decoupled else 1] * len(groups)
        if loss.partition_mode == "joint":
            twice = {"query_to_doc", "doc_to_query"} <= set(loss.directions)
            groups, copies = [[logit for group in groups for logit in group]], [copies[0] * (2 if twice else 1)]
        losses = [
            math.log(sum(map(math.exp, group)) + count * math.exp(logit)) - logit if group else 0.0
            for group, count in zip(groups, copies, strict=True)
        ]
        return sum(losses) / len(losses)

    def negatives(self, direction: str, query: int, document: Cell) -> list[float]:
        """The logits of the negatives of a pair in one direction."""
        from_query, to_query = direction.startswith("query"), direction.endswith("query")
        row = self.queries[query] if from_query else self.documents[document]
        guide_row = self.guide_queries[query] if from_query else self.guide_documents[document]
        columns = self.queries if to_query else self.documents
        guide_columns = self.guide_queries if to_query else self.guide_documents
        found = []
        for other in range(len(self.queries)) if to_query else self.cells:
            similarity, guide = float(row @ columns[other]), float(guide_row @ guide_columns[other])
            if to_query:
                skip = other == query or self.is_never_negative(other, document)
            else:
                skip = self.is_skipped_document(direction, query, other)
            if skip or self.is_false_negative(similarity, guide, query, document):
                continue
            own = not to_query and other[0] == query
            found.append(similarity * self.scale + self.hardness(direction, similarity, own=own))
        return found

    def is_never_negative(self, query: int, document: Cell) -> bool:
        if not self.loss.mask_duplicates:
            return document[0] == query and document in self.positives
        queries, documents = self.lists["query_hashes"], self.lists["document_hashes"]
        pairs = [(i, documents[i, j]) for i, j in self.positives]
        pairs += self.lists.get("never_negatives", torch.empty(0, 2)).tolist()
        return any(queries[query] == queries[i] and documents[document] == key for i, key in pairs)

    def is_skipped_document(self, direction: str, query: int, other: Cell) -> bool:
        own = other[0] == query
        in_batch = {"all": True, "positives": other in self.positives, "none": False}[self.loss.in_batch]
        return self.is_never_negative(query, other) or (own and direction == "doc_to_doc") or not (own or in_batch)

    def is_false_negative(self, similarity: float, guide: float, query: int, document: Cell) -> bool:
        """Whether the margin or the guide takes a negative for a false one."""
        loss = self.loss
        positive = float(self.queries[query] @ self.documents[document])
        guide_positive = float(self.guide_queries[query] @ self.guide_documents[document])
        return (loss.margin is not None and above(similarity, positive, loss.margin, loss.margin_strategy)) or (
            loss.guide_margin is not None
            and above(guide, guide_positive, -loss.guide_margin, loss.guide_margin_strategy)
        )

    def hardness(self, direction: str, similarity: float, *, own: bool) -> float:
        if direction != "query_to_doc" or not self.loss.hardness_mode:
            return 0.0
        weighted = {"hard_negatives": own, "in_batch_negatives": not own, "all_negatives": True}
        return self.loss.hardness_strength * similarity * weighted[self.loss.hardness_mode]


def above(value: float, positive: float, margin: float, strategy: str) -> bool:
    return value > positive + margin * (abs(positive) if strategy == "relative" else 1)
