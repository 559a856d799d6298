"""Serve a trained reranker or embedding model over HTTP, with the requests of text-embeddings-inference.

  python launch/serve.py outputs/RUN/model                  http://127.0.0.1:3000, POST /rerank, /embed or /embed_sparse
  python launch/serve.py HUB_ID --port 8080 --max-texts 256        another port; more texts per request
  python launch/serve.py HUB_ID --host 0.0.0.0                     for other machines: there is no authentication
  curl 127.0.0.1:3000/rerank -H 'content-type: application/json' -d '{"query": "a", "texts": ["b", "c"]}'
  python launch/serve.py HUB_ID --max-queue 64 --timeout 5          less waiting: 429 and 503 sooner

Scores and embeddings are those of `plackett.load(MODEL)`. Requests that arrive together run together. docs/serving.md
has the requests, the limits and their errors. It needs: pip install -c constraints.txt -e '.[serve]'
"""

from __future__ import annotations

try:
    import argparse
    import importlib.util
    import ipaddress
    import math
    import signal
    import socket
    from collections.abc import Sequence
    from typing import TYPE_CHECKING, Any

    from launch.cli.arguments import Parser, run_command
    from models.prompts.template import TEMPLATES
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from launch.serving.app import Limits

# Messages about models name the arguments of plackett.load; these are the flags in their places.
OPTION_NAMES = {
    "give trust_remote_code=True": "launch/serve.py runs none",
    "give template=": "choose --template of",
    "template=NAME": "--template NAME",
    "max_length=": "--max-length=",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is not installed: pip install -c constraints.txt -e '.[serve]'")
    with bind(options.host, options.port) as listener:
        serve(options, listener)


def serve(options: argparse.Namespace, listener: socket.socket) -> None:
    """Load the model and answer requests until a signal stops the process."""
    import uvicorn  # it, torch and transformers only once the arguments are known to be right

    from launch.serving.app import Limits
    from launch.serving.connection import connection_class

    limits = Limits(options.max_body_bytes, options.max_texts, options.max_queue, timeout_s=options.timeout)
    app = application(options, limits)
    config = uvicorn.Config(
        app,
        http=connection_class(options.timeout),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        backlog=options.max_connections,
        server_header=False,
        limit_concurrency=options.max_connections,
        timeout_graceful_shutdown=math.ceil(options.timeout),
    )
    listener.listen(options.max_connections)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {options.model} on http://{shown}:{port}{app.state.path}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn stops at it, and then raises it again
    uvicorn.Server(config).run(sockets=[listener])


def application(options: argparse.Namespace, limits: Limits) -> Starlette:
    """Load the model and make the application that serves it."""
    from launch.serving.answers import service_of
    from launch.serving.app import make_app
    from models.loading.kind import embedder_class
    from plackett.loading import load

    if options.template is None and not embedder_class(options.model).one_vector:
        raise ValueError(
            f"model {options.model} gives a vector per token, and /embed answers with one per text: "
            "plackett.load reads the model in Python, encode and similarity compare by it"
        )
    model = load(
        options.model,
        max_length=options.max_length,
        template=options.template,
        special_tokens=options.special_tokens,
    )
    hosts = [*LOOPBACK, options.host] if is_loopback(options.host) else None
    service = service_of(model)
    app = make_app(service, info(options, model.max_length, service.model_type), limits, hosts)
    app.state.path = service.path
    return app


def info(options: argparse.Namespace, max_length: int, model_type: dict[str, Any]) -> dict[str, Any]:
    """The content of /info, by the names of text-embeddings-inference."""
    from engines.distributed.process_group import device
    from inference.local import token_budget
    from plackett import __version__

    return {
        "model_id": options.model,
        "model_dtype": "float32",
        "model_type": model_type,
        "max_concurrent_requests": options.max_queue,
        "max_input_length": max_length,
        "max_batch_tokens": token_budget(device()),
        "max_client_batch_size": options.max_texts,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": __version__,
    }


def bind(host: str, port: int) -> socket.socket:
    """Take the address, before a model is loaded. Raises ValueError, naming the flag, if it cannot be had."""
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = error.strerror or str(error)
        raise ValueError(f"--host {host} --port {port}: {reason}: choose others (port 0: any free one)") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", help="outputs/RUN/model, another folder or a hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=3000, metavar="N", help="(default 3000; 0: any free one)")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="per text, or pair of query and text")
    parser.add_argument(
        "--template",
        choices=sorted(TEMPLATES),
        help="the prompt of a language model whose folder has none, as a copy of Qwen3-Reranker",
    )
    parser.add_argument(
        "--special-tokens",
        action="store_true",
        help="read [SEP], <|im_end|> and the like in texts as control tokens, for models trained so elsewhere",
    )
    limits = [
        ("--max-texts", 128, "texts of a request (413 above)"),
        ("--max-body-bytes", 2_000_000, "bytes of a request (413 above)"),
        ("--max-queue", 512, "requests that wait for the model (429 above)"),
        ("--max-connections", 512, "open connections (503 above)"),
    ]
    for flag, default, about in limits:
        parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{about}, default {default:,}")
    about = "to send a request (408 above), and to wait for its answer (503 above), default 30"
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help=about)
    options = parser.parse_args(arguments)
    for name in ("max_length", "max_texts", "max_body_bytes", "max_queue", "max_connections"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not 0 < options.timeout < float("inf"):
        raise ValueError(f"--timeout must be above 0, got {options.timeout}")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {options.port}")
    return options


if __name__ == "__main__":
    run_command(main, OPTION_NAMES)
