"""Batches whose loss or gradient is not finite: what is written about them. `Trainer.skip_batch` acts."""

from __future__ import annotations

from typing import Any

from data.batch import ListBatch
from engines.protocol import NotFinite

LARGE_OUTPUT = 1e6  # scores and embeddings of a model that trains are far below


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


def remedy(batch: ListBatch, error: NotFinite) -> str:
    """What may help: a lower learning rate, or, if a loss is not finite although the model's outputs are, other labels.

    The outputs of a training that diverges are large long before they are infinite.
    """
    if error.largest_output is None or error.largest_output > LARGE_OUTPUT:
        return "lower trainer.learning_rate"
    numbers = {"labels": batch.labels[batch.mask], "teacher's scores": batch.teacher_scores[batch.mask]}
    known = {name: values[~values.isnan()].abs() for name, values in numbers.items()}
    sizes = [f"{name} up to {float(values.max()):g}" for name, values in known.items() if len(values)]
    return (
        f"the model's outputs are finite, up to {error.largest_output:.3g}, so the batch's numbers are too large "
        f"({' and '.join(sizes)}): divide them, or choose a loss that only compares them (loss=rank_net)"
    )
