"""What a model answers to requests, several of them at once: the JSON of each response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from launch.serving.errors import Refused, backend_error, invalid
from launch.serving.requests import EmbedRequest, EmbedSparseRequest, RerankRequest

if TYPE_CHECKING:
    from plackett import Embedder, Reranker

Answer = Any  # the JSON of a response, or Refused
AnyEmbedding = TypeVar("AnyEmbedding", bound=EmbedSparseRequest)


@dataclass(frozen=True)
class Service:
    """What a server does with a model: it answers requests of one kind at one path."""

    path: str  # one of launch.serving.app.GIVES
    kind: type[RerankRequest] | type[EmbedSparseRequest]
    answer: Callable[[Sequence[Any]], list[Answer]]
    check: Callable[[Any], None]  # raises `Refused` for a request that does not fit the model
    model_type: dict[str, Any]  # in /info


def service_of(model: Reranker | Embedder) -> Service:
    """The service that fits a model, by what it gives."""
    if model.kind == "reranker":
        labels = {"id2label": {"0": "0"}, "label2id": {"0": 0}}
        return Service("/rerank", RerankRequest, reranking(model), lambda _: None, {"reranker": labels})
    pooling = {"embedding": {"pooling": "splade" if model.is_sparse else model.pooling}}
    if model.is_sparse:
        check = partial(check_prompt, model)
        return Service("/embed_sparse", EmbedSparseRequest, embedding(model, nonzeros), check, pooling)
    return Service("/embed", EmbedRequest, embedding(model, shaped), partial(check_embed, model), pooling)


def reranking(reranker: Reranker) -> Callable[[Sequence[RerankRequest]], list[Answer]]:
    """Make the function that answers /rerank: [{"index", "score", "text"}], best first, equal scores in their given
    order. The pairs of all requests are scored together."""

    def answer(requests: Sequence[RerankRequest]) -> list[Answer]:
        found = reranker.score([(request.query, text) for request in requests for text in request.texts])
        answers = []
        for request, part in zip(requests, parts([request.size for request in requests]), strict=True):
            raw, cut = found.raw[part], found.cut[part]
            refused = refusal(request.truncate, cut[:, 1], raw, reranker.max_length, cut[:, 0])
            scores = (raw if request.raw_scores else found.scores[part]).tolist()
            order = np.argsort(-raw, kind="stable").tolist()
            texts = [{"text": text} if request.return_text else {} for text in request.texts]
            answers.append(refused or [{"index": index, **texts[index], "score": scores[index]} for index in order])
        return answers

    return answer


def embedding(
    embedder: Embedder, form: Callable[[np.ndarray, AnyEmbedding], list[Any]]
) -> Callable[[Sequence[AnyEmbedding]], list[Answer]]:
    """Make the function that answers /embed or /embed_sparse: a row per text, of which `form` makes JSON. Requests of
    the same prompt are embedded together."""

    def answer(requests: Sequence[AnyEmbedding]) -> list[Answer]:
        answers: list[Answer] = [None] * len(requests)
        for name in dict.fromkeys(request.prompt_name for request in requests):
            own = [index for index, request in enumerate(requests) if request.prompt_name == name]
            texts = [text for index in own for text in requests[index].texts]
            role, prompt = prompt_of(embedder, name)
            found = embedder.embed(texts, role=role, prompt=prompt)
            for index, part in zip(own, parts([requests[index].size for index in own]), strict=True):
                request, vectors = requests[index], found.vectors[part]
                refused = refusal(request.truncate, found.cut[part], vectors, embedder.max_length)
                answers[index] = refused or form(vectors, request)
        return answers

    return answer


def check_prompt(embedder: Embedder, request: EmbedSparseRequest) -> None:
    """Raise `Refused` if the model has no prompt of the name that a request gives."""
    prompt_of(embedder, request.prompt_name)


def check_embed(embedder: Embedder, request: EmbedRequest) -> None:
    """Raise `Refused` if the model has not what a request names."""
    check_prompt(embedder, request)
    if request.dimensions is not None and request.dimensions > embedder.dimension:
        raise invalid(f"dimensions: the model has {embedder.dimension}")


def prompt_of(embedder: Embedder, name: str | None) -> tuple[Any, str | None]:
    """The role and the prompt of `prompt_name`. "query" and "document" are roles; they need no prompt."""
    if name in ("query", "document", None):
        return name, None
    if name not in embedder.prompts:
        known = ", ".join(dict.fromkeys(["query", "document", *embedder.prompts]))
        raise invalid(f"prompt_name: the model has {known}")
    return None, embedder.prompts[name]


def shaped(vectors: np.ndarray, request: EmbedRequest) -> list[list[float]]:
    """The embeddings [texts, dim] cut to the request's dimensions and scaled to unit length, as it says."""
    vectors = vectors[:, : request.dimensions]
    if request.normalize is not False:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rows: list[list[float]] = vectors.tolist()
    return rows


def nonzeros(vectors: np.ndarray, _: EmbedSparseRequest) -> list[list[dict[str, float]]]:
    """The weights of each text that are not 0, and their tokens: [{"index", "value"}] in the order of the indices."""
    found = []
    for row in vectors:  # [vocabulary]
        (places,) = row.nonzero()
        pairs = zip(places.tolist(), row[places].tolist(), strict=True)
        found.append([{"index": index, "value": value} for index, value in pairs])
    return found


def parts(sizes: Sequence[int]) -> list[slice]:
    """The slices of consecutive parts of these sizes."""
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def refusal(
    truncate: bool | None, cut: np.ndarray, values: np.ndarray, max_length: int, query_cut: np.ndarray | None = None
) -> Refused | None:
    """The error of a request whose query or texts are too long and may not be cut, or whose results are no numbers.
    `cut` and `query_cut` [texts]: the tokens that were cut."""
    if not truncate and query_cut is not None and (query_cut > 0).any():
        return invalid(f"the query is too long for a pair of {max_length} tokens: set truncate", 413)
    if not truncate and (cut > 0).any():
        return invalid(f"text {int((cut > 0).argmax())} is longer than {max_length} tokens: set truncate", 413)
    return None if np.isfinite(values).all() else backend_error()
