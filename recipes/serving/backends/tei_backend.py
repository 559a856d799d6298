"""text-embeddings-inference by its address, or a server with its request forms."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import torch

from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay, Unavailable

TIMEOUT_S = 60


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by `POST /rerank` with raw scores, or by `POST /embed`; one request per text."""
    if not export.tei:
        raise Unavailable("no address: --tei http://HOST:PORT")
    golden = export.golden
    if golden.layout == "texts":
        vectors = [
            _post(export.tei, "/embed", {"inputs": [golden.prompts[row.role] + row.texts[0]], "truncate": True})[0]
            for row in golden.rows
        ]
        return {"": Replay(torch.tensor(vectors), limits=READS_CONTROL_TOKENS)}
    scores = []
    for query, document in export.prompted_pairs:
        body = {"query": query, "texts": [document], "raw_scores": True, "truncate": True}
        scores.append(float(_post(export.tei, "/rerank", body)[0]["score"]))
    return {"": Replay(torch.tensor(scores), limits=READS_CONTROL_TOKENS)}


def _post(address: str, path: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        address.rstrip("/") + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{address}{path} answers {error.code}: {error.read(200).decode(errors='replace')}") from None
    except OSError as error:
        raise ValueError(f"{address}{path} does not answer: {error}") from None
