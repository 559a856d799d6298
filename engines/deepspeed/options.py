"""Import DeepSpeed without its log output, and check the keys that a user sets in engine.config."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Mapping
from typing import Any

# Keys that are set by other options; the value names the option.
SET_ELSEWHERE = {
    "optimizer": "trainer.optimizer",
    "scheduler": "trainer.schedule",
    "train_batch_size": "trainer.batch_size",
    "train_micro_batch_size_per_gpu": "trainer.token_budget",
    "gradient_accumulation_steps": "trainer.token_budget",
    "managed_gradient_accumulation": "trainer.token_budget",
    "gradient_allreduce_op": "the engine, which always sums",
    "gradient_clipping": "trainer.max_grad_norm",
    "bf16": "engine.precision",
    "fp16": "engine.precision, whose fp16 has a loss scale",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
    "zero_optimization.stage": "engine=zero0 ... zero3",
}
# Keys of zero_optimization that keep weights where engines.deepspeed.partitions cannot read them.
NOT_SAVEABLE = {
    "mics_shard_size": "sharded within groups of ranks",
    "offload_optimizer.nvme_path": "on NVMe",
    "offload_param.nvme_path": "on NVMe",
}
# Keys that the error message lists if a wrong key resembles none.
EXAMPLES = ("zero_optimization", "communication_data_type", "wall_clock_breakdown", "memory_breakdown", "comms_logger")


def import_deepspeed() -> Any:
    """Import the module deepspeed, which then logs errors only.

    Its shared-memory operator for CPU inference is switched off: training never uses it, and it would be compiled
    with g++ and ninja at the first start on each machine.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the import logs "Setting accelerator to CPU"
    try:
        import deepspeed
        from deepspeed.utils import logger
    finally:
        logging.disable(previous)
    logger.setLevel(logging.ERROR)
    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `overrides` into a copy of `base`, section by section."""
    merged = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = deep_merge(base[key], value) if nested else value
    return merged


def check_overrides(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that DeepSpeed does not read, a value that it refuses, or a key that another option
    sets."""
    zero = overrides.get("zero_optimization") or {}
    for key in [*overrides, *(f"zero_optimization.{key}" for key in zero)]:
        if key in SET_ELSEWHERE:
            raise ValueError(f"engine.config.{key} is set by {SET_ELSEWHERE[key]}: remove it")
    for key, location in NOT_SAVEABLE.items():
        section, _, inner = key.partition(".")
        if (inner or section) in (zero.get(section) or {} if inner else zero):
            raise ValueError(
                f"engine.config.zero_optimization.{key}: checkpoints cannot hold state {location}: remove it"
            )
    import_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    config = _RecordingDict(deep_merge(base, overrides))
    try:
        DeepSpeedConfig(config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"engine.config: DeepSpeed refuses {key} in {error.title}: {first['msg']}") from None
    for key in overrides:
        if key not in config.keys_read:
            near = difflib.get_close_matches(key, sorted(config.keys_read), n=3, cutoff=0.5)
            hint = f"nearest: {', '.join(near)}" if near else f"some valid keys: {', '.join(EXAMPLES)}"
            raise ValueError(f"engine.config.{key} is not a key of DeepSpeed's configuration; {hint}")


class _RecordingDict(dict[str, Any]):
    """A dict that records which keys were read. DeepSpeed silently ignores the keys that it does not know."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(values)
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(str(key))
        return super().__contains__(key)
