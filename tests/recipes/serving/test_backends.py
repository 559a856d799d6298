"""Servers and further libraries: TEI by its address (a stand-in), vLLM's calls (a stand-in), and those that are
installed."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from golden_exports import copied

from inference.golden import read_golden
from recipes.serving.contract import Export
from recipes.serving.export import export_onnx
from recipes.serving.reference import Reference
from recipes.serving.verify import DIFFERS, EQUAL, FAILED, UNAVAILABLE, verify


@contextmanager
def server(answer: Callable[[str, dict], Any]) -> Iterator[str]:
    """A server whose answers to POST are `answer(path, body)`; an integer is a status. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = answer(self.path, body)
            self.send_response(content if isinstance(content, int) else 200)
            self.end_headers()
            self.wfile.write(b"too large" if isinstance(content, int) else json.dumps(content).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


class Served:
    """A model behind the request forms of text-embeddings-inference. It puts no prompt before a text itself."""

    def __init__(self, folder: Path, change: Callable[[torch.Tensor], torch.Tensor] = lambda values: values) -> None:
        self.reference = Reference.load(Export(folder, read_golden(folder)))
        self.change = change

    @torch.no_grad()
    def __call__(self, path: str, body: dict) -> Any:
        tokenizer = self.reference.tokenizer
        if path == "/rerank":
            assert body["raw_scores"]
            assert body["truncate"]
            rows = tokenizer([body["query"]] * len(body["texts"]), body["texts"], "", "")
            scores = self.change(self.reference.values(rows))
            return [{"index": index, "score": float(score)} for index, score in enumerate(scores)]
        assert (path, body["truncate"]) == ("/embed", True)
        return self.change(self.reference.values(tokenizer(body["inputs"], None, ""))).tolist()


@pytest.mark.parametrize("kind", ["cross_encoder", "lora", "bi_encoder"])
def test_a_server_is_asked_by_its_address(kind, exports):
    with server(Served(exports[kind])) as address:
        (finding,) = verify(exports[kind], ["tei"], tei=address)
    assert finding.status == EQUAL, finding
    assert finding.order == 1.0


def test_what_a_server_does_wrong_is_named(exports):
    with server(Served(exports["cross_encoder"], torch.sigmoid)) as address:
        (finding,) = verify(exports["cross_encoder"], ["tei"], tei=address)
    assert (finding.status, finding.causes) == (DIFFERS, ["activation: a sigmoid is applied"])
    with server(Served(exports["lora"], lambda vectors: vectors[:, :16])) as address:
        (finding,) = verify(exports["lora"], ["tei"], tei=address)
    assert finding.status == DIFFERS
    assert "16 dimensions, not 32" in finding.causes[0]


def test_a_server_that_refuses_or_is_not_there_fails(exports):
    with server(lambda path, body: 413) as address:
        (finding,) = verify(exports["cross_encoder"], ["tei"], tei=address)
    assert finding.status == FAILED
    assert "/rerank answers 413: too large" in finding.causes[0]
    (finding,) = verify(exports["cross_encoder"], ["tei"], tei=address)
    assert "does not answer" in finding.causes[0]


class FakeVLLM:
    """The calls of vLLM that are made, which give the golden values."""

    def __init__(self, path: str, **options: Any) -> None:
        self.golden = read_golden(Path(path))
        self.options = options
        assert (options["runner"], options["dtype"]) == ("pooling", "float32")

    def embed(self, texts: list[str], **options: Any) -> list[Any]:
        rows = self.golden.rows
        assert texts == [self.golden.prompts[row.role] + row.texts[0] for row in rows]
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=list(row.values))) for row in rows]

    def score(self, query: str, document: str, *, chat_template: str | None) -> list[Any]:
        prompted = "hf_overrides" in self.options
        assert prompted == (chat_template is not None)
        row = next(row for row in self.golden.rows if row.texts == (query, document))
        return [SimpleNamespace(outputs=SimpleNamespace(score=float(torch.tensor(row.values[0]).sigmoid())))]


@pytest.mark.parametrize("kind", ["cross_encoder", "llm", "bi_encoder"])
def test_the_calls_of_vllm(kind, exports, monkeypatch):
    module = ModuleType("vllm")
    module.LLM = FakeVLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    (finding,) = verify(exports[kind], ["vllm"])
    assert finding.status == EQUAL, finding


@pytest.mark.parametrize("kind", ["cross_encoder", "lora", "bi_encoder"])
def test_infinity_gives_the_scores_of_training(kind, exports):
    pytest.importorskip("infinity_emb")
    (finding,) = verify(exports[kind], ["infinity"])
    assert finding.status == EQUAL, finding


def test_flag_embedding_gives_the_embeddings_of_training(exports):
    pytest.importorskip("FlagEmbedding")
    (finding,) = verify(exports["lora"], ["flagembedding"])
    assert finding.status == EQUAL, finding
    (finding,) = verify(exports["bi_encoder"], ["flagembedding"])
    assert finding.status == UNAVAILABLE, "it reads no projection"


def test_openvino_gives_the_scores_of_training(exports, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    folder = copied(exports["cross_encoder"], tmp_path / "model")
    export_onnx(str(folder), None, int8=False)
    (finding,) = verify(folder, ["openvino"])
    assert finding.status == EQUAL, finding
