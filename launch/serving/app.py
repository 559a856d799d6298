"""The HTTP server: routes, limits of a request and of a connection, errors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from engines.memory.allocator import return_freed_memory
from launch.serving.answers import Service
from launch.serving.batching import Batcher
from launch.serving.errors import Refused, invalid, other_model, unhealthy
from launch.serving.requests import parse

GIVES = {  # what the model gives that answers at each path
    "/rerank": "scores of texts for a query",
    "/embed": "dense embeddings",
    "/embed_sparse": "sparse embeddings",
}
DRAINED = 8  # times the allowed size: so much of a body that is too large is read, so that its sender reads the error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of requests; each that is exceeded is an error of that request alone."""

    max_body_bytes: int = 2_000_000
    max_texts: int = 128  # of a request
    max_queue: int = 512  # requests that wait for the model
    max_batch: int = 256  # texts that the model is given at once
    timeout_s: float = 30.0  # to send a request; and to wait for its answer


def make_app(
    service: Service,
    info: Mapping[str, Any],
    limits: Limits,
    allowed_hosts: list[str] | None = None,
) -> Starlette:
    """Make the application: POST at the path of `service` is answered, at the paths of other models refused; GET
    /health and /info tell of the server. `allowed_hosts`: names that a request may give the server; None: any."""
    batcher = Batcher(
        service.answer,
        max_queue=limits.max_queue,
        max_batch=limits.max_batch,
        timeout_s=limits.timeout_s,
        tidy=return_freed_memory,  # batches of many shapes leave holes in the heap
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    async def infer(request: Request) -> Response:
        parsed = parse(service.kind, await read_body(request, limits), limits.max_texts)
        service.check(parsed)
        return as_json(await batcher.submit(parsed))

    async def refuse(_: Request) -> Response:
        raise other_model(GIVES[service.path], service.path)

    async def health(_: Request) -> Response:
        if not batcher.is_healthy:
            raise unhealthy()
        return Response()

    async def about(_: Request) -> Response:
        return as_json(info)

    handlers = {path: infer if path == service.path else refuse for path in GIVES}
    routes = [
        *(Route(path, guarded(handle, allowed_hosts), methods=["POST"]) for path, handle in handlers.items()),
        Route("/health", guarded(health, allowed_hosts), methods=["GET"]),
        Route("/info", guarded(about, allowed_hosts), methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: no_route})


Handler = Callable[[Request], Awaitable[Response]]


def guarded(handle: Handler, allowed_hosts: list[str] | None) -> Handler:
    """Make a handler that gives errors as JSON. What a bug says is not logged, as it may quote a text."""

    async def guard(request: Request) -> Response:
        try:
            check_host(request, allowed_hosts)
            return await handle(request)
        except Refused as refused:
            return error_response(refused)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            logger.error("a request has failed: %s", type(error).__name__)
            return error_response(Refused(500, "Backend", "the server failed on this request"))

    return guard


def check_host(request: Request, allowed: list[str] | None) -> None:
    """Raise `Refused` if the request names another server than this one: a page of another site may have a name that
    leads to this machine."""
    host = request.headers.get("host", "").strip().lower()
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    if allowed is not None and name not in allowed:
        raise invalid("the header Host names another server: this one answers to its own address alone", 400)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body of a request. Raises `Refused` if it is no JSON by its type, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another site cannot send from a browser
        raise invalid("the content type must be application/json", 415)
    body, total = bytearray(), 0

    async def read() -> None:
        nonlocal total
        async for chunk in request.stream():
            total += len(chunk)
            if total <= limits.max_body_bytes:
                body.extend(chunk)
            elif total > DRAINED * limits.max_body_bytes:
                return

    try:
        await asyncio.wait_for(read(), limits.timeout_s)
    except asyncio.TimeoutError:
        message = f"the request was not sent within {limits.timeout_s:g} s"
        raise Refused(408, "Validation", message, closes=True) from None
    if total > limits.max_body_bytes:
        message = f"the request has more than {limits.max_body_bytes} bytes"
        raise Refused(413, "Validation", message, closes=True)
    return bytes(body)


async def no_route(_: Request, error: Exception) -> Response:
    """Answer a request for an unknown path (404) or of another method (405)."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: this server has POST {', '.join(GIVES)}, one of which answers, GET /health, /info"
    return error_response(Refused(error.status_code, "Validation", message))


def error_response(refused: Refused) -> Response:
    response = as_json(refused.content, refused.status)
    if refused.closes:
        response.headers["connection"] = "close"
    return response


def as_json(content: Any, status: int = 200) -> Response:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")
