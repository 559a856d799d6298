"""The requests of text-embeddings-inference's /rerank, /embed and /embed_sparse, read from JSON and checked."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launch.serving.errors import Refused, invalid


class Request(BaseModel):
    """What every request may say: whether texts beyond the model's length are cut (or refused)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    truncate: bool | None = False
    truncation_direction: Literal["Right", "right"] | None = "Right"  # models read the beginning of a text

    @property
    def size(self) -> int:
        """The number of its texts."""
        raise NotImplementedError


class RerankRequest(Request):
    """The body of POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False

    @property
    def size(self) -> int:
        return len(self.texts)


class EmbedSparseRequest(Request):
    """The body of POST /embed_sparse. `inputs`: one text or several."""

    inputs: str | list[str]
    prompt_name: str | None = None

    @property
    def texts(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    @property
    def size(self) -> int:
        return len(self.texts)


class EmbedRequest(EmbedSparseRequest):
    """The body of POST /embed."""

    normalize: bool | None = True
    dimensions: int | None = Field(default=None, ge=1)


AnyRequest = TypeVar("AnyRequest", bound=Request)


def parse(kind: type[AnyRequest], body: bytes, max_texts: int) -> AnyRequest:
    """Read a request. Raises `Refused` if it is malformed, has no texts or too many."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid("; ".join(_lines(error))) from None
    if not request.size:
        raise Refused(400, "Empty", "there are no texts")
    if request.size > max_texts:
        raise invalid(f"batch size {request.size} > maximum allowed batch size {max_texts}", 413)
    return request


def _lines(error: ValidationError) -> list[str]:
    """What is wrong, without what was given: a message is short, whatever the request."""
    found = []
    for entry in error.errors(include_url=False, include_input=False, include_context=False)[:3]:
        place = ".".join(str(part) for part in entry["loc"])[:80]
        found.append(f"{place}: {entry['msg']}" if place else entry["msg"])
    return found
