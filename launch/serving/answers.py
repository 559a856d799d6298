"""What a model answers to requests, several of them at once: the JSON of each response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.serving.errors import Refused, backend_error, invalid
from launch.serving.requests import EmbedRequest, RerankRequest

if TYPE_CHECKING:
    from plackett import Embedder, Reranker

Answer = Any  # the JSON of a response, or Refused


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


def embedding(embedder: Embedder) -> Callable[[Sequence[EmbedRequest]], list[Answer]]:
    """Make the function that answers /embed: a vector per text. Requests of the same prompt are embedded together."""

    def answer(requests: Sequence[EmbedRequest]) -> list[Answer]:
        answers: list[Answer] = [None] * len(requests)
        for name in dict.fromkeys(request.prompt_name for request in requests):
            own = [index for index, request in enumerate(requests) if request.prompt_name == name]
            texts = [text for index in own for text in requests[index].texts]
            role, prompt = prompt_of(embedder, name)
            found = embedder.embed(texts, role=role, prompt=prompt)
            for index, part in zip(own, parts([requests[index].size for index in own]), strict=True):
                request, vectors = requests[index], found.vectors[part]
                refused = refusal(request.truncate, found.cut[part], vectors, embedder.max_length)
                answers[index] = refused or shaped(vectors, request).tolist()
        return answers

    return answer


def check_embed(embedder: Embedder, request: EmbedRequest) -> None:
    """Raise `Refused` if the model has not what a request names."""
    prompt_of(embedder, request.prompt_name)
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


def shaped(vectors: np.ndarray, request: EmbedRequest) -> np.ndarray:
    """The embeddings [texts, dim] cut to the request's dimensions and scaled to unit length, as it says."""
    vectors = vectors[:, : request.dimensions]
    if request.normalize is False:
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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
