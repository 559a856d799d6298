"""The memory and time that a training run takes on each engine and number of ranks, estimated without weights or
training."""

from __future__ import annotations

import gc
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from data.collate import chunks_of_rank
from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.memory.allocator import keep_freed_memory, resident_bytes, return_freed_memory
from engines.memory.available import CPU_SHARE, TRAINING_HEAP
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes, checkpoint_bytes
from engines.memory.step_peak import step_peak
from engines.optimizers import OptimizerOptions
from engines.precision import autocast_dtype
from engines.protocol import EngineConfig
from engines.torch_engine import TorchEngineConfig
from losses.math.tiles import BYTES_PER_BLOCK
from recipes.cost_plan.hardware import Assumptions, cpu_rates
from recipes.cost_plan.step_time import Rates, StepTime, step_time
from recipes.cost_plan.step_work import StepWork, bytes_of_all_lists, compares_texts, step_work
from recipes.cost_plan.workload import ChunkCosts, Workload, build_workload
from recipes.preparation import check_settings, prepare
from recipes.run_config import RunConfig


@dataclass(frozen=True)
class Heap:
    """Bytes that glibc's heap grows by on a CPU per byte of live tensors: in training, and in an evaluation, whose few
    large tensors leave larger gaps. They depend on the order of sizes, so a plan gives a range."""

    training: float
    evaluation: float


# The middle and the largest are chosen on the runs of benchmarks/plan_accuracy.py; the smallest has no gaps.
MIDDLE, SMALLEST, LARGEST = Heap(TRAINING_HEAP, 2.5), Heap(1.0, 1.0), Heap(2.0, 3.5)
OBJECTIVE_COPIES = 4  # of a rank's own representations: sent, received, in order, and their gradients


@dataclass(frozen=True)
class Machine:
    """The machine that a run must fit into."""

    device: str  # "cpu" or "cuda"
    memory_bytes: float  # of a GPU, or of a node without GPUs
    ranks_per_node: int | None  # None: all of them
    assumptions: Assumptions = field(default_factory=Assumptions)  # of GPUs and their network

    @classmethod
    def detect(
        cls,
        device: str | None,
        memory_gib: float | None,
        ranks_per_node: int | None,
        assumptions: Assumptions | None = None,
    ) -> Machine:
        """This machine, with the options in place of what is detected. Raises ValueError if the size of a GPU is
        unknown."""
        assumptions = assumptions or Assumptions()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if ranks_per_node is None and device == "cuda":
            ranks_per_node = torch.cuda.device_count() or 8
        if memory_gib is not None:
            return cls(device, memory_gib * 2**30, ranks_per_node, assumptions)
        if device == "cpu":
            memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
            return cls(device, memory, ranks_per_node, assumptions)
        if not torch.cuda.is_available():
            raise ValueError("--device cuda on a machine without a GPU: give its memory, --memory GIB")
        return cls(device, float(torch.cuda.get_device_properties(0).total_memory), ranks_per_node, assumptions)

    def on_a_node(self, ranks: int) -> int:
        """The ranks of a node, if there are `ranks` in all."""
        return min(ranks, self.ranks_per_node or ranks)

    def rates(self, ranks: int, precision: str) -> Rates:
        """The rates of each of `ranks` ranks in a step."""
        if self.device == "cuda":
            return self.assumptions.rates(precision)
        return cpu_rates(self.on_a_node(ranks))

    def fits(self, estimate: Estimate) -> bool:
        """Whether the estimate fits. A tenth of a GPU is left to the allocator's fragments and CUDA itself."""
        if self.device == "cuda":
            return estimate.peak <= 0.9 * self.memory_bytes
        return estimate.peak * self.on_a_node(estimate.ranks) <= self.memory_bytes


@dataclass(frozen=True)
class Plan:
    """The estimates of a run, with the workload and the machine that they are made for."""

    workload: Workload
    machine: Machine
    chosen: str  # the engine in the run's settings
    engines: Mapping[str, EngineConfig]  # by name
    estimates: list[Estimate]
    process_bytes: dict[str, float]  # memory of a process without a model, by engine
    token_bytes: float  # activations of a kept chunk, per token

    @cached_property
    def steps(self) -> list[PlannedStep]:
        """The step of each estimate."""
        return [self._step(estimate) for estimate in self.estimates]

    def _step(self, estimate: Estimate) -> PlannedStep:
        """A step that keeps as many chunks as the estimate of its memory."""
        engine, ranks, device = self.engines[estimate.engine], estimate.ranks, self.machine.device
        on_a_node = self.machine.on_a_node(ranks)
        options: Any = {"kept_chunks": estimate.kept_chunks, "device": device, "ranks_per_node": on_a_node}
        work = step_work(self.workload, engine, ranks, **options)
        return PlannedStep(work, step_time(work, self.machine.rates(ranks, engine.precision), on_a_node))


@dataclass(frozen=True)
class PlannedStep:
    """A step of rank 0: what it does, and how long that takes."""

    work: StepWork
    time: StepTime


@dataclass(frozen=True)
class Estimate:
    """The memory of one engine on a number of ranks, in bytes per rank."""

    engine: str
    ranks: int
    states: StateBytes
    activations: float  # peak memory of the chunks of a step, beside the states
    evaluation: float  # peak memory of a chunk of an evaluation, or of a refresh of candidates
    lowest: float  # the peak if the heap has few gaps; that of a GPU has no range
    peak: float  # peak memory of the device; on a CPU the process itself, its libraries and the data are included
    highest: float  # the peak if the heap has many gaps
    host: float  # peak CPU memory of a rank that trains on a GPU
    checkpoint: float  # size on disk, all ranks together
    num_chunks: int  # chunks of rank 0 in the longest step
    kept_chunks: int  # those that keep their activations, at most


def estimate_memory(
    workload: Workload, engine: EngineConfig, ranks: int, costs: ChunkCosts, machine: Machine, process_bytes: float
) -> Estimate:
    """Estimate the memory of rank 0, which gets the longest chunks. `process_bytes`: memory of a process without a
    model. trainer.kept_chunks=auto is the largest number that fits, with the safety margin that a run leaves."""
    estimate = partial(_estimate, workload, engine, ranks, costs, machine, process_bytes)
    kept = workload.settings.trainer.kept_chunks
    if not isinstance(kept, str):
        return estimate(kept)
    room = machine if machine.device == "cuda" else replace(machine, memory_bytes=CPU_SHARE * machine.memory_bytes)
    numbers = range(1, estimate(1).num_chunks + 1)
    fitting = bisect_left(numbers, True, key=lambda number: not room.fits(estimate(number)))
    return estimate(max(fitting, 1))


def _estimate(
    workload: Workload,
    engine: EngineConfig,
    ranks: int,
    costs: ChunkCosts,
    machine: Machine,
    process_bytes: float,
    kept_chunks: int,
) -> Estimate:
    options = workload.settings.trainer
    states = engine.state_bytes(workload.parameters, ranks=ranks, optimizer=options.optimizer)
    steps = []
    for lengths in workload.batches:
        shapes = workload.chunk_shapes(lengths)
        own = chunks_of_rank([[index] for index in range(len(shapes))], 0, ranks)
        steps.append([costs(shapes[chunk[0]]) for chunk in own if chunk])
    activations = max(step_peak(step, kept_chunks, _NO_STATES, _NO_PARAMETERS) for step in steps)
    objective = objective_bytes(workload, ranks)
    training = max(step_peak(step, kept_chunks, states, workload.parameters, objective) for step in steps)
    longest = max(map(max, workload.batches))
    rows = max(workload.settings.eval.token_budget // longest, 1)
    evaluation = workload.model.evaluation(workload.features, rows, longest)
    if workload.search_bytes:
        evaluation = max(evaluation, workload.search_bytes + max(chunk.no_graph for step in steps for chunk in step))
    resident = states.weights + states.optimizer + states.gathered + workload.frozen_bytes
    checkpoint = checkpoint_bytes(workload.parameters, optimizer=options.optimizer)
    # A checkpoint is serialised in memory before it is written; at the end the best one is read, its files mapped.
    mapped = checkpoint / ranks if engine.partitions_state else checkpoint

    def on_cpu(heap: Heap) -> float:
        buffers = states.reduction + states.update  # allocated while the heap is fullest
        peak = process_bytes + max(
            resident + heap.training * (training + buffers),
            resident + heap.evaluation * evaluation,
            resident + checkpoint / ranks + mapped,
            states.weights + states.loading,
        )
        return max(peak, workload.reading_bytes) + states.host

    if machine.device == "cuda":
        lowest = peak = highest = resident + max(training, evaluation)
        host = process_bytes + states.host + FLOAT_BYTES * workload.parameters.total  # the model is built on the CPU
    else:
        lowest, peak, highest, host = on_cpu(SMALLEST), on_cpu(MIDDLE), on_cpu(LARGEST), 0.0
    longest_step = max(len(step) for step in steps)
    sizes = (activations, evaluation, lowest, peak, highest, host, checkpoint)
    return Estimate(engine.name, ranks, states, *sizes, longest_step, min(kept_chunks, longest_step))


def objective_bytes(workload: Workload, ranks: int) -> float:
    """The memory of the objective on each rank: representations of its own lists, and of the blocks of texts that it
    compares with them: two that are gathered, and the gradients of two; and what every rank reads of all lists, and
    its gradients."""
    of_all = 2 * bytes_of_all_lists(workload) if ranks > 1 else 0.0
    if workload.dimension is None:
        return of_all
    whole = FLOAT_BYTES * workload.mean_vectors * workload.dimension
    blocks = 4 * min(whole, BYTES_PER_BLOCK) if compares_texts(workload) and ranks > 1 else 0.0
    return OBJECTIVE_COPIES * whole / ranks + blocks + of_all


_NO_STATES = StateBytes(0.0, 0.0, 0.0)
_NO_PARAMETERS = Parameters(0, 0, 0)


def measure_process(engine: EngineConfig) -> float:
    """The memory of this process after the libraries of `engine` were loaded and used once, on a model of 2 weights.

    One step is run because some libraries are imported late (torch's compiler with the first optimizer, parts of
    DeepSpeed).
    """
    model = nn.Linear(2, 1, bias=False)
    built = engine.build(
        _Outputs(model),
        OptimizerOptions(),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        max_grad_norm=1.0,
    )
    built.backward(built.forward({"input_ids": torch.ones(1, 2)})["score"].sum(), last=True)
    built.step()
    del built
    gc.collect()
    return_freed_memory()
    return resident_bytes()


class _Outputs(nn.Module):
    """A linear layer with the interface of a reranker."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": self.linear(input_ids)}


def make_plans(
    settings: RunConfig, machine: Machine, *, ranks: Sequence[int], reads_data: bool, only_chosen: bool = False
) -> dict[str, Plan]:
    """Make the plan of each stage, by its name; a run without stages counts as one stage. `only_chosen`: for the run's
    own engine alone.

    Raises ValueError for the same settings as training does, before any weight is read.
    """
    precision = settings.engine.precision
    if precision == "auto" and machine.device == "cuda":  # this machine may have no GPU to ask
        precision = "bf16"
    autocast = autocast_dtype(precision, torch.device(machine.device))
    keep_freed_memory()
    prepared = prepare(settings) if reads_data else None
    stages = prepared.stages if prepared is not None else check_settings(settings)
    training = prepared.training if prepared is not None else [None] * len(stages)
    workloads = {
        stage.name: build_workload(stage.settings, data, autocast=autocast)
        for stage, data in zip(stages, training, strict=True)
    }
    engines = comparable_engines(settings.engine)
    if only_chosen:
        engines = {name: engine for name, engine in engines.items() if type(engine) is type(settings.engine)}
    process_bytes = measure_processes(engines)
    if only_chosen:
        engines = {settings.engine.name: settings.engine}
    return {name: make_plan(workload, engines, machine, ranks, process_bytes) for name, workload in workloads.items()}


def make_plan(
    workload: Workload,
    engines: Mapping[str, EngineConfig],
    machine: Machine,
    ranks: Sequence[int],
    process_bytes: Mapping[str, float],
) -> Plan:
    """Estimate every engine on every number of ranks. `process_bytes` are those of `measure_processes`."""
    settings = workload.settings
    costs = ChunkCosts(workload, [shape for lengths in workload.batches for shape in workload.chunk_shapes(lengths)])
    rows, tokens = max((workload.chunk_shapes(lengths)[0] for lengths in workload.batches), key=lambda s: s[0] * s[1])
    bytes_by_class = {type(engines[name]): count for name, count in process_bytes.items()}
    estimates = [
        estimate_memory(workload, engine, number, costs, machine, bytes_by_class[type(engine)])
        for engine in engines.values()
        if engine.takes_optimizer(settings.trainer.optimizer)
        for number in ranks
    ]
    token_bytes = costs((rows, tokens)).held / (rows * tokens)
    return Plan(workload, machine, settings.engine.name, engines, estimates, dict(process_bytes), token_bytes)


def comparable_engines(configured: EngineConfig) -> dict[str, EngineConfig]:
    """The engines torch and ZeRO 0-3 by name, and the run's own engine with its configured options."""
    engines: list[EngineConfig] = [TorchEngineConfig(precision=configured.precision)]
    engines += [DeepSpeedEngineConfig(stage=stage, precision=configured.precision) for stage in range(4)]
    return {engine.name: engine for engine in (*engines, configured)}


def measure_processes(engines: Mapping[str, EngineConfig]) -> dict[str, float]:
    """The memory of a process without a model, for one engine of each class, by the engine's name.

    The libraries of an engine stay loaded, so torch alone comes first.
    """
    measured: dict[type, str] = {}
    for name in sorted(engines, key=("torch", "zero2").__contains__, reverse=True):
        measured.setdefault(type(engines[name]), name)
    return {name: measure_process(engines[name]) for name in measured.values()}
