"""Plain PyTorch: one process, or data parallelism with one gradient reduction per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engines.checkpoint.shards import (
    Fragment,
    Shard,
    StoredState,
    full_fragments,
    make_contiguous,
    make_shard,
    rank_share,
    reset_optimizer,
    restore_schedule,
)
from engines.compilation import compile_in_place, explain_compiler_errors
from engines.distributed.process_group import device as rank_device
from engines.distributed.process_group import world_size
from engines.host_copy import HostCopy
from engines.loss_scale import check_norm, make_loss_scale, unscale
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes, moment_bytes
from engines.optimizers import OptimizerOptions, Schedule
from engines.precision import TRAINING_PRECISIONS, MixedPrecision, autocast_dtype, check_precision
from engines.protocol import EngineConfig
from engines.reduction import GradientSum


@dataclass(frozen=True, kw_only=True)
class TorchEngineConfig(EngineConfig):
    """`precision`: auto (bf16 autocast on GPUs that support it, else fp32), fp32, bf16, or fp16 autocast with a loss
    scale.

    `compile`: run the model through torch.compile. Its first steps take minutes: docs/performance.md says when it pays.
    """

    name = "torch"

    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision, TRAINING_PRECISIONS)

    def build(
        self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float
    ) -> TorchEngine:
        """Move `model` to this rank's device and build its engine. `max_grad_norm=inf` switches clipping off."""
        return TorchEngine(model, options, schedule, max_grad_norm, self.precision, compiled=self.compile)

    def state_bytes(self, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
        trained = FLOAT_BYTES * parameters.trainable
        # On several ranks they are views of the buckets that are summed.
        moments = moment_bytes(parameters, optimizer)
        return StateBytes(FLOAT_BYTES * parameters.total, trained, moments, at_once=ranks > 1)


class TorchEngine:
    """One process, or several with equal weights whose gradients are summed once per step.

    The model is not wrapped in DistributedDataParallel. DDP decides in the *forward* whether the backward will reduce,
    and allows only one such graph at a time. Here several graphs are alive and others are recomputed. So the gradients
    are summed in flat buckets during the last backward (`GradientSum`): exact in every order of calls, and a sum, where
    DDP averages.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        options: OptimizerOptions,
        schedule: Schedule,
        max_grad_norm: float,
        precision: str,
        *,
        compiled: bool = False,
    ):
        self.device = rank_device()
        self.model = model.to(self.device)
        self.compiled = compiled
        if compiled:
            compile_in_place(self.model)
        make_contiguous(model)
        self.optimizer: Any = options.build(model)
        # The fused kernels of torch read a flag of the device and then leave the update out.
        self.updates_on_device = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self.schedule = schedule(self.optimizer)
        self.max_grad_norm = max_grad_norm
        self.autocast = autocast_dtype(precision, self.device)
        self.scale = make_loss_scale(self.autocast)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradient_sum = GradientSum(self.trainable) if world_size() > 1 else None
        if world_size() > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, src=0)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.compiled:
            return MixedPrecision(self.model, self.autocast).forward(features)
        with explain_compiler_errors():
            return MixedPrecision(self.model, self.autocast).forward(features)

    def unchanged_weights(self) -> AbstractContextManager[None]:
        # Autocast keeps its casts of weights until the outermost of its contexts ends, also one that casts nothing.
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, enabled=False)

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        if self.gradient_sum is not None:
            self.gradient_sum.begin_backward(last=last)
        (surrogate if self.scale is None else surrogate * self.scale.value).backward()
        if last and self.gradient_sum is not None:
            self.gradient_sum.finish()
        elif last:
            # An unused parameter gets gradient 0, on one rank, on several ranks and under ZeRO alike.
            for parameter in self.trainable:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def step(self, finite: Tensor | None = None) -> float:
        gradients = [parameter.grad for parameter in self.trainable if parameter.grad is not None]
        unscale(gradients, self.loss_scale or 1.0)
        # The reduced gradient is the same on every rank, and so is this norm: no further collective is needed.
        total_norm = get_total_norm(gradients)
        finite = torch.ones((), dtype=torch.bool, device=self.device) if finite is None else finite
        known = HostCopy({"norm": total_norm, "finite": finite})
        try:
            if self.updates_on_device:
                # Queued before the host knows the norm, and left out by the kernels if it is not finite. While the host
                # waits and prepares the next step, the device updates the weights.
                self.optimizer.found_inf = (~(finite & total_norm.isfinite())).float()
                self._update(total_norm)
            numbers = known.read()
            check_norm(numbers["norm"], self.scale, finite=bool(numbers["finite"]))
            if not self.updates_on_device:
                self._update(total_norm)
            self.schedule.step()
        finally:
            self.drop_gradients()
        return numbers["norm"]

    def drop_gradients(self) -> None:
        """Set all gradients to None."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.gradient_sum is not None:
            self.gradient_sum.release()

    def _update(self, total_norm: Tensor) -> None:
        if not math.isinf(self.max_grad_norm):
            clip_grads_with_norm_(self.trainable, self.max_grad_norm, total_norm)
        self.optimizer.step()

    @property
    def loss_scale(self) -> float | None:
        return None if self.scale is None else self.scale.value

    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def full_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shard(self) -> Shard:
        owned, scale = rank_share(self._fragments()), None if self.scale is None else self.scale.state()
        return make_shard(self.name, self.model, self.optimizer, self.schedule, owned, loss_scale=scale)

    def load(self, folder: Path) -> None:
        stored = StoredState(folder)
        stored.check(self.model)
        reset_optimizer(self.optimizer, self.trainable, stored.header["updates"])
        stored.restore(self._fragments(), self.model, self.optimizer)
        restore_schedule(self.schedule, self.optimizer, stored.header["schedule"])
        if self.scale is not None:
            self.scale.load(stored.header.get("loss_scale"))

    def _fragments(self) -> dict[str, Fragment]:
        return full_fragments(self.model, self.optimizer)
