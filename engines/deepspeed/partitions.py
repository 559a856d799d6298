"""Where DeepSpeed keeps the part of weights and moments that a rank updates, as views by parameter name.

Its own checkpoints are bound to the stage and the number of ranks, and the way out of them, the universal checkpoint,
is a second copy made by a separate program. The partitions themselves are plain: slices of flat float32 parameters.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from engines.checkpoint.shards import WEIGHT, Fragment, moments, trainable
from engines.distributed.process_group import rank


def partitions(model: nn.Module, zero: Any, optimizer: Optimizer, stage: int) -> dict[str, Fragment]:
    """What this rank owns under ZeRO 1-3; `zero` is DeepSpeed's optimizer around `optimizer`."""
    fragments = {}
    for name, parameter in trainable(model):
        flat, position, start, size = _place(parameter, zero, stage)
        if size > 0:
            state = optimizer.state.get(flat, {})
            tensors = {WEIGHT: flat.detach(), **{key: state[key] for key in moments(optimizer) if key in state}}
            fragments[name] = Fragment(
                start, {key: value[position : position + size] for key, value in tensors.items()}
            )
    return fragments


def _place(parameter: Any, zero: Any, stage: int) -> tuple[Tensor, int, int, int]:
    """The flat tensor with this rank's part of `parameter`, where in it, from which element on, and how many."""
    if stage < 3:
        part = parameter._hp_mapping
        if part is None:
            return zero.single_partition_of_fp32_groups[0], 0, 0, 0
        flat = zero.single_partition_of_fp32_groups[part.param_group_index]
        return flat, part.hp_fragment_address.start, part.lp_fragment_address.start, part.hp_fragment_address.numel
    group, position, padded_size = zero.grad_position[zero.get_param_id(parameter)]
    start = rank() * padded_size  # the last rank's part, or more, may be padding
    return zero.fp32_partitioned_groups_flat[group], position, start, min(padded_size, parameter.ds_numel - start)


def flat_parameters(zero: Any, optimizer: Optimizer, stage: int) -> list[Tensor]:
    """The tensors that `optimizer` updates on this rank."""
    if stage == 0:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat


def spread_weights(zero: Any, stage: int) -> None:
    """Bring the weights that the forward reads up to those that the ranks own. All ranks call it."""
    if stage in (1, 2):
        zero.update_lp_params()
        zero._hp_optimizer_states_linked = (
            False  # the optimizer's tensors are new: DeepSpeed finds them at its next step
        )
    if stage == 3:
        for group, flat in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[group].data.copy_(flat.data)
            zero._unflatten_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()  # parameters small enough to be whole on every rank are gathered again
