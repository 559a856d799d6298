"""Write texts block by block over all ranks. Blocks stay in the cache, so a killed command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import read_arrays
from data.progress import show_progress
from engines.distributed.collectives import broadcast_object, gather_objects
from engines.distributed.process_group import is_main, rank, world_size
from inference.questions.writer import Texts, Writer
from models.generation.generator import Written
from recipes.negatives.stored import write_arrays
from recipes.questions.task import Task

BLOCK = 32  # documents or queries of a block: a rank writes it alone, and a killed command loses one for each rank


def write_blocks(task: Task, writer: Writer, folder: Path) -> None:
    """Write the texts of all blocks that the folder lacks. A block has the same texts on any rank, and after any kill.

    Raises ValueError or OSError on all ranks if one of them does.
    """
    total = -(-len(task.ids) // BLOCK)
    missing = broadcast_object([n for n in range(total) if not _file(folder, n).is_file()] if is_main() else [])
    rounds = [missing[start : start + world_size()] for start in range(0, len(missing), world_size())]
    for numbers in show_progress(rounds, "writing texts", len(rounds), "rounds"):
        outcome: tuple[str | None, Exception | None] = (None, None)
        try:
            if rank() < len(numbers):
                outcome = (_written(task, writer, numbers[rank()]), None)
        except (ValueError, OSError) as error:
            outcome = (None, error)
        outcomes = gather_objects(outcome)
        for _, failure in outcomes:
            if failure is not None:
                raise failure
        if is_main():
            for number, (text, _) in zip(numbers, outcomes, strict=False):
                assert text is not None
                write_arrays(_file(folder, number), {"json": np.frombuffer(text.encode(), dtype=np.uint8)})


def read_blocks(task: Task, folder: Path) -> Iterator[tuple[str, Texts]]:
    """The id of each document or query with its texts, in their order."""
    for start in range(0, len(task.ids), BLOCK):
        content = json.loads(read_arrays(_file(folder, start // BLOCK))["json"].tobytes())
        for name, entry in zip(task.ids[start : start + BLOCK], content, strict=True):
            kinds = {kind: [Written(**text) for text in texts] for kind, texts in entry["by_kind"].items()}
            yield name, Texts(kinds, entry["was_cut"])


def _written(task: Task, writer: Writer, number: int) -> str:
    """The texts of a block as JSON."""
    names = task.ids[number * BLOCK : (number + 1) * BLOCK]
    found: list[dict[str, Any]] = []
    for texts in writer.write([task.request(name) for name in names]):
        kinds = {kind: [asdict(text) for text in each] for kind, each in texts.by_kind.items()}
        found.append({"by_kind": kinds, "was_cut": texts.was_cut})
    return json.dumps(found, ensure_ascii=True)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"
