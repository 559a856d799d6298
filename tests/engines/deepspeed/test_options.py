"""The keys of engine.config: merged last, and wrong ones are refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.deepspeed.options import EXAMPLES, deep_merge

CPU = torch.device("cpu")


def test_deep_merge_keeps_what_is_not_overridden() -> None:
    base = {"zero": {"stage": 2, "bucket": 1}, "clip": 1.0}
    assert deep_merge(base, {"zero": {"bucket": 5}, "more": True}) == {
        "zero": {"stage": 2, "bucket": 5},
        "clip": 1.0,
        "more": True,
    }
    assert base["zero"]["bucket"] == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gradient_cliping": 1.0}, r"engine.config.gradient_cliping is not a key .*nearest: gradient_clipping"),
        (
            {"nonsense": 1},
            r"engine.config.nonsense is not a key .*; some valid keys: zero_optimization, communication_data",
        ),
        ({"zero_optimization": {"reduce_bucket": 5}}, r"DeepSpeed refuses reduce_bucket in DeepSpeedZeroConfig"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, r"DeepSpeed refuses reduce_bucket_size"),
        ({"zero_optimization": {"stage": 3}}, r"engine.config.zero_optimization.stage is set by engine=zero0"),
        ({"optimizer": {"type": "Adam"}}, r"engine.config.optimizer is set by trainer.optimizer"),
        ({"fp16": {"enabled": True}}, r"engine.config.fp16 is set by engine.precision"),
        ({"bf16": {"enabled": True}}, r"engine.config.bf16 is set by engine.precision"),
        ({"torch_autocast": {"enabled": True}}, r"engine.config.torch_autocast is set by engine.precision"),
        ({"gradient_clipping": 0.5}, r"engine.config.gradient_clipping is set by trainer.max_grad_norm"),
    ],
)
def test_wrong_keys_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepSpeedEngineConfig(stage=2, config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 4}, "engine.stage must be 0, 1, 2 or 3, got 4"),
        ({"offload": "disk"}, "engine.offload must be one of none, optimizer, all, got 'disk'"),
        ({"stage": 0, "offload": "optimizer"}, "does nothing at ZeRO stage 0"),
        ({"stage": 2, "offload": "all"}, "does nothing at ZeRO stage 2"),
        (
            {"stage": 0, "coalesce": True},
            "engine.coalesce=true does nothing at ZeRO stage 0, which",
        ),
        ({"stage": 1, "coalesce": True}, "engine.coalesce=true does nothing at ZeRO stage 1"),
        ({"coalesce": "maybe"}, "engine.coalesce must be true, false or auto, got 'maybe'"),
        ({"precision": "fp8"}, "engine.precision must be one of auto, fp32, bf16, fp16, got 'fp8'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepSpeedEngineConfig(**options)


def test_known_keys_pass() -> None:
    values = {"zero_optimization": {"overlap_comm": True}, "communication_data_type": "fp32", "comms_logger": {}}
    config = {key: values.get(key, True) for key in EXAMPLES}
    assert DeepSpeedEngineConfig(stage=2, config=config).config == config


def test_clipping_is_always_set() -> None:
    assert DeepSpeedEngineConfig().options(2.0, CPU)["gradient_clipping"] == 2.0
    assert DeepSpeedEngineConfig().options(float("inf"), CPU)["gradient_clipping"] == 0.0


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_has_its_file_with_the_defaults(stage: int) -> None:
    node = yaml.safe_load((Path(__file__).parents[3] / f"conf/engine/zero{stage}.yaml").read_text())
    assert node.pop("_target_") == "engines.deepspeed.engine.DeepSpeedEngineConfig"
    assert DeepSpeedEngineConfig(**node) == DeepSpeedEngineConfig(stage=stage)
