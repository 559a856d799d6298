"""The server: requests and answers of text-embeddings-inference, limits, and a stop that loses nothing."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvicorn

import plackett
from launch.serve import application, bind, is_loopback, main, parse_arguments
from launch.serving.app import Limits
from launch.serving.connection import connection_class
from models.sparse.sparse_encoder import SparseEncoderConfig

TEXTS = ["red apple", "what is the", "green train list", "苹果", "red apple"]
LIMITS = Limits(max_body_bytes=5000, max_texts=8)
HASTY = Limits(timeout_s=2.0)


class Server:
    """A server in a thread of this process."""

    def __init__(self, folder: Path, limits: Limits = LIMITS):
        options = parse_arguments([str(folder), "--port", "0"])
        self.listener = bind(options.host, options.port)
        self.port = self.listener.getsockname()[1]
        app = application(options, limits)
        http = connection_class(limits.timeout_s)
        config = uvicorn.Config(app, http=http, ws="none", lifespan="on", log_level="error", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        while self.thread.is_alive() and not self.server.started:  # before, connections are refused
            time.sleep(0.01)

    def post(self, path: str, content: object, **headers: str) -> tuple[int, object]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", path, body, {"content-type": "application/json"} | headers)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None

    def raw(self, data: bytes) -> bytes:
        """All that comes back for these bytes, until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(data)
            parts = []
            while part := connection.recv(10000):
                parts.append(part)
        return b"".join(parts)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def reranker(tiny_reranker_dir):
    server = Server(tiny_reranker_dir)
    server.offline = plackett.load(tiny_reranker_dir)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hasty(tiny_reranker_dir):
    """A reranker's server that waits two seconds."""
    server = Server(tiny_reranker_dir, HASTY)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def embedder(tiny_models, tmp_path_factory):
    folder = tiny_models.write_tiny_decoder(tmp_path_factory.mktemp("decoder"))
    server = Server(folder)
    server.offline = plackett.load(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def sparse(tiny_bert_dir, tmp_path_factory):
    """A sparse encoder whose queries run no transformer."""
    folder = tmp_path_factory.mktemp("sparse") / "model"
    options = SparseEncoderConfig(
        str(tiny_bert_dir), query_weights="ones", query_terms=7, document_terms=7, max_length=64
    )
    options.build(seed=0).export(folder)
    server = Server(folder)
    server.offline = plackett.load(folder)
    server.folder = folder
    yield server
    server.stop()


def test_rerank_has_the_scores_of_the_python_api(reranker):
    status, rows = reranker.post("/rerank", {"query": "apple", "texts": TEXTS})
    expected = reranker.offline.rank("apple", TEXTS)
    assert status == 200
    assert [row["index"] for row in rows] == [row.index for row in expected]
    assert [row["score"] for row in rows] == pytest.approx([row.score for row in expected], abs=1e-6)
    assert all(set(row) == {"index", "score"} for row in rows)
    order = [row["index"] for row in rows]
    assert order.index(0) < order.index(4), "equal scores keep their order"
    _, rows = reranker.post("/rerank", {"query": "apple", "texts": TEXTS, "raw_scores": True, "return_text": True})
    expected = reranker.offline.rank("apple", TEXTS, raw=True)
    assert [row["score"] for row in rows] == pytest.approx([row.score for row in expected], abs=1e-6)
    assert [row["text"] for row in rows] == [row.document for row in expected]


def test_embed_has_the_vectors_of_the_python_api(embedder):
    for name in ("query", "document", None):
        status, vectors = embedder.post("/embed", {"inputs": TEXTS, "prompt_name": name})
        assert status == 200
        assert np.abs(np.array(vectors) - embedder.offline.encode(TEXTS, role=name)).max() < 1e-6
    _, one = embedder.post("/embed", {"inputs": "red apple", "prompt_name": "query", "normalize": False})
    assert np.abs(np.array(one) - embedder.offline.encode(["red apple"], role="query")).max() < 1e-6
    _, cut = embedder.post("/embed", {"inputs": TEXTS, "dimensions": 8})
    whole = embedder.offline.encode(TEXTS, role=None)[:, :8]
    assert np.abs(np.array(cut) - whole / np.linalg.norm(whole, axis=1, keepdims=True)).max() < 1e-6


def test_embed_sparse_has_the_nonzero_weights_of_sentence_transformers(sparse):
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SparseEncoder(str(sparse.folder), device="cpu")
    found = {}
    for name, encode in (
        ("query", theirs.encode_query),
        ("document", theirs.encode_document),
        (None, theirs.encode_document),
    ):
        expected = encode(TEXTS, convert_to_sparse_tensor=False).numpy()
        status, rows = sparse.post("/embed_sparse", {"inputs": TEXTS, "prompt_name": name})
        assert status == 200
        assert all(set(entry) == {"index", "value"} for row in rows for entry in row)
        assert [[entry["index"] for entry in row] for row in rows] == [row.nonzero()[0].tolist() for row in expected]
        found[name] = np.zeros_like(expected)
        for place, row in enumerate(rows):
            found[name][place, [entry["index"] for entry in row]] = [entry["value"] for entry in row]
        assert np.abs(found[name] - expected).max() < 1e-5
        assert np.abs(found[name] - sparse.offline.encode(TEXTS, role=name)).max() < 1e-6
    assert (found["document"] != 0).sum(axis=1).tolist() == [7] * len(TEXTS)
    assert set(found["query"].ravel()) == {0.0, 1.0}, "each token of a query has its weight, here 1"
    assert sparse.post("/embed_sparse", {"inputs": "", "prompt_name": "query"}) == (200, [[]]), "no token, no weight"


def test_many_at_once_are_not_mixed_up(reranker, embedder):
    def rank(number: int) -> bool:
        query, texts = f"apple {number}", [f"red {number} {i}" for i in range(number % 7 + 1)]
        status, rows = reranker.post("/rerank", {"query": query, "texts": texts, "raw_scores": True})
        expected = reranker.offline.predict([(query, text) for text in texts], raw=True)
        return status == 200 and np.abs(expected[[r["index"] for r in rows]] - [r["score"] for r in rows]).max() < 1e-5

    def embed(number: int) -> bool:
        texts, role = [f"red {number} {i}" for i in range(number % 5 + 1)], ("query", "document")[number % 2]
        status, vectors = embedder.post("/embed", {"inputs": texts, "prompt_name": role})
        return status == 200 and np.abs(np.array(vectors) - embedder.offline.encode(texts, role=role)).max() < 1e-5

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(rank, range(48)))
        assert all(pool.map(embed, range(48)))


def test_health_and_info(reranker, embedder, sparse):
    assert reranker.ask("GET", "/health") == (200, None)
    status, info = reranker.ask("GET", "/info")
    assert status == 200
    assert (info["max_client_batch_size"], info["max_input_length"], info["model_dtype"]) == (128, 128, "float32")
    assert set(info["model_type"]) == {"reranker"}
    assert embedder.ask("GET", "/info")[1]["model_type"] == {"embedding": {"pooling": "lasttoken"}}
    assert sparse.ask("GET", "/info")[1]["model_type"] == {"embedding": {"pooling": "splade"}}


GOOD = {"query": "apple", "texts": ["a"]}


@pytest.mark.parametrize(
    ("content", "status", "kind", "message"),
    [
        (b"{", 422, "Validation", "Invalid JSON"),
        (b"[" * 3000, 422, "Validation", "Invalid JSON: recursion limit"),
        (b'{"query": "\\ud800", "texts": ["a"]}', 422, "Validation", "Invalid JSON"),
        (b"\xff", 422, "Validation", "Invalid JSON"),
        ([], 422, "Validation", "Input should be an object"),
        ({"query": "a"}, 422, "Validation", "texts: Field required"),
        ({**GOOD, "texts": "a"}, 422, "Validation", "texts: Input should be a valid array"),
        ({**GOOD, "texts": ["a", 1]}, 422, "Validation", "texts.1: Input should be a valid string"),
        ({**GOOD, "raw_scores": "true"}, 422, "Validation", "raw_scores: Input should be a valid boolean"),
        ({**GOOD, "top_n": 3}, 422, "Validation", "top_n: Extra inputs are not permitted"),
        ({**GOOD, "truncation_direction": "Left"}, 422, "Validation", "truncation_direction: Input should be 'Right'"),
        ({**GOOD, "texts": []}, 400, "Empty", "there are no texts"),
        ({**GOOD, "texts": ["a"] * 9}, 413, "Validation", "batch size 9 > maximum allowed batch size 8"),
        ({**GOOD, "texts": ["a", "a " * 300]}, 413, "Validation", "text 1 is longer than 128 tokens: set truncate"),
        ({**GOOD, "query": "a " * 300}, 413, "Validation", "the query is too long for a pair of 128 tokens: set"),
        ({**GOOD, "texts": ["a" * 6000]}, 413, "Validation", "the request has more than 5000 bytes"),
    ],
)
def test_a_wrong_request_gets_an_error(reranker, content, status, kind, message):
    found, answer = reranker.post("/rerank", content)
    assert (found, answer["error_type"]) == (status, kind)
    assert message in answer["error"]
    assert len(answer["error"]) < 300
    assert reranker.post("/rerank", GOOD)[0] == 200


def test_long_texts_are_cut_if_the_request_says_so(reranker):
    status, rows = reranker.post("/rerank", {**GOOD, "texts": ["a", "a " * 300], "truncate": True})
    assert (status, len(rows)) == (200, 2)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"inputs": "a", "prompt_name": "passage"}, 422, "prompt_name: the model has query, document"),
        ({"inputs": "a", "dimensions": 33}, 422, "dimensions: the model has 32"),
        ({"inputs": "a", "dimensions": 0}, 422, "dimensions: Input should be greater than or equal to 1"),
        ({"inputs": [[1, 2]]}, 422, "Input should be a valid string"),
        ({"inputs": "a " * 300}, 413, "text 0 is longer than 128 tokens"),
        ({"inputs": []}, 400, "there are no texts"),
    ],
)
def test_a_wrong_request_of_embeddings_gets_an_error(embedder, content, status, message):
    found, answer = embedder.post("/embed", content)
    assert found == status
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"inputs": "a", "normalize": True}, 422, "normalize: Extra inputs are not permitted"),
        ({"inputs": "a", "prompt_name": "passage"}, 422, "prompt_name: the model has query, document"),
        ({"inputs": "a " * 300, "prompt_name": "query"}, 413, "text 0 is longer than 64 tokens"),
        ({"inputs": []}, 400, "there are no texts"),
    ],
)
def test_a_wrong_request_of_sparse_embeddings_gets_an_error(sparse, content, status, message):
    found, answer = sparse.post("/embed_sparse", content)
    assert found == status
    assert message in answer["error"]


def test_the_path_of_another_model_names_that_of_this_one(reranker, embedder, sparse):
    def refused(server: Server, path: str) -> str:
        status, answer = server.post(path, {"inputs": "a"})
        assert (status, answer["error_type"]) == (424, "Backend")
        return answer["error"]

    assert refused(sparse, "/embed") == "this model gives sparse embeddings: ask /embed_sparse"
    assert refused(embedder, "/embed_sparse") == "this model gives dense embeddings: ask /embed"
    assert refused(reranker, "/embed") == "this model gives scores of texts for a query: ask /rerank"
    assert refused(sparse, "/rerank") == "this model gives sparse embeddings: ask /embed_sparse"


def test_other_paths_methods_and_types(reranker):
    status, answer = reranker.post("/v1/embeddings", GOOD)
    assert status == 404
    assert "POST /rerank, /embed, /embed_sparse" in answer["error"]
    assert reranker.ask("GET", "/rerank")[0] == 405
    status, answer = reranker.ask("POST", "/rerank", b"{}", {"content-type": "text/plain"})
    assert (status, answer["error_type"]) == (415, "Validation")
    for host in ("evil.example", "evil.example:80", "[", ""):
        assert reranker.post("/rerank", GOOD, host=host)[0] == 400, host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:3000"):
        assert reranker.post("/rerank", GOOD, host=host)[0] == 200, host


HEAD = b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_slow_requests_are_ended_and_harm_no_other(hasty):
    slow = [b"", b"POST /rer", HEAD, HEAD + b'content-length: 90\r\n\r\n{"query"']
    with ThreadPoolExecutor(len(slow)) as pool:
        answers = [pool.submit(hasty.raw, data) for data in slow]
        assert hasty.post("/rerank", GOOD)[0] == 200
        assert not any(answer.done() for answer in answers)
    for answer in answers:
        assert answer.result().startswith(b"HTTP/1.1 408"), answer.result()
        assert b'"error_type":"Validation"' in answer.result()


def test_a_body_that_is_much_too_large_is_not_read_to_its_end(reranker):
    with socket.create_connection(("127.0.0.1", reranker.port), timeout=30) as connection:
        connection.sendall(HEAD + b"content-length: 1000000000\r\n\r\n" + b"a" * 60_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_connection_may_stay_open_longer_than_a_request(hasty):
    connection = http.client.HTTPConnection("127.0.0.1", hasty.port, timeout=30)
    for _ in range(3):
        connection.request("POST", "/rerank", json.dumps(GOOD), {"content-type": "application/json"})
        assert len(json.loads(connection.getresponse().read())) == 1
        time.sleep(1.0)
    connection.close()


def test_a_server_stops_at_sigterm_after_its_last_answer_and_logs_no_text(tiny_reranker_dir, tmp_path):
    command = [sys.executable, str(Path(__file__).parents[3] / "launch" / "serve.py"), str(tiny_reranker_dir)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=log, text=True, cwd=tmp_path
        )
    with server:
        stop_while_it_works(server, tiny_reranker_dir)
        assert "secretive" not in server.stdout.read() + (tmp_path / "log").read_text()


def stop_while_it_works(server: subprocess.Popen[str], folder: Path) -> None:
    line = server.stdout.readline()
    assert line.startswith(f"serving {folder} on http://127.0.0.1:")
    port = int(line.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"query": "secretive", "texts": ["secretive"] * 64})
    connection.request("POST", "/rerank?text=secretive", body, {"content-type": "application/json"})
    time.sleep(0.05)
    server.send_signal(signal.SIGTERM)
    assert len(json.loads(connection.getresponse().read())) == 64
    connection.close()
    assert server.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["m", "--max-texts", "0"], "--max-texts must be at least 1, got 0"),
        (["m", "--timeout", "0"], "--timeout must be above 0, got 0"),
        (["m", "--host", "nowhere.invalid"], "--host nowhere.invalid --port 3000: "),
        (["./nowhere", "--port", "0"], "model ./nowhere: no such folder"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message):
    with pytest.raises((ValueError, OSError)) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ValueError, match=f"--port {port}: Address already in use: choose others"):
            main(["m", "--port", port])


def test_loopback_addresses_are_recognised():
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4
