"""A memory plan as text: what each engine takes on each number of ranks, what fits, and what to set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from recipes.memory_plan.estimate import Estimate, Plan
from recipes.memory_plan.workload import chunk_shapes

COLUMNS = ("weights", "gradients", "optimizer", "activations", "buffers", "peak", "checkpoint", "")
MAX_BUDGET = 65_536  # tokens of a chunk that are suggested at most


def report(plan: Plan) -> list[str]:
    return [*_subject(plan), "", *_table(plan), "", *_advice(plan)]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's figures, in bytes."""
    rows = [asdict(found) | {"fits": plan.machine.fits(found)} for found in plan.estimates]
    return {
        "parameters": asdict(plan.subject.parameters),
        "device": plan.machine.device,
        "memory_bytes": plan.machine.memory_bytes,
        "process_bytes": plan.process_bytes,
        "frozen_bytes": plan.subject.frozen_bytes,
        "bytes_per_token": plan.token_bytes,
        "chosen_engine": plan.chosen,
        "estimates": rows,
    }


def size(count: float) -> str:
    """Bytes in the unit that suits them: 1.50 GiB, 23.4 MiB."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else "0" if count == 0 else "<0.1 MiB"


def _subject(plan: Plan) -> Iterator[str]:
    subject, options = plan.subject, plan.subject.settings.trainer
    longest = max(subject.batches, key=sum)
    chunks = chunk_shapes(longest, options.token_budget)
    frozen = f", frozen models {size(subject.frozen_bytes)}" if subject.frozen_bytes else ""
    yield f"parameters: {subject.parameters.total:,}, trained {subject.parameters.trainable:,}{frozen}"
    yield (
        f"a step: {len(longest):,} rows of up to {max(longest)} tokens, {len(chunks)} chunks of up to "
        f"{options.token_budget:,} tokens; {size(plan.token_bytes)} of activations per token of a kept chunk"
    )
    if plan.machine.device == "cpu":
        held = ", ".join(f"{size(count)} with {name}" for name, count in plan.process_bytes.items())
        yield f"a process before it has a model: {held} (libraries and data); at most {size(subject.reading_bytes)}"
        yield f"memory of this node: {size(plan.machine.memory_bytes)}, shared by its ranks; the table is per rank"
    else:
        yield f"memory of a GPU: {size(plan.machine.memory_bytes)}, a tenth is left free; the table is per rank"


def _table(plan: Plan) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("engine", "ranks", *COLUMNS)]
    for found in plan.estimates:
        rows.append((found.engine, str(found.ranks), *_cells(plan, found)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(plan: Plan, found: Estimate) -> tuple[str, ...]:
    states = found.states
    fits = "fits" if plan.machine.fits(found) else "too large"
    buffers = states.gathered + max(states.reduction, states.update)
    values = (states.weights, states.gradients, states.optimizer, found.activations, buffers, found.peak)
    mark = " <- engine=" + found.engine if found.engine == plan.chosen else ""
    return (*map(size, values), size(found.checkpoint), fits + mark)


def _advice(plan: Plan) -> Iterator[str]:
    """What to set on one rank of the run's own engine."""
    options, machine = plan.subject.settings.trainer, plan.machine
    own = [found for found in plan.estimates if found.engine == plan.chosen]
    yield "peak: not the sum of a row, whose parts are not all there at once" + (
        "; with the process and the heap's gaps" if machine.device == "cpu" else "; CUDA's own context comes on top"
    )
    if machine.device == "cuda":
        yield f"CPU memory per rank, at least while loading: {size(max(found.host for found in own))}"
    keeps = options.keep_checkpoints + 2  # the best one, and the one that is being written
    yield f"checkpoints: {size(keeps * own[0].checkpoint)} on disk at most ({keeps} of them)"
    for found in own:
        yield f"on {found.ranks} rank(s): {_suggestion(plan, found)}"


def _suggestion(plan: Plan, found: Estimate) -> str:
    """Chunks that are all kept, where they fit; else as many as do."""
    options, machine = plan.subject.settings.trainer, plan.machine
    share = 0.9 if machine.device == "cuda" else 1.0 / min(found.ranks, machine.ranks_per_node or found.ranks)
    free = share * machine.memory_bytes - found.peak
    kept = min(options.kept_chunks, found.num_chunks)
    chunk = plan.token_bytes * options.token_budget
    if free < 0 and found.activations + free <= 0:
        return "too large without any activation: a higher ZeRO stage, engine.offload, LoRA, more ranks"
    if free < 0 and kept <= 1:
        budget = max(int(options.token_budget * (1 + free / found.activations)), 1)
        return f"too large: trainer.token_budget={budget}, or model.gradient_checkpointing=true"
    if free < 0:
        return f"too large: trainer.kept_chunks={max(int(kept + free / chunk), 0)}"
    possible = min(int(kept + free / chunk), found.num_chunks)
    if possible > kept:
        twice = found.num_chunks - possible
        return (
            f"fits, even trainer.kept_chunks={possible}: then {twice} of the rank's {found.num_chunks} chunks run twice"
        )
    if machine.device == "cuda" and found.num_chunks > 1:
        fitting = options.token_budget
        while fitting * 2 <= MAX_BUDGET and plan.token_bytes * 2 * fitting * min(kept, 1) <= free:
            fitting *= 2
        if fitting > options.token_budget:
            return f"fits, all chunks kept; room for trainer.token_budget={fitting}, which keeps a GPU busier"
    return "fits" + (", all chunks kept" if kept == found.num_chunks else "")
