"""Files of a run directory, each written atomically."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.state import TrainState


def write_atomic(file: Path, text: str) -> None:
    """Write `text` to a hidden file, wait until it is on disk, and rename it to `file`."""
    unfinished = file.with_name(f".{file.name}")
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)


def write_json(file: Path, content: Any) -> None:
    write_atomic(file, json.dumps(json_safe(content), indent=2, allow_nan=False) + "\n")


def read_json(file: Path) -> Any:
    """The content of a JSON file of a run. Raises ValueError, which names the file, if it is broken."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is broken ({error}): remove it, or start from scratch with resume=none") from None


def json_safe(value: Any) -> Any:
    """`value` in JSON types: scalars of torch and numpy become numbers, numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_metrics(file: Path, state: TrainState | None, *, keep_test: bool = True) -> None:
    """Remove the lines of metrics.jsonl that a resumed run writes again: those after a checkpoint's state (all if
    None).

    The test scores of step 0 are kept if `keep_test`; those after training are always removed.
    """
    last = {"train": -1, "dev": -1}
    if state is not None:
        last = {"train": state.step, "dev": state.last_evaluated_step}
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed
        if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
            continue  # from a broken disk
        before_training = keep_test and record["step"] == 0
        if before_training if record["split"] == "test" else record["step"] <= last[record["split"]]:
            kept.append(line + "\n")
    write_atomic(file, "".join(kept))
