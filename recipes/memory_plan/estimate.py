"""How much memory a training run takes on each engine and number of ranks, found without weights or training."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from data.collate import chunks_of_rank
from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.memory.allocator import resident_bytes, return_freed_memory
from engines.memory.live_bytes import ChunkBytes
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes, checkpoint_bytes
from engines.optimizers import OptimizerOptions
from engines.protocol import EngineConfig
from engines.torch_engine import TorchEngineConfig
from recipes.memory_plan.workload import ChunkCosts, Subject, chunk_shapes, find_subject
from recipes.run_config import RunConfig
from recipes.stages import stages_of

# On a CPU: bytes that glibc's heap grows by per byte of live tensors. Aligned blocks that are freed often miss the next
# tensor of the same size by a few bytes. Chosen on the runs of benchmarks/plan_accuracy.py, where training takes 1.2
# (chunks of one shape) to 1.6; an evaluation's few large tensors leave larger gaps.
TRAINING_HEAP, EVALUATION_HEAP = 1.4, 2.5


@dataclass(frozen=True)
class Machine:
    """What a run is to fit into."""

    device: str  # "cpu" or "cuda"
    memory_bytes: float  # of a GPU, or of a node without GPUs
    ranks_per_node: int | None  # None: all of them

    @classmethod
    def at_hand(cls, device: str | None, memory_gib: float | None, ranks_per_node: int | None) -> Machine:
        """This machine, or what the options say instead. Raises ValueError for a GPU of unknown size."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if ranks_per_node is None and device == "cuda":
            ranks_per_node = torch.cuda.device_count() or 8
        if memory_gib is not None:
            return cls(device, memory_gib * 2**30, ranks_per_node)
        if device == "cpu":
            return cls(device, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), ranks_per_node)
        if not torch.cuda.is_available():
            raise ValueError("--device cuda on a machine without GPU: say how large one is, --memory GIB")
        return cls(device, float(torch.cuda.get_device_properties(0).total_memory), ranks_per_node)

    def fits(self, found: Estimate) -> bool:
        """On a GPU a tenth is left to the allocator's fragments and CUDA itself."""
        if self.device == "cuda":
            return found.peak <= 0.9 * self.memory_bytes
        return found.peak * min(found.ranks, self.ranks_per_node or found.ranks) <= self.memory_bytes


@dataclass(frozen=True)
class Plan:
    """The estimates of a run, and what they come from."""

    subject: Subject
    machine: Machine
    chosen: str  # the run's own engine
    estimates: list[Estimate]
    process_bytes: dict[str, float]  # without a model, by engine
    token_bytes: float  # of a kept chunk, per token


@dataclass(frozen=True)
class Estimate:
    """One engine on so many ranks; bytes per rank."""

    engine: str
    ranks: int
    states: StateBytes
    activations: float  # the most that the chunks of a step hold beside the states
    evaluation: float  # likewise, an evaluation's chunk
    peak: float  # of the device; on a CPU with the process itself, its libraries and the data
    host: float  # CPU memory beside a GPU
    checkpoint: float  # of all ranks together
    num_chunks: int  # of the rank, in the longest of the steps


def estimate(
    subject: Subject, engine: EngineConfig, ranks: int, costs: ChunkCosts, machine: Machine, process_bytes: float
) -> Estimate:
    """The memory of rank 0, which gets the longest chunks. `process_bytes`: what a process holds without a model."""
    options = subject.settings.trainer
    states = engine.state_bytes(subject.parameters, ranks=ranks, optimizer=options.optimizer)
    steps = []
    for lengths in subject.batches:
        shapes = chunk_shapes(lengths, options.token_budget)
        own = chunks_of_rank([[index] for index in range(len(shapes))], 0, ranks)
        steps.append([costs(shapes[chunk[0]]) for chunk in own if chunk])
    activations = max(step_peak(step, options.kept_chunks, _NOTHING, _NO_PARAMETERS) for step in steps)
    training = max(step_peak(step, options.kept_chunks, states, subject.parameters) for step in steps)
    longest = max(map(max, subject.batches))
    rows = max(subject.settings.eval.token_budget // longest, 1)
    evaluation = subject.model.evaluation(subject.features, rows, longest)
    standing = states.weights + states.optimizer + states.gathered + subject.frozen_bytes
    checkpoint = checkpoint_bytes(subject.parameters, optimizer=options.optimizer)
    if machine.device == "cuda":
        peak = standing + max(training, evaluation)
        host = process_bytes + states.host + FLOAT_BYTES * subject.parameters.total  # the model is built on the CPU
    else:
        # A checkpoint is serialised in memory before it is written; at the end the best one is read, its files mapped.
        mapped = checkpoint / ranks if engine.partitions_state else checkpoint
        buffers = states.reduction + states.update  # made where the heap is fullest
        peak = process_bytes + max(
            standing + TRAINING_HEAP * (training + buffers),
            standing + EVALUATION_HEAP * evaluation,
            standing + checkpoint / ranks + mapped,
            states.weights + states.loading,
        )
        peak, host = max(peak, subject.reading_bytes) + states.host, 0.0
    longest_step = max(len(step) for step in steps)
    return Estimate(engine.name, ranks, states, activations, evaluation, peak, host, checkpoint, longest_step)


_NOTHING = StateBytes(0.0, 0.0, 0.0)
_NO_PARAMETERS = Parameters(0, 0, 0)


def step_peak(chunks: Sequence[ChunkBytes], kept_chunks: int, states: StateBytes, parameters: Parameters) -> float:
    """The most that one step holds beside weights and optimizer: trainers/step.py, in its order of events."""
    first_kept = max(len(chunks) - kept_chunks, 0)
    live = peak = 0.0
    for index, chunk in enumerate(chunks):
        peak = max(peak, live + (chunk.forward if index >= first_kept else chunk.no_graph))
        live += chunk.held if index >= first_kept else 0.0
    # ZeRO 2 and 3 hand each gradient on as it is made; elsewhere the first backward makes all of them.
    whole = parameters.trainable > 0 and states.gradients >= FLOAT_BYTES * parameters.trainable
    gradients = 0.0 if whole else states.gradients
    for index in [*range(first_kept, len(chunks)), *range(first_kept)]:
        chunk = chunks[index]
        if index < first_kept:
            peak = max(peak, live + gradients + chunk.forward)
        else:
            live -= chunk.held
        backward = chunk.first_backward if whole and gradients == 0.0 else chunk.backward
        peak = max(peak, live + gradients + states.reduction + backward)
        gradients = states.gradients
    return max(peak, gradients + states.update)


def process_bytes(engine: EngineConfig) -> float:
    """What this process holds with `engine`'s libraries loaded and used once, on a model of 2 weights.

    A step loads what is imported late (torch's compiler with the first optimizer, DeepSpeed's parts).
    """
    model = nn.Linear(2, 1, bias=False)
    made = engine.build(
        _Outputs(model),
        OptimizerOptions(),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        max_grad_norm=1.0,
    )
    made.backward(made.forward({"input_ids": torch.ones(1, 2)})["score"].sum(), last=True)
    made.step()
    del made
    gc.collect()
    return_freed_memory()
    return resident_bytes()


class _Outputs(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": self.linear(input_ids)}


def make_plans(settings: RunConfig, machine: Machine, *, ranks: Sequence[int], reads_data: bool) -> dict[str, Plan]:
    """A plan of each stage by its name; of a run without stages, of the run."""
    stages = stages_of(settings)
    precision = settings.engine.precision
    bf16 = precision == "bf16" or (precision == "auto" and machine.device == "cuda")
    subjects = {stage.name: find_subject(stage.settings, reads_data=reads_data, bf16=bf16) for stage in stages}
    engines = comparable_engines(settings.engine)
    held = measure_processes(engines)
    return {name: make_plan(subject, engines, machine, ranks, held) for name, subject in subjects.items()}


def make_plan(
    subject: Subject,
    engines: Mapping[str, EngineConfig],
    machine: Machine,
    ranks: Sequence[int],
    held: Mapping[str, float],
) -> Plan:
    """Every engine on every number of ranks. `held`: of `measure_processes`."""
    settings = subject.settings
    budget = settings.trainer.token_budget
    costs = ChunkCosts(subject, [shape for lengths in subject.batches for shape in chunk_shapes(lengths, budget)])
    rows, tokens = max((chunk_shapes(lengths, budget)[0] for lengths in subject.batches), key=lambda s: s[0] * s[1])
    held_by_kind = {type(engines[name]): count for name, count in held.items()}
    estimates = [
        estimate(subject, engine, number, costs, machine, held_by_kind[type(engine)])
        for engine in engines.values()
        for number in ranks
    ]
    token_bytes = costs((rows, tokens)).held / (rows * tokens)
    return Plan(subject, machine, settings.engine.name, estimates, dict(held), token_bytes)


def comparable_engines(own: EngineConfig) -> dict[str, EngineConfig]:
    """torch, ZeRO 0-3 and the run's own engine as it is configured, by name."""
    engines: list[EngineConfig] = [TorchEngineConfig(precision=own.precision)]
    engines += [DeepSpeedEngineConfig(stage=stage, precision=own.precision) for stage in range(4)]
    return {engine.name: engine for engine in (*engines, own)}


def measure_processes(engines: Mapping[str, EngineConfig]) -> dict[str, float]:
    """The bytes of a process without a model, by the name of the engine that it uses: one engine of each kind.

    The libraries of an engine stay loaded, so torch alone comes first.
    """
    measured: dict[type, str] = {}
    for name in ("torch", "zero2", *engines):
        measured.setdefault(type(engines[name]), name)
    return {name: process_bytes(engines[name]) for name in measured.values()}
