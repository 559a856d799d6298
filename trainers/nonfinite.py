"""Batches whose loss or gradient is not finite: what is written about them. `Trainer.skip_batch` acts."""

from __future__ import annotations

from typing import Any

from data.batch import ListBatch
from engines.protocol import NotFinite


def nonfinite_line(batch: ListBatch, error: NotFinite, *, step: int, action: str) -> dict[str, Any]:
    """The line of nonfinite.jsonl: the ids of the batch, and of the sequences that are not finite unless all are."""
    rows = [batch.sequence_ids(row) for row in error.rows] if len(error.rows) < len(batch.sequences) else []
    return {
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
