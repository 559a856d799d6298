"""The model card of an export: what it was trained on and with, and how it ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from models.export.folder import display_name
from models.lora import describe_adapters
from runs.redaction import redact
from runs.report.content import number_of_tests, result_rows
from runs.report.other_sets import lines_of_other_sets
from runs.report.table import format_table
from trainers.trainer import Trainer


def model_card(
    name: str, summary: Mapping[str, Any], *, start: str, seed: int, settings: Mapping[str, str] | None = None
) -> str:
    """The text of the model card. `settings` are those of the run or of its last stage; None: every stage gets a line
    with its own settings."""
    stages = summary["stages"] if settings is None else summary["stages"][:-1]
    lines = {
        f"stage {number}, {stage['name']}": f"{stage['steps']} steps; {'; '.join(stage['settings'].values())}"
        for number, stage in enumerate(stages, start=1)
    }
    best = summary["best_step"]
    exported = "the last" if best is None else f"step {best}, the best on dev"
    lines = {"start": display_name(start), **lines} | {
        "data": f"{summary['data']} (hash {summary['data_hash']})",
        "steps": f"{summary['steps']} (exported: {exported})",
        **(settings or {}),
        "engine": f"{summary['engine']} on {summary['world_size']} rank(s)",
        "seed": str(seed),
    }
    table = format_table(result_rows(summary))
    others = "\n".join(lines_of_other_sets(summary))
    return redact(
        f"# {name}\n\nTrained by plackett.\n\n"
        + "\n".join(f"- {name}: {value}" for name, value in lines.items())
        + f"\n\nOn {number_of_tests(summary)}:\n\n```\n{table}\n```\n"
        + (f"\n```\n{others}\n```\n" if others else "")
    )


def data_of_card(text: str) -> str:
    """The name of the data that the model of a card of `model_card` was trained on; empty if the card does not say."""
    found = re.search(r"^- data: (.+) \(hash \w+\)$", text, re.MULTILINE)
    return found[1] if found else ""


def settings_of(trainer: Trainer) -> dict[str, str]:
    """The trainer's settings in words: loss, teacher and guide, adapters, batch, refreshed negatives, optimizer."""
    config = trainer.config
    adapters = describe_adapters(trainer.engine.model)
    lora = {} if adapters is None else {"adapters": adapters}
    auxiliary = {role: display_name(str(model.source)) for role, model in trainer.auxiliary_models.items()}
    refreshed = {"hard negatives": f"of the trained model, refreshed every {config.refresh_every} steps"}
    return {
        "loss": trainer.losses.describe(),
        **auxiliary,
        **lora,
        "batch": f"{config.batch_size} queries with up to {config.list_size} documents each",
        **(refreshed if config.refresh_every else {}),
        "optimizer": f"{config.optimizer}, learning rate {config.learning_rate:g}, {config.schedule} schedule",
    }
