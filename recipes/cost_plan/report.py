"""A plan as text: memory and time of each engine on each number of ranks, what fits, and what to set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from recipes.cost_plan.estimate import Estimate, Plan, PlannedStep
from recipes.cost_plan.hardware import CPU_ASSUMPTIONS

COLUMNS = ("weights", "gradients", "optimizer", "activations", "buffers", "peak", "checkpoint", "received", "step", "")
MAX_BUDGET = 65_536  # the largest trainer.token_budget that is suggested


def report(plan: Plan) -> list[str]:
    """The lines of the report."""
    return [*_workload_lines(plan), "", *_table(plan), "", *_suggestions(plan)]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's figures, in bytes."""
    rows = [
        asdict(estimate)
        | {"fits": plan.machine.fits(estimate), "step_s": step.time.total, "step_parts_s": asdict(step.time)}
        | {"flops": step.work.flops, "received_bytes": step.work.received}
        for estimate, step in zip(plan.estimates, plan.steps, strict=True)
    ]
    return {
        "parameters": asdict(plan.workload.parameters),
        "batches_per_epoch": plan.workload.batches_per_epoch,
        "device": plan.machine.device,
        "memory_bytes": plan.machine.memory_bytes,
        "process_bytes": plan.process_bytes,
        "frozen_bytes": plan.workload.frozen_bytes,
        "bytes_per_token": plan.token_bytes,
        "chosen_engine": plan.chosen,
        "assumptions": _assumptions(plan),
        "estimates": rows,
    }


def format_bytes(count: float) -> str:
    """A number of bytes in GiB or MiB: 1.50 GiB, 23.4 MiB."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else "0" if count == 0 else "<0.1 MiB"


def format_seconds(seconds: float) -> str:
    """A time in seconds or milliseconds: 1.5 s, 23 ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _workload_lines(plan: Plan) -> Iterator[str]:
    """The parameters, the chunks of a step, and the memory that there is."""
    workload, options = plan.workload, plan.workload.settings.trainer
    longest = max(workload.batches, key=sum)
    chunks = workload.chunk_shapes(longest)
    frozen = f", frozen models {format_bytes(workload.frozen_bytes)}" if workload.frozen_bytes else ""
    yield f"parameters: {workload.parameters.total:,}, trained {workload.parameters.trainable:,}{frozen}"
    rows = "packs of prompts with one beginning," if workload.pack is not None else "rows"
    yield (
        f"a step: {len(longest):,} {rows} of up to {max(longest)} tokens, {len(chunks)} chunks of up to "
        f"{_largest_chunk(plan):,} tokens; {format_bytes(plan.token_bytes)} of activations per token of a kept chunk"
    )
    if workload.batches_per_epoch is not None:
        num_steps = options.num_steps(workload.batches_per_epoch)
        yield f"training: {options.describe_length(num_steps, workload.batches_per_epoch * options.updates_per_batch)}"
    memory = format_bytes(plan.machine.memory_bytes)
    if plan.machine.device == "cpu":
        engines = ", ".join(f"{format_bytes(count)} with {name}" for name, count in plan.process_bytes.items())
        peak = format_bytes(workload.reading_bytes)
        yield f"a process without a model: {engines} (libraries and data); at most {peak} while it reads the data"
        yield f"memory of this node: {memory}, shared by its ranks; the table is per rank"
    else:
        yield f"memory of a GPU: {memory}, a tenth is left free; the table is per rank"


def _table(plan: Plan) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("engine", "ranks", *COLUMNS)]
    for estimate, step in zip(plan.estimates, plan.steps, strict=True):
        rows.append((estimate.engine, str(estimate.ranks), *_cells(plan, estimate, step)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(plan: Plan, estimate: Estimate, step: PlannedStep) -> tuple[str, ...]:
    states = estimate.states
    fits = "fits" if plan.machine.fits(estimate) else "too large"
    buffers = states.gathered + max(states.reduction, states.update)
    values = (states.weights, states.gradients, states.optimizer, estimate.activations, buffers, estimate.peak)
    mark = " <- engine=" + estimate.engine if estimate.engine == plan.chosen else ""
    sizes = (*values, estimate.checkpoint, step.work.received_bytes)
    return (*map(format_bytes, sizes), format_seconds(step.time.total), fits + mark)


def _largest_chunk(plan: Plan) -> int:
    """The tokens of a step's largest chunk, which may have fewer than `trainer.token_budget`."""
    shapes = plan.workload.chunk_shapes(max(plan.workload.batches, key=sum))
    return max(rows * tokens for rows, tokens in shapes)


def _suggestions(plan: Plan) -> Iterator[str]:
    """What to set, for the run's own engine on each number of ranks."""
    options, machine = plan.workload.settings.trainer, plan.machine
    own = [estimate for estimate in plan.estimates if estimate.engine == plan.chosen]
    yield "peak: of the parts of a row, what is in memory at the same time" + (
        ", and the process itself, with its libraries, data and the heap's gaps"
        if machine.device == "cpu"
        else "; CUDA's own context comes on top"
    )
    if machine.device == "cuda":
        yield f"CPU memory per rank, at least while loading: {format_bytes(max(estimate.host for estimate in own))}"
    keeps = options.keep_checkpoints + 2  # and the best one, and the one that is being written
    yield f"checkpoints: {format_bytes(keeps * own[0].checkpoint)} on disk at most ({keeps} of them)"
    yield (
        "received: what a rank gets from others in a step; step: its time, without evaluations; " + _assumptions(plan)
    )
    for estimate, step in zip(plan.estimates, plan.steps, strict=True):
        if estimate.engine == plan.chosen:
            size = "" if estimate.lowest == estimate.highest else f"; peak {_range(estimate)}, as the heap has gaps"
            yield f"on {estimate.ranks} rank(s): {_suggestion(plan, estimate)}{size}; {_parts(step)}"


def _assumptions(plan: Plan) -> str:
    return plan.machine.assumptions.describe() if plan.machine.device == "cuda" else CPU_ASSUMPTIONS


def _range(estimate: Estimate) -> str:
    return f"{format_bytes(estimate.lowest)} to {format_bytes(estimate.highest)}"


def _parts(step: PlannedStep) -> str:
    """What a step spends its time on, and what it receives, by name."""
    parts = asdict(step.time)
    times = ", ".join(f"{name} {seconds / step.time.total:.0%}" for name, seconds in parts.items() if seconds)
    received = ", ".join(f"{name} {format_bytes(count)}" for name, count in step.work.received.items())
    return f"a step is {times}" + (f"; a rank receives {received}" if received else "")


def _suggestion(plan: Plan, estimate: Estimate) -> str:
    """Suggest to keep the activations of all chunks if they fit, else of as many as fit."""
    options, machine = plan.workload.settings.trainer, plan.machine
    share = 0.9 if machine.device == "cuda" else 1.0 / min(estimate.ranks, machine.ranks_per_node or estimate.ranks)
    free = share * machine.memory_bytes - estimate.peak
    kept, is_auto = estimate.kept_chunks, isinstance(options.kept_chunks, str)
    chunk = plan.token_bytes * _largest_chunk(plan)
    if free < 0 and estimate.activations + free <= 0:
        return "too large without any activation: choose a higher ZeRO stage, engine.offload, LoRA or more ranks"
    if free < 0 and kept <= 1:
        budget = max(int(_largest_chunk(plan) * (1 + free / estimate.activations)), 1)
        return f"too large: set trainer.token_budget={budget}, or model.gradient_checkpointing=true"
    if free < 0:
        return f"too large: set trainer.kept_chunks={max(int(kept + free / chunk), 0)}"
    possible = min(int(kept + free / chunk), estimate.num_chunks)
    if is_auto and kept < estimate.num_chunks:
        return f"fits, auto keeps about {kept} of the rank's {estimate.num_chunks} chunks: the others run twice"
    if possible > kept:
        recomputed = estimate.num_chunks - possible
        return (
            f"fits, even with trainer.kept_chunks={possible}: then {recomputed} of the rank's {estimate.num_chunks} "
            "chunks run twice"
        )
    if machine.device == "cuda" and estimate.num_chunks > 1:
        fitting = options.token_budget
        while fitting * 2 <= MAX_BUDGET and plan.token_bytes * 2 * fitting * min(kept, 1) <= free:
            fitting *= 2
        if fitting > options.token_budget:
            return f"fits, all chunks kept; trainer.token_budget={fitting} fits too, and keeps a GPU busier"
    return "fits" + (", all chunks kept" if kept == estimate.num_chunks else "")
