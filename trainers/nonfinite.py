"""What is written down of a batch whose loss or gradient is not finite."""

from __future__ import annotations

import json
from pathlib import Path

from data.batch import ListBatch
from engines.protocol import NotFinite
from runs.files import json_safe


def write_down(file: Path, batch: ListBatch, error: NotFinite, *, step: int, action: str) -> None:
    """A line of nonfinite.jsonl: the ids of the batch, and of the rows that were not finite where these are some."""
    rows = [batch.row_ids(row) for row in error.rows] if len(error.rows) < len(batch.rows) else []
    record = {
        "step": step,
        "batch": batch.number,
        "source": batch.source,
        "action": action,
        "reason": str(error),
        "rows": [{"query_id": query, "document_id": document} for query, document in rows],
        "queries": [
            {"query_id": example.query_id, "document_ids": list(example.document_ids)} for example in batch.examples
        ],
    }
    with file.open("a") as stream:
        stream.write(json.dumps(json_safe(record), allow_nan=False) + "\n")
