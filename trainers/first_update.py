"""A check after the first update: adapters that have stayed at 0 are not trained."""

from __future__ import annotations

from torch import Tensor, nn

from engines.distributed.collectives import all_agree


def check_adapters_moved(model: nn.Module) -> None:
    """Raise RuntimeError, on every rank, if all LoRA matrices B, which start at 0, are still 0 after an update.

    Each rank checks its own part of the weights. Call it on all ranks.
    """
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
    if adapters and all_agree(not any(_local_part(parameter).any() for parameter in adapters)):
        raise RuntimeError(
            f"the first update did not reach the LoRA adapters: all {len(adapters)} matrices B are still 0 after an "
            "update with a gradient that is not 0"
        )


def _local_part(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a weight under ZeRO-3, else the whole weight."""
    return getattr(parameter, "ds_tensor", parameter).detach()
