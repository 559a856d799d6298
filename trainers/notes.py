"""Notes about a step that the terminal shows once: idle ranks, texts that are cut."""

from __future__ import annotations

from data.batch import ListBatch
from data.truncation import cut_line
from engines.distributed.process_group import world_size
from trainers.options import TrainerConfig
from trainers.progress import Progress


def note_idle_ranks(progress: Progress, num_chunks: int, config: TrainerConfig) -> None:
    """Print a note if a step has fewer chunks than there are ranks."""
    if num_chunks < world_size():
        progress.note_once(
            "idle ranks",
            f"note: a step has {num_chunks} chunk(s) for {world_size()} ranks, so some are idle: lower "
            f"trainer.token_budget ({config.token_budget}) or raise trainer.batch_size",
        )


def note_truncation(progress: Progress, batch: ListBatch, step: int, max_length: int) -> None:
    """Print a warning if many texts of a step are cut to `max_length` tokens."""
    if batch.truncation is not None and batch.truncation.is_large:
        progress.note_once("truncation", cut_line({f"step {step}": batch.truncation}, max_length))
