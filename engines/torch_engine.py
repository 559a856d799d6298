"""Plain PyTorch: one process, or data parallelism with one gradient reduction per step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

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
from engines.distributed.process_group import device as rank_device
from engines.distributed.process_group import world_size
from engines.loss_scale import check_norm, make_loss_scale, unscale
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes, moment_bytes
from engines.optimizers import OptimizerOptions, Schedule
from engines.precision import TRAINING_PRECISIONS, MixedPrecision, autocast_dtype, check_precision
from engines.protocol import EngineConfig

BUCKET_BYTES = 100 * 2**20  # of gradients per all-reduce: large enough for full bandwidth, small next to the model


@dataclass(frozen=True, kw_only=True)
class TorchEngineConfig(EngineConfig):
    """`precision`: auto (bf16 autocast on GPUs that support it, else fp32), fp32, bf16, or fp16 autocast with a loss
    scale."""

    name = "torch"

    precision: str = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision, TRAINING_PRECISIONS)

    def build(
        self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float
    ) -> TorchEngine:
        """Move `model` to this rank's device and build its engine. `max_grad_norm=inf` switches clipping off."""
        return TorchEngine(model, options, schedule, max_grad_norm, self.precision)

    def state_bytes(self, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
        trained = FLOAT_BYTES * parameters.trainable
        bucket = min(trained, max(BUCKET_BYTES, FLOAT_BYTES * parameters.largest)) if ranks > 1 else 0
        return StateBytes(FLOAT_BYTES * parameters.total, trained, moment_bytes(parameters, optimizer), update=bucket)


class TorchEngine:
    """One process, or several with equal weights whose gradients are summed once per step.

    The model is not wrapped in DistributedDataParallel. DDP decides in the *forward* whether the backward will reduce,
    and allows only one such graph at a time. Here several graphs are alive and others are recomputed. So the gradients
    are summed in flat buckets after the last backward: exact in every order of calls, and a sum, where DDP averages.
    """

    name = "torch"

    def __init__(
        self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float, precision: str
    ):
        self.device = rank_device()
        self.model = model.to(self.device)
        make_contiguous(model)
        self.optimizer = options.build(model)
        self.schedule = schedule(self.optimizer)
        self.max_grad_norm = max_grad_norm
        self.autocast = autocast_dtype(precision, self.device)
        self.scale = make_loss_scale(self.autocast)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if world_size() > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, src=0)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return MixedPrecision(self.model, self.autocast).forward(features)

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        (surrogate if self.scale is None else surrogate * self.scale.value).backward()
        if last:
            # An unused parameter gets gradient 0, on one rank, on several ranks and under ZeRO alike.
            for parameter in self.trainable:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if world_size() > 1:
                _sum_over_ranks([parameter.grad for parameter in self.trainable if parameter.grad is not None])

    def step(self) -> float:
        gradients = [parameter.grad for parameter in self.trainable if parameter.grad is not None]
        unscale(gradients, self.loss_scale or 1.0)
        # The reduced gradient is the same on every rank, and so is this norm: no further collective is needed.
        total_norm = get_total_norm(gradients)
        norm = total_norm.item()
        try:
            check_norm(norm, self.scale)
            clip_grads_with_norm_(self.trainable, self.max_grad_norm, total_norm)
            self.optimizer.step()
            self.schedule.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return norm

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


def _sum_over_ranks(gradients: list[Tensor]) -> None:
    """Sum each gradient over the ranks in place, in flat buckets."""
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view_as(old) for part, old in zip(parts, bucket, strict=True)])


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, up to BUCKET_BYTES together."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or size + gradient.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
