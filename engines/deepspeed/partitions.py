"""The weights and moments that a rank owns under ZeRO, as views by parameter name.

DeepSpeed's own checkpoints depend on the stage and the number of ranks. Its universal checkpoints do not, but they are
a second copy that a separate program makes. The partitions themselves are simple: slices of flat float32 parameters.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from engines.checkpoint.shards import WEIGHT, Fragment, moment_names, trainable_parameters
from engines.distributed.process_group import rank


def owned_fragments(model: nn.Module, zero: Any, optimizer: Optimizer, stage: int) -> dict[str, Fragment]:
    """The fragments that this rank owns under ZeRO 1-3. `zero` is DeepSpeed's wrapper around `optimizer`."""
    fragments = {}
    for name, parameter in trainable_parameters(model):
        flat, position, start, size = _locate(parameter, zero, stage)
        if size > 0:
            state = optimizer.state.get(flat, {})
            tensors = {WEIGHT: flat.detach(), **{key: state[key] for key in moment_names(optimizer) if key in state}}
            fragments[name] = Fragment(
                start, {key: value[position : position + size] for key, value in tensors.items()}
            )
    return fragments


def _locate(parameter: Any, zero: Any, stage: int) -> tuple[Tensor, int, int, int]:
    """Locate this rank's part of `parameter`.

    Returns the flat tensor that holds the part, its position there, its first element in the parameter, and its size.
    """
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


def sync_model_weights(zero: Any, stage: int) -> None:
    """Copy the weights that the ranks own into the weights that the forward reads. Call on all ranks."""
    if stage in (1, 2):
        zero.update_lp_params()
        # The tensors of the optimizer are new: DeepSpeed links them again at its next step.
        zero._hp_optimizer_states_linked = False
    if stage == 3:
        for group, flat in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[group].data.copy_(flat.data)
            zero._unflatten_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()  # gathers the small parameters that every rank holds in full
