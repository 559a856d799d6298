"""Load a server of launch/serve.py with many clients at once, good and bad ones, and check every answer.

    python benchmarks/serving.py

A tiny cross-encoder with random weights is served (with `--layers N`, one of N layers of all-MiniLM-L6-v2 and a fresh
head). `--clients` clients send requests of 1 to 8 texts, one after the other, for `--seconds`; each answer is compared
with the scores of `plackett.load(MODEL)`. Meanwhile bad clients send oversized, malformed and slow requests, too many
texts, and leave in the middle. Printed are answers, errors, latencies, and the server's memory (RSS) in the course of
the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import plackett
from models.cross_encoder import CrossEncoderConfig
from models.loading.resolve import DEFAULT_MODEL, resolve

WORDS = "what is the rank list query document python returns value open file read write text index score".split()  # noqa: SIM905
TIMEOUT_S = 10.0  # the server's
MAX_BYTES = 100_000


@dataclass
class Tally:
    """What the clients have seen."""

    answers: int = 0
    wrong: int = 0  # other scores than offline, or another order
    lost: int = 0  # no answer, or an error
    worst: float = 0.0  # largest difference of a score
    seconds: list[float] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)  # what bad requests got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--layers", type=int, default=0, help="of all-MiniLM-L6-v2; 0: the tiny model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, arguments.layers)
        requests = make_requests(plackett.load(model, kind="reranker"))
        scores = [score for _, expected in requests for score in expected]
        print(f"{len(requests)} requests, {len(scores)} texts, standard deviation {statistics.stdev(scores):.3f}")
        server, port = start(model, Path(folder) / "log")
        try:
            tally, memory = asyncio.run(load(port, server.pid, requests, arguments))
        finally:
            server.send_signal(signal.SIGTERM)
        status, log = server.wait(60), (Path(folder) / "log").read_text()
    report(tally, memory, arguments.seconds)
    print(f"after SIGTERM: exit status {status}; the log has {len(log.splitlines())} lines")
    if tally.wrong or tally.lost or status or "open file" in log:
        raise SystemExit("error: answers are wrong or lost, or texts are in the log")


def write_model(folder: Path, layers: int) -> None:
    """Write the cross-encoder that is served."""
    if layers:
        CrossEncoderConfig(num_layers=layers, max_length=64).build(0).export(folder)
        return
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT_MODEL))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer), **sizes, max_position_embeddings=64, num_labels=1, initializer_range=0.2
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_requests(reranker: plackett.Reranker) -> list[tuple[bytes, list[float]]]:
    """The bodies of 64 requests, each with the scores of its texts."""
    draw, requests = random.Random(0), []
    for number in range(64):
        query = " ".join([*draw.choices(WORDS, k=4), str(number)])
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(draw.randint(1, 8))]
        body = json.dumps({"query": query, "texts": texts, "raw_scores": True}).encode()
        requests.append((body, reranker.predict([(query, text) for text in texts], raw=True).tolist()))
    return requests


def start(model: Path, log: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the server on a free port, and wait until it listens."""
    command = [sys.executable, str(Path(__file__).parents[1] / "launch" / "serve.py"), str(model), "--port", "0"]
    command += ["--timeout", str(TIMEOUT_S), "--max-body-bytes", str(MAX_BYTES)]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    return server, int(line.rpartition(":")[2].partition("/")[0])


async def load(
    port: int, pid: int, requests: list[tuple[bytes, list[float]]], arguments: argparse.Namespace
) -> tuple[Tally, list[float]]:
    """Run all clients. Returns what they have seen, and the server's memory in MiB, six times from a tenth of the run
    on."""
    tally, end = Tally(), time.monotonic() + arguments.seconds
    tasks = [asyncio.create_task(good_client(port, seed, requests, end, tally)) for seed in range(arguments.clients)]
    tasks += [asyncio.create_task(bad_client(port, *bad, end, tally)) for bad in bad_requests()]
    memory = []
    for share in (0.1, 0.28, 0.46, 0.64, 0.82, 0.98):
        await asyncio.sleep(max(0.0, end - arguments.seconds * (1 - share) - time.monotonic()))
        memory.append(rss(pid))
    await asyncio.gather(*tasks)
    return tally, memory


async def good_client(
    port: int, seed: int, requests: list[tuple[bytes, list[float]]], end: float, tally: Tally
) -> None:
    """Send requests on one connection until the end, and check every answer."""
    draw = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        body, expected = draw.choice(requests)
        begin = time.monotonic()
        try:
            writer.write(head(len(body)) + body)
            status, content = await asyncio.wait_for(answer(reader), 60)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            tally.lost += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        if status != 200:
            tally.lost += 1
            continue
        rows = json.loads(content)
        found = {row["index"]: row["score"] for row in rows}
        difference = max((abs(found.get(i, float("inf")) - score) for i, score in enumerate(expected)), default=0.0)
        sorted_down = [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        tally.wrong += len(rows) != len(expected) or difference > 1e-5 or not sorted_down
        tally.worst = max(tally.worst, difference)
        tally.answers += 1
        tally.seconds.append(time.monotonic() - begin)
    writer.close()


def bad_requests() -> list[tuple[str, bytes, float]]:
    """(name, bytes, seconds after which the client leaves) of requests that get an error, or that nobody ends."""
    ended = 30.0
    many = json.dumps({"query": "a", "texts": ["b"] * 1000}).encode()
    large = json.dumps({"query": "a", "texts": ["b" * 3 * MAX_BYTES]}).encode()
    long = json.dumps({"query": "a", "texts": ["b " * 2000]}).encode()
    wrong = [b"{", b"[" * 5000, b'{"query": 1, "texts": ["a"]}', b'{"query": "\\ud800", "texts": ["a"]}', b"\xff\x00"]
    return [
        ("too many texts", head(len(many)) + many, ended),
        ("too many bytes", head(len(large)) + large, ended),
        ("too long a text", head(len(long)) + long, ended),
        *((f"malformed {number}", head(len(body)) + body, ended) for number, body in enumerate(wrong)),
        ("no HTTP", b"hello\r\n\r\n", ended),
        ("slow body", head(1000) + b'{"query', ended),
        ("slow head", b"POST /rerank HTT", ended),
        ("leaves in the body", head(1000) + b'{"query', 0.2),
        ("leaves before the answer", head(len(b := b'{"query": "a", "texts": ["b"]}')) + b, 0.0),
    ]


async def bad_client(port: int, name: str, data: bytes, wait_s: float, end: float, tally: Tally) -> None:
    """Send a bad request again and again, and count what comes back."""
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            await writer.drain()
            status, _ = await asyncio.wait_for(answer(reader), wait_s)
            tally.bad[f"{name}: {status}"] += 1
        except asyncio.TimeoutError:
            tally.bad[f"{name}: left"] += 1
        except (OSError, asyncio.IncompleteReadError):
            tally.bad[f"{name}: connection closed"] += 1
        writer.close()
        await asyncio.sleep(0.2)


def head(length: int) -> bytes:
    """The head of a request with a body of this length."""
    fields = f"host: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}"
    return f"POST /rerank HTTP/1.1\r\n{fields}\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a response: its status and its body."""
    top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    status, length = int(top.split()[1]), top.partition("content-length:")[2].split()
    return status, await (reader.readexactly(int(length[0])) if length else reader.read())


def rss(pid: int) -> float:
    """The resident memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def report(tally: Tally, memory: list[float], seconds: float) -> None:
    ordered = sorted(tally.seconds)
    median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    print(f"{tally.answers} answers in {seconds:g} s, {tally.answers / seconds:.0f} a second")
    print(f"{tally.lost} lost, {tally.wrong} wrong; largest difference of a score {tally.worst:.1e}")
    print(f"latency: median {median * 1000:.0f} ms, 99% {p99 * 1000:.0f} ms")
    print("server's memory, MiB: " + ", ".join(f"{value:.0f}" for value in memory))
    print("bad requests:")
    for name, count in sorted(tally.bad.items()):
        print(f"  {name} ({count} times)")


if __name__ == "__main__":
    main()
