"""InfoNCE and its variants: directions, decoupled, false-negative masks, GIST, hardness weighting, margins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import MatrixLoss
from losses.math.checks import check_at_least, check_finite, check_one_of, check_positive
from losses.math.in_batch import IN_BATCH, TEXT_INPUTS, InBatch
from losses.math.masking import rows_where
from losses.math.share import ALONE, Share
from losses.math.similarity import COSINE, DOT, Similarity
from losses.math.tiles import Tile

DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc")
WITHIN_ROLES = DIRECTIONS[2:]  # they compare texts of one role


@dataclass(frozen=True)
class InfoNCE(MatrixLoss):
    """-log(e^{s+ / T} / Z), Z = e^{s+ / T} + sum over negatives e^{s- / T}  (van den Oord et al. 2018, 1807.03748).

    A *pair* (q, p) is a query and one document of its list whose label is above 0. Each pair has its own softmax,
    without the query's other positives. The loss is the mean over a query's pairs, then over the queries that have a
    pair (times `weights`, divided by the number of these queries). The negatives of a pair, by direction:

    | direction | similarities | over |
    |---|---|---|
    | query_to_doc | q . d | the other documents of its list (hard negatives) and, by `in_batch`, those of other lists |
    | doc_to_query | p . q' | the queries of the other lists |
    | query_to_query | q . q' | the queries of the other lists |
    | doc_to_doc | p . d | the documents of other lists, by `in_batch` |

    `partition_mode` joint: one softmax over the negatives of all directions. The positive is in it once for
    query_to_doc and once for doc_to_query, as in GTE (Li et al. 2023, 2308.03281). per_direction: one softmax for each
    direction, each with the positive, then their mean; query_to_doc and doc_to_query together are the symmetric loss.
    `decoupled` leaves the positive out of Z (DCL; Yeh et al. 2022, 2110.06848). A softmax without negatives is 0.

    These are masked, that is *no* negatives of (q, p); the positive itself is never masked:

    - `mask_duplicates`: a document whose text is a positive of q in any list of the batch, and a query that has the
      text of p as a positive. So copies of p are masked, and, if two queries are equal, the positives of one for the
      other (Gemini Embedding; Lee et al. 2025, 2503.07891: q_i = q_j or p_i = p_j). Likewise the texts of
      `never_negatives`: documents that the data judge relevant for q or exclude, though they are in no list of q, and
      the text of q. Off: only q's own positives and q itself.
    - `margin`: a similarity above s+ + margin (absolute) or s+ + margin |s+| (relative), in every direction (Qwen3
      Embedding; Zhang et al. 2025, 2506.05176: 0.1).
    - `guide_margin` (GIST): a cosine of a guide model's embeddings above guide+ - margin (absolute) or
      guide+ - margin |guide+| (relative) (Solatorio 2024, 2402.16829).

    Hardness: `hardness_strength` * sg(s), not divided by T, is added to the negative logits of query_to_doc: those of
    the query's list (EmbeddingGemma, 2509.20354: 5), of other lists (Lan et al. 2025, 2503.04812: 9) or all.

    A list that the data isolate (`data.in_batch=false`) has the negatives of its own list and the direction
    query_to_doc alone, and is no negative of others.

    `positive_margin` makes the positive harder: CosFace s+ - m (Wang et al. 2018, 1801.09414), or ArcFace
    |q||p| cos(theta + m), which beyond theta + m = pi becomes s+ - |q||p| m sin m (Deng et al. 2019, 1801.07698).

    A similarity that is not symmetric (MaxSim) compares a query with a document in query_to_doc and in doc_to_query;
    query_to_query and doc_to_doc are refused.

    The temperature is fixed, or null to use the model's `scale` = 1 / T. The model sets its bounds (such as at most
    100). Padding is neither a query, a positive nor a negative.

    Cost: (Q n)^2 d at most; in blocks, memory Q n d.

    Raises:
        ValueError: options that have no meaning, alone or together.
    """

    sharded: ClassVar[bool] = True

    temperature: float | None = 0.05
    directions: tuple[str, ...] = ("query_to_doc",)
    partition_mode: str = "joint"
    in_batch: str = "all"
    decoupled: bool = False
    mask_duplicates: bool = True
    margin: float | None = None
    margin_strategy: str = "absolute"
    guide_margin: float | None = None
    guide_margin_strategy: str = "absolute"
    hardness_mode: str | None = None
    hardness_strength: float = 0.0
    positive_margin: float = 0.0
    positive_margin_form: str = "cosface"

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        if not self.directions or len(set(self.directions)) != len(self.directions):
            raise ValueError(f"directions={list(self.directions)} must be one or more of: {', '.join(DIRECTIONS)}")
        for direction in self.directions:
            check_one_of("directions", direction, DIRECTIONS)
        check_one_of("partition_mode", self.partition_mode, ("joint", "per_direction"))
        check_one_of("in_batch", self.in_batch, IN_BATCH)
        if self.in_batch == "none" and set(self.directions) != {"query_to_doc"}:
            raise ValueError("in_batch=none leaves negatives to query_to_doc only: set directions=[query_to_doc]")
        for name in ("margin", "guide_margin"):
            check_one_of(f"{name}_strategy", getattr(self, f"{name}_strategy"), ("absolute", "relative"))
            if getattr(self, name) is not None:
                check_finite(name, getattr(self, name))
            elif getattr(self, f"{name}_strategy") != "absolute":
                raise ValueError(f"{name}_strategy={getattr(self, f'{name}_strategy')} needs {name}: set it")
        self._check_hardness()
        check_at_least("positive_margin", self.positive_margin, 0.0)
        check_one_of("positive_margin_form", self.positive_margin_form, ("cosface", "arcface"))

    def _check_hardness(self) -> None:
        check_at_least("hardness_strength", self.hardness_strength, 0.0)
        if self.hardness_mode is not None:
            check_one_of("hardness_mode", self.hardness_mode, ("in_batch_negatives", "hard_negatives", "all_negatives"))
        mode = f"hardness_mode={self.hardness_mode}"
        if (self.hardness_mode is None) != (self.hardness_strength == 0):
            raise ValueError(f"{mode} with hardness_strength={self.hardness_strength}: set both or neither")
        if self.hardness_mode is not None and "query_to_doc" not in self.directions:
            raise ValueError(f"{mode} weighs negatives of query_to_doc: add it to directions")

    @property
    def data_requirements(self) -> tuple[str, ...]:
        return ("relevance",) if self.in_batch == "none" else ("positive",)

    @property
    def masks_misordered(self) -> bool:
        """True if `margin` masks negatives far above the positive."""
        return self.margin is not None

    @property
    def differentiable(self) -> bool:
        """False with hardness weighting, whose added term is a constant for the gradient."""
        return self.hardness_mode is None

    @property
    def in_batch_negatives(self) -> bool:
        return self.in_batch != "none"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            "similarity",
            *(("scale",) if self.temperature is None else ()),
            *(("query_hashes", "document_hashes") if self.mask_duplicates else ()),
            *(("guide_queries", "guide_documents") if self.guide_margin is not None else ()),
        )

    @property
    def reads_one_vector(self) -> bool:
        return bool(self.many_vectors_remedy)

    @property
    def many_vectors_remedy(self) -> str:
        """The options that let it compare texts of several vectors; empty if it does."""
        if self._within_roles:
            kept = [direction for direction in self.directions if direction not in WITHIN_ROLES] or DIRECTIONS[:1]
            return f"set loss.directions=[{','.join(kept)}]"
        arcface = self.positive_margin_form == "arcface" and self.positive_margin > 0
        return "set loss.positive_margin_form=cosface" if arcface else ""

    @property
    def _within_roles(self) -> list[str]:
        return [direction for direction in self.directions if direction in WITHIN_ROLES]

    @property
    def optional_inputs(self) -> tuple[str, ...]:
        return ("isolated", *(("never_negatives",) if self.mask_duplicates else ()))

    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        similarity: Similarity = DOT,
        share: Share = ALONE,
        **inputs: Tensor,
    ) -> Tensor:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], weights [Q] -> scalar.

        The further inputs depend on the options (see the property `inputs`): scale, a scalar; query_hashes [Q] and
        document_hashes [Q, n] int64, equal for equal texts; never_negatives [any, 2] int64, a list and the hash of a
        text that is no negative of it; isolated [Q] bool; guide_queries [Q, any] and guide_documents [Q, n, any].

        Raises ValueError if a direction compares texts of one role, and the similarity is not symmetric.
        """
        if self._within_roles and not similarity.is_symmetric:
            raise ValueError(
                f"{self._within_roles[0]} compares texts of one role, and {similarity.name} a query with a document: "
                f"{self.many_vectors_remedy}"
            )
        texts = {name: inputs.get(name) for name in TEXT_INPUTS} if self.mask_duplicates else {}
        batch = InBatch.from_lists(
            queries, documents, labels, mask, similarity, isolated=inputs.get("isolated"), share=share, **texts
        )
        rows, guides = self._rows(batch, mask, inputs)
        scalars = {"scale": inputs["scale"]} if self.temperature is None else {}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for role in ("query", "doc"):
            if directions := [direction for direction in self.directions if direction.endswith(role)]:
                values = batch.over_tiles(
                    partial(self._tile, batch, directions),
                    rows,
                    role,
                    scalars,
                    in_batch=self.in_batch,
                    guide=guides.get(role),
                )
                found |= dict(zip(directions, zip(values[::2], values[1::2], strict=True), strict=True))
        sums = torch.stack([found[direction][0].logsumexp(dim=0) for direction in self.directions])
        any_negative = torch.stack([found[direction][1].amax(dim=0) > 0 for direction in self.directions])
        return batch.mean_over_queries(self._pair_losses(batch, sums, any_negative), weights)

    def _rows(
        self, batch: InBatch, mask: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What belongs to each pair of this rank [P, ...], by name; and the embeddings of the guide by role, if there
        is one."""
        query, document = batch.queries[batch.pair_queries], batch.documents[batch.pair_documents]
        similarity = batch.similarity.aligned(query, document)
        sources = {direction.partition("_")[0] for direction in self.directions}
        rows = {role: rows for role, rows in {"query": query, "doc": document}.items() if role in sources}
        rows["similarity"] = similarity.detach()
        rows["positive"] = self._with_positive_margin(similarity, query, document)
        if self.guide_margin is None:
            return rows, {}
        guides = {
            "query": COSINE.comparable(inputs["guide_queries"].float()),
            "doc": COSINE.comparable(rows_where(inputs["guide_documents"], mask).float()),
        }
        rows["guide_query"], rows["guide_doc"] = (
            guides["query"][batch.pair_queries],
            guides["doc"][batch.pair_documents],
        )
        rows["guide"] = COSINE.aligned(rows["guide_query"], rows["guide_doc"])
        return rows, guides

    def _tile(self, batch: InBatch, directions: Sequence[str], tile: Tile) -> tuple[Tensor, ...]:
        """Return, for each direction, log of the sum of e^{negative - positive} over the columns of a tile, and whether
        there is any negative, [R] both."""
        query = batch.own_queries[batch.pair_queries[tile.row]]
        document = batch.own_documents[batch.pair_documents[tile.row]]
        scale = tile.scalars["scale"] if self.temperature is None else 1 / self.temperature
        found = []
        for direction in directions:
            source = direction.partition("_")[0]
            if direction == "doc_to_query":  # the similarity may be none of a document with a query
                similarities = batch.similarity.matrix(tile.columns["text"], tile.rows[source]).T
            else:
                similarities = batch.similarity.matrix(tile.rows[source], tile.columns["text"])
            if direction.endswith("query"):
                negative = batch.negative_queries(document, tile.column)
            else:
                negative = batch.negative_documents(query, tile.column, self.in_batch)
                if direction == "doc_to_doc":
                    negative &= ~batch.in_own_list(query, tile.column)
            if self.margin is not None:
                negative &= similarities <= max_negative(tile.rows["similarity"], self.margin, self.margin_strategy)
            if self.guide_margin is not None:
                highest = max_negative(tile.rows["guide"], -self.guide_margin, self.guide_margin_strategy)
                negative &= COSINE.matrix(tile.rows[f"guide_{source}"], tile.columns["guide"]) <= highest
            logits = (similarities - tile.rows["positive"].unsqueeze(1)) * scale
            if direction == "query_to_doc" and self.hardness_mode:
                logits = logits + self._hardness(similarities, batch.in_own_list(query, tile.column))
            logits = logits.masked_fill(~negative, torch.finfo(logits.dtype).min)
            found += [logits.logsumexp(dim=1), negative.any(dim=1).to(logits.dtype)]
        return tuple(found)

    def _pair_losses(self, batch: InBatch, sums: Tensor, found: Tensor) -> Tensor:
        """sums, found: [directions, P], as `_combine` takes them -> [P], the loss of each pair."""
        values = self._combine(sums, found)
        if not batch.any_isolated or "query_to_doc" not in self.directions:
            return values
        # The other directions compare with other lists: an isolated list has none of them in its softmax or mean.
        first = [self.directions.index("query_to_doc")]
        alone = replace(self, directions=("query_to_doc",))._combine(sums[first], found[first])
        return torch.where(batch.isolated[batch.own_queries[batch.pair_queries]], alone, values)

    def _hardness(self, similarities: Tensor, own: Tensor) -> Tensor:
        weighted = {"hard_negatives": own, "in_batch_negatives": ~own, "all_negatives": torch.ones_like(own)}
        return self.hardness_strength * similarities.detach() * weighted[self.hardness_mode or ""]

    def _with_positive_margin(self, positive: Tensor, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the similarities [P] of pairs of `queries` and `documents` [P, dim] with `positive_margin` applied."""
        if self.positive_margin_form == "cosface" or self.positive_margin == 0:
            return positive - self.positive_margin
        sin, cos = math.sin(self.positive_margin), math.cos(self.positive_margin)
        squares = queries.square().sum(-1) * documents.square().sum(-1)
        tiny = torch.finfo(squares.dtype).tiny
        other = (squares - positive.square()).clamp(min=tiny).sqrt()  # |q||p| sin(theta)
        norms = squares.clamp(min=tiny).sqrt()
        return torch.where(
            positive > -cos * norms, positive * cos - other * sin, positive - norms * self.positive_margin * sin
        )

    def _combine(self, log_sums: Tensor, any_negative: Tensor) -> Tensor:
        """Combine the directions to the loss of each pair, [P].

        log_sums: [directions, P], log of the sum of e^{negative - positive}; any_negative: [directions, P] bool.
        """
        if self.partition_mode == "joint":
            log_sums, any_negative = log_sums.logsumexp(dim=0, keepdim=True), any_negative.any(dim=0, keepdim=True)
            count = max(1, len({"query_to_doc", "doc_to_query"}.intersection(self.directions)))
        else:
            count = 1
        if not self.decoupled:
            log_sums = torch.logaddexp(log_sums, torch.full_like(log_sums, math.log(count)))
        return log_sums.where(any_negative, torch.zeros_like(log_sums)).mean(dim=0)


def max_negative(positive: Tensor, margin: float, strategy: str) -> Tensor:
    """positive [R], the positives' similarities -> [R, 1], the highest similarity that a negative may have."""
    positive = positive.detach().unsqueeze(1)
    return positive + margin * (positive.abs() if strategy == "relative" else 1)
