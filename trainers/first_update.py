"""Whether the first update reached the adapters (peft issue 1402: under some engines they stay what they were)."""

from __future__ import annotations

from torch import Tensor, nn

from engines.distributed.collectives import all_agree


def check_adapters_moved(model: nn.Module) -> None:
    """Raise RuntimeError, on every rank, where all of LoRA's B, which starts at 0, is still 0 after an update.

    Each rank looks at what it holds of the weights. All ranks must call it together.
    """
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
    if adapters and all_agree(not any(_held(parameter).any() for parameter in adapters)):
        raise RuntimeError(
            f"the first update did not reach the LoRA adapters: all {len(adapters)} matrices B are still 0 after a "
            "gradient that was not"
        )


def _held(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a weight that ZeRO-3 shards, else the whole."""
    return getattr(parameter, "ds_tensor", parameter).detach()
