"""The time of a training step on paper: the work of a rank, at the rates of its hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from recipes.cost_plan.step_work import StepWork


@dataclass(frozen=True)
class Rates:
    """What the hardware of one rank does in a second, in a training step and not at its peak."""

    flops: float  # operations of matrix products, the work between them included
    update_bytes: float  # bytes that the optimizer reads and writes
    bytes_in_node: float  # that a rank receives from ranks of its node
    bytes_between: float  # that a rank receives if some are on other nodes
    message_s_in_node: float  # until a message has arrived
    message_s_between: float
    host_bytes: float  # that a rank receives from others between CPUs, by gloo
    host_message_s: float
    step_s: float  # of each step: reading of the batch, launches, the host's waiting
    row_s: float = 0.0  # of each row of the global step, on every host
    overlaps: bool = True  # what can go on behind something else does

    def of(self, *, on_host: bool, in_node: bool) -> tuple[float, float]:
        """The bytes per second, and the seconds of a message, of a collective."""
        if on_host:
            return self.host_bytes, self.host_message_s
        return (self.bytes_in_node, self.message_s_in_node) if in_node else (self.bytes_between, self.message_s_between)


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step, by part."""

    compute: float  # forward and backward
    objective: float
    update: float
    exchange: float  # collectives, and the host's work for the next batch, that nothing hides
    fixed: float

    @property
    def total(self) -> float:
        """The seconds of the step."""
        return self.compute + self.objective + self.update + self.exchange + self.fixed


def step_time(work: StepWork, rates: Rates, ranks_per_node: int) -> StepTime:
    """The time of the work of a rank."""
    compute = (work.forward_flops + work.backward_flops) / rates.flops
    objective = work.objective_flops / rates.flops
    seconds = {"": 0.0, "backward": 0.0, "objective": 0.0, "step": 0.0}
    for each in work.traffic:
        in_node = (each.ranks or work.ranks) <= ranks_per_node
        bytes_per_s, message_s = rates.of(on_host=each.on_host, in_node=in_node)
        seconds[each.behind] += each.num_bytes / bytes_per_s + each.messages * message_s
    rows_s = rates.row_s * work.rows
    if rates.overlaps:
        seconds["step"] += rows_s
        rows_s = 0.0
        backwards = max((each.backwards for each in work.traffic), default=0.0)
        of_backwards = backwards / work.chunks * work.backward_flops / rates.flops
        for behind, hidden in {"backward": of_backwards, "objective": objective, "step": compute}.items():
            seconds[behind] = max(seconds[behind] - hidden, 0.0)
    return StepTime(
        compute,
        objective,
        work.update_bytes / rates.update_bytes,
        sum(seconds.values()),
        rates.step_s + rows_s,
    )


def seconds_on_shared_cores(seconds: Sequence[float], cores: int) -> float:
    """The time in which ranks that compute for so many `seconds` each are done on `cores` that they share. While more
    ranks compute than there are cores, each gets an equal part of them."""
    done, ordered = 0.0, sorted(seconds)
    for number, (before, own) in enumerate(zip([0.0, *ordered], ordered, strict=False)):
        done += (own - before) * max((len(ordered) - number) / cores, 1.0)
    return done


def fit_rates(works: Sequence[StepWork], seconds: Sequence[float], models: Sequence[str]) -> dict[str, Rates]:
    """Fit the rates of ranks that share a processor to measured steps on one rank and on several. `models`: the name of
    the model of each. Returns the rates by model.

    A step takes a sum of times: operations, bytes updated, bytes received, rows, and a constant. Models have their own
    share of the processor's peak; the other rates are those of the machine. The fit is one of least squares of relative
    errors; no time is negative. Nothing overlaps there: whoever reduces needs the same cores.
    """
    measured, names = np.array(seconds), sorted(set(models))
    rows = np.array(
        [
            [work.update_bytes, work.received_bytes, work.rows, 1.0] + [work.flops * (model == name) for name in names]
            for work, model in zip(works, models, strict=True)
        ]
    )
    scale = rows.max(axis=0)
    scale[scale == 0] = 1.0
    fitted, _ = nnls(rows / scale / measured[:, None], np.ones(len(measured)))
    update_s, byte_s, row_s, step_s, *of_models = (float(value) for value in fitted / scale)
    update, rate = _inverse(update_s), _inverse(byte_s)
    network = (rate, rate, 0.0, 0.0, rate, 0.0)
    return {
        name: Rates(_inverse(flop_s), update, *network, step_s, row_s, overlaps=False)
        for name, flop_s in zip(names, of_models, strict=True)
    }


def _inverse(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else float("inf")
