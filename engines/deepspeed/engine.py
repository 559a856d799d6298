"""DeepSpeed's ZeRO stages 0-3. Gradients are summed over chunks and ranks, exactly as in the torch engine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

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
from engines.deepspeed.expected_traffic import zero_traffic
from engines.deepspeed.options import check_overrides, deep_merge, import_deepspeed
from engines.deepspeed.partitions import flat_parameters, owned_fragments, sync_model_weights
from engines.deepspeed.state_bytes import zero_state_bytes
from engines.deepspeed.traffic import count_collectives
from engines.distributed import process_group
from engines.expected_traffic import Traffic
from engines.loss_scale import check_norm, make_loss_scale, unscale
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes
from engines.optimizers import OptimizerOptions, Schedule
from engines.precision import TRAINING_PRECISIONS, autocast_dtype, check_precision
from engines.protocol import EngineConfig

OFFLOADS = ("none", "optimizer", "all")
COALESCED_BYTES = 2**30  # the float32 gradients of 268M trained weights


@dataclass(frozen=True, kw_only=True)
class DeepSpeedEngineConfig(EngineConfig):
    """The options of the DeepSpeed engine.

    `stage`: ZeRO 0-3. `offload`: keep the optimizer state (stages 1-3), or the weights too (stage 3), in CPU memory.

    `coalesce` (stages 2, 3): every rank accumulates full gradients over the chunks of a step, and they are reduced
    once. Without it they are reduced and partitioned after every chunk. This takes fewer collectives, but also the
    memory for gradients that the stage would save. "auto": true at stage 2 while full gradients take `COALESCED_BYTES`
    at most. (Stage 3 reduces behind the backward, and is chosen where memory is what lacks.)

    `precision`: auto, fp32, or bf16 or fp16 autocast over float32 weights. `config`: further keys of DeepSpeed's own
    configuration, merged over the one built here. Keys that another option sets are refused.
    """

    stage: int = 2
    offload: str = "none"
    coalesce: bool | str = "auto"
    precision: str = "auto"
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_precision(self.precision, TRAINING_PRECISIONS)
        if self.stage not in range(4):
            raise ValueError(f"engine.stage must be 0, 1, 2 or 3, got {self.stage!r}")
        if self.offload not in OFFLOADS:
            raise ValueError(f"engine.offload must be one of {', '.join(OFFLOADS)}, got {self.offload!r}")
        if (self.offload == "optimizer" and self.stage < 1) or (self.offload == "all" and self.stage < 3):
            raise ValueError(
                f"engine.offload={self.offload} does nothing at ZeRO stage {self.stage}: choose a higher stage"
            )
        if self.coalesce not in (True, False, "auto"):
            raise ValueError(f"engine.coalesce must be true, false or auto, got {self.coalesce!r}")
        if self.coalesce is True and self.stage < 2:
            raise ValueError(
                f"engine.coalesce=true does nothing at ZeRO stage {self.stage}, which reduces once per step anyway: "
                "remove it or choose a higher stage"
            )
        if self.config:
            check_overrides(self.options(max_grad_norm=1.0, device=torch.device("cpu")), self.config)

    @property
    def name(self) -> str:
        return f"zero{self.stage}"

    @property
    def partitions_state(self) -> bool:
        return self.stage > 0

    def takes_optimizer(self, name: str) -> bool:
        # Under ZeRO 1-3 a block of 8-bit moments would span parameters and depend on the number of ranks.
        return self.stage == 0 or name != "adamw_8bit"

    def options(self, max_grad_norm: float, device: torch.device) -> dict[str, Any]:
        """DeepSpeed's configuration, without the user's own keys."""
        cpu = {"device": "cpu", "pin_memory": device.type == "cuda"}
        autocast = autocast_dtype(self.precision, device)
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": 50_000_000}
        if self.offload != "none":
            zero["offload_optimizer"] = cpu
        if self.offload == "all":
            zero["offload_param"] = cpu
        return {
            "train_micro_batch_size_per_gpu": 1,  # required but unused: the trainer makes the chunks
            "gradient_clipping": 0.0 if math.isinf(max_grad_norm) else max_grad_norm,  # DeepSpeed's default is 1.0
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,  # for SGD
            "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW also runs on the CPU, and needs no compiler
            "torch_autocast": {
                "enabled": autocast is not None,
                "dtype": str(autocast or torch.bfloat16).removeprefix("torch."),
                "lower_precision_safe_modules": [],  # gradients are reduced in float32, as in the torch engine
            },
        }

    def build(
        self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float
    ) -> DeepSpeedEngine:
        """Move `model` to this rank's device and build its engine. `max_grad_norm=inf` switches clipping off."""
        settings = deep_merge(self.options(max_grad_norm, process_group.device()), self.config)
        autocast = autocast_dtype(self.precision, process_group.device())
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        coalesce = self._coalesces(trainable) and (self.coalesce is True or can_coalesce())
        return DeepSpeedEngine(model, options, schedule, settings, autocast, stage=self.stage, coalesce=coalesce)

    def _coalesces(self, trainable: int) -> bool:
        if self.coalesce == "auto":
            return self.stage == 2 and FLOAT_BYTES * trainable <= COALESCED_BYTES
        return bool(self.coalesce)

    def _zero_options(self) -> dict[str, Any]:
        """What a plan on paper must know of DeepSpeed's options: they do not depend on device or clipping."""
        options = deep_merge(self.options(max_grad_norm=1.0, device=torch.device("cpu")), self.config)
        found: dict[str, Any] = options["zero_optimization"]
        return found

    def state_bytes(self, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
        return zero_state_bytes(
            self._zero_options(),
            parameters,
            ranks=ranks,
            optimizer=optimizer,
            offload=self.offload,
            coalesce=self._coalesces(parameters.trainable),
        )

    def traffic(
        self, parameters: Parameters, *, ranks: int, forwards: float, backwards: float, device: str
    ) -> list[Traffic]:
        return zero_traffic(
            self._zero_options(),
            parameters,
            ranks=ranks,
            forwards=forwards,
            backwards=backwards,
            device=device,
            coalesce=self._coalesces(parameters.trainable),
        )


def can_coalesce() -> bool:
    """Whether the installed DeepSpeed can reduce once per step at stages 2 and 3: 0.19.8 and later."""
    return hasattr(import_deepspeed().DeepSpeedEngine, "coalesce_grad_reduction")


class DeepSpeedEngine:
    """A DeepSpeed engine that sums the gradients of any number of chunks per step, and does not average them.

    DeepSpeed divides gradients by the number of ranks (ZeRO-3 has no option to sum), so the surrogate loss is
    multiplied by it. The accumulation boundary is set by hand, from `last`. Gradients are reduced in the last backward
    (stages 0 and 1), or in every backward (stages 2 and 3; with `coalesce` in the last one only).
    """

    def __init__(
        self,
        model: nn.Module,
        options: OptimizerOptions,
        schedule: Schedule,
        settings: dict[str, Any],
        autocast: torch.dtype | None,
        *,
        stage: int,
        coalesce: bool = False,
    ):
        deepspeed = import_deepspeed()
        if coalesce and not can_coalesce():
            raise ValueError(
                f"engine.coalesce=true needs DeepSpeed 0.19.8 or later, but {deepspeed.__version__} is installed"
            )
        if scalars := [name for name, parameter in model.named_parameters() if parameter.ndim == 0]:
            raise ValueError(f"DeepSpeed cannot broadcast a parameter without dimensions: give {scalars[0]} shape [1]")
        if not dist.is_initialized():
            process_group.start_single()
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it, even for one process
        self.name = f"zero{stage}"
        self.compiled = False
        self.stage = stage
        self.coalesce = coalesce
        # Holds DeepSpeed's `coalesce_grad_reduction` context during the backwards of a step.
        self.coalescing = ExitStack()
        self.model = model
        self.device = process_group.device()
        self.autocast = autocast
        self.scale = make_loss_scale(autocast)
        make_contiguous(model)
        self.optimizer = options.build(model)
        self.deepspeed = deepspeed
        self.schedule = schedule(self.optimizer)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, lr_scheduler=self.schedule, config=settings
        )
        count_collectives()
        # DeepSpeed's own scalers of autocast, which under ZeRO 1-3 clip before they unscale.
        self.engine.torch_autocast_z0_gradscaler = None
        if stage > 0:
            self.engine.optimizer.torch_autocast_gradscaler = None

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.float() for name, value in self.engine(**features).items()}

    def unchanged_weights(self) -> AbstractContextManager[None]:
        return nullcontext()  # under ZeRO-3 copies would hold the whole model

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        if self.stage > 0:
            # DeepSpeed clears this flag in a forward, to tell one backward from the next. Here several backwards may
            # follow each other without a forward; without this line ZeRO-3 would overwrite the gradient of the
            # previous chunk instead of adding to it.
            self.engine.optimizer.clear_backward_seen_flag()
        self.engine.set_gradient_accumulation_boundary(last)
        if self.coalesce and not self.engine.inside_no_sync_ctxt:
            self.coalescing.enter_context(self.engine.coalesce_grad_reduction())
        # In fp16 that factor would cost range: the gradients are divided by a smaller scale in `step` instead.
        factor = process_group.world_size() if self.scale is None else self.scale.value
        self.engine.backward(surrogate * factor, scale_wrt_gas=False)
        if last and self.coalesce:
            self.coalescing.close()  # reduces the gradients
            self.engine.set_gradient_accumulation_boundary(True)  # the context has restored the old value

    def step(self, finite: Tensor | None = None) -> float:
        divisor = 1.0 if self.scale is None else self.scale.value / process_group.world_size()
        if self.stage == 0:
            # Stage 0 does not check the gradients before it updates. They are reduced, so all ranks get the same norm.
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            unscale(gradients, divisor)
            norm = get_total_norm(gradients).item()
            if math.isfinite(norm):
                self.engine.step()
            else:
                self.engine.zero_grad()
        else:
            # Stages 1-3 compute the norm over all ranks and skip the update if it is not finite. They divide the
            # gradients by their loss scale where they clip them. (It is 1 again before they multiply a loss by it.)
            self.engine.optimizer.loss_scaler.cur_scale = divisor
            self.engine.step()
            self.engine.optimizer.loss_scaler.cur_scale = 1.0
            norm = float(self.engine.get_global_grad_norm()) if self.engine.was_step_applied() else math.inf
        # DeepSpeed has waited for the device already.
        check_norm(norm, self.scale, finite=finite is None or bool(finite))
        return norm

    @property
    def loss_scale(self) -> float | None:
        return None if self.scale is None else self.scale.value

    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def full_weights(self) -> AbstractContextManager[None]:
        if self.stage < 3:
            return nullcontext()
        return self.deepspeed.zero.GatheredParameters(list(self.model.parameters()))

    def shard(self) -> Shard:
        fragments = self._fragments()
        owned = rank_share(fragments) if self.stage == 0 else fragments
        scale = None if self.scale is None else self.scale.state()
        return make_shard(self.name, self.model, self.optimizer, self.schedule, owned, loss_scale=scale)

    def load(self, folder: Path) -> None:
        stored = StoredState(folder)
        stored.check(self.model)
        if self.stage == 3:
            self.engine.optimizer.checkpoint_event_prologue()
        tensors = flat_parameters(self.engine.optimizer, self.optimizer, self.stage)
        reset_optimizer(self.optimizer, tensors, stored.header["updates"])
        stored.restore(self._fragments(), self.model, self.optimizer)
        sync_model_weights(self.engine.optimizer, self.stage)
        restore_schedule(self.schedule, self.optimizer, stored.header["schedule"])
        if self.scale is not None:
            self.scale.load(stored.header.get("loss_scale"))

    def _fragments(self) -> dict[str, Fragment]:
        if self.stage == 0:
            return full_fragments(self.model, self.optimizer)
        return owned_fragments(self.model, self.engine.optimizer, self.optimizer, self.stage)
