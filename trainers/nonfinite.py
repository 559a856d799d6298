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


def stop_message(batch: ListBatch, error: NotFinite, num_skipped: int, max_skipped: int, *, fp16: bool) -> str:
    """The message of the error that ends the run. `fp16`: forward passes run in fp16."""
    return (
        f"{error}: nonfinite.jsonl names the batch; {num_skipped} batches were skipped before it: "
        f"{remedy(batch, error, fp16=fp16)}, or skip more with trainer.on_nonfinite=skip or rollback and "
        f"trainer.max_nonfinite ({max_skipped})"
    )


def remedy(batch: ListBatch, error: NotFinite, *, fp16: bool = False) -> str:
    """What may help: a lower learning rate, or, if a loss is not finite although the model's outputs are, other labels.

    The outputs of a training that diverges are large long before they are infinite. In fp16 it may also be the model's
    own numbers: those of models that were trained in bf16 are often above the largest one of fp16.
    """
    if error.largest_output is None or error.largest_output > LARGE_OUTPUT:
        wider = "set engine.precision=fp32 or bf16 (fp16 ends at 65,504), or " if fp16 else ""
        return f"{wider}lower trainer.learning_rate"
    numbers = {"labels": batch.labels[batch.mask], "teacher's scores": batch.teacher_scores[batch.mask]}
    known = {name: values[~values.isnan()].abs() for name, values in numbers.items()}
    sizes = [f"{name} up to {float(values.max()):g}" for name, values in known.items() if len(values)]
    return (
        f"the model's outputs are finite, up to {error.largest_output:.3g}, so the batch's numbers are too large "
        f"({' and '.join(sizes)}): divide them, or choose a loss that only compares them (loss=rank_net)"
    )
