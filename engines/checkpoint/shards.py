"""The state of a model and its optimizer on disk, in a layout that depends on no engine and no number of ranks.

Every engine has the same state: float32 weights, two moments per weight (AdamW only), the number of updates, the
schedule and, in fp16, the loss scale. Each rank writes the slices of the flattened parameters that it owns to
rank-NNNNN.safetensors; no element is written twice. Rank 0 adds the buffers, the scales of 8-bit moments and
engine.json. On loading, each rank reads the slices that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from engines.distributed.process_group import is_main, rank, world_size

HEADER_FILE = "engine.json"
WEIGHT = "weight"


@dataclass(frozen=True)
class Fragment:
    """A slice of a flattened parameter that begins at element `start`.

    `values` holds "weight" and the moments of the optimizer, [n] each. They are views: writing into them changes the
    model and the optimizer.
    """

    start: int
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """The part of a checkpoint that one rank writes. `header` is the same on all ranks (JSON types)."""

    fragments: dict[str, Fragment]  # by parameter name
    buffers: dict[str, Tensor]
    header: dict[str, Any]

    def cpu_copy(self) -> Shard:
        """Copy the shard to CPU memory, so that further training steps do not change it."""
        fragments = {
            name: replace(fragment, values={key: _copy(value) for key, value in fragment.values.items()})
            for name, fragment in self.fragments.items()
        }
        return replace(self, fragments=fragments, buffers={name: _copy(value) for name, value in self.buffers.items()})

    def write(self, folder: Path) -> list[Path]:
        """Write this rank's files to `folder` and return their paths. Raises OSError if they cannot be written."""
        file = folder / f"rank-{rank():05d}.safetensors"
        tensors = {
            f"{key}/{name}": value.detach()
            for name, fragment in self.fragments.items()
            for key, value in fragment.values.items()
        }
        tensors |= {f"buffer/{name}": value.contiguous() for name, value in self.buffers.items()} if is_main() else {}
        starts = {name: fragment.start for name, fragment in self.fragments.items()}
        try:
            save_file(tensors, file, metadata={"starts": json.dumps(starts)})
        except SafetensorError as error:
            raise OSError(f"{file}: {error}") from error
        if not is_main():
            return [file]
        (folder / HEADER_FILE).write_text(json.dumps(self.header, indent=1) + "\n")
        return [file, folder / HEADER_FILE]


class StoredState:
    """The shards in a folder, read slice by slice."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / HEADER_FILE).is_file():
            raise ValueError(f"{folder} holds no checkpoint: {HEADER_FILE} is missing")
        self.header: dict[str, Any] = json.loads((folder / HEADER_FILE).read_text())
        self._slices: dict[str, list[tuple[int, int, Any]]] = {}  # tensor name -> [(start, stop, file)]
        for number in range(self.header["world_size"]):
            file = safe_open(folder / f"rank-{number:05d}.safetensors", "pt")
            starts = json.loads(file.metadata()["starts"])
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                start = starts.get(name.split("/", 1)[1], 0)
                size = 0 if name.startswith("buffer/") else file.get_slice(name).get_shape()[0]
                self._slices.setdefault(name, []).append((start, start + size, file))

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if this is the state of another model."""
        stored, expected = self.header["parameters"], full_shapes(model)
        if stored != expected:
            differing = sorted(stored.keys() ^ expected.keys()) or "shapes"
            raise ValueError(f"{self.folder} holds another model's weights (differing: {differing})")

    @torch.no_grad()
    def restore(self, fragments: Mapping[str, Fragment], model: nn.Module, optimizer: Optimizer) -> None:
        """Write the stored values into the views of `fragments`, the buffers of `model` and the scales of its 8-bit
        moments.

        A state that was stored before the first update has no moments; those of `fragments` are then left unchanged,
        and so are buffers that it lacks: what a loss keeps with the model, in a state of a training by another loss.
        """
        for name, fragment in fragments.items():
            for key, value in fragment.values.items():
                if key == WEIGHT or self.header["updates"] > 0:
                    self._read(f"{key}/{name}", fragment.start, value)
        for name, buffer in whole_tensors(model, optimizer).items():
            for _, _, file in self._slices.get(f"buffer/{name}", []):
                buffer.copy_(file.get_tensor(f"buffer/{name}"))

    def _read(self, name: str, start: int, into: Tensor) -> None:
        stop, read = start + len(into), 0
        for first, last, file in self._slices.get(name, []):
            low, high = max(start, first), min(stop, last)
            if low < high:
                into[low - start : high - start].copy_(file.get_slice(name)[low - first : high - first])
                read += high - low
        if read != len(into):
            raise ValueError(
                f"{self.folder} lacks elements of {name}: {read} of {len(into)} from element {start} on found"
            )


def make_shard(
    engine: str,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Any,
    fragments: dict[str, Fragment],
    *,
    loss_scale: dict[str, Any] | None = None,
) -> Shard:
    """Build the shard of this rank, which owns `fragments`. `loss_scale`: its state in fp16."""
    updates = schedule.last_epoch
    keys = {WEIGHT, *(moment_names(optimizer) if updates else ())}
    stored = {
        name: replace(fragment, values={key: value for key, value in fragment.values.items() if key in keys})
        for name, fragment in fragments.items()
    }
    header = {
        "engine": engine,
        "world_size": world_size(),
        "updates": updates,
        "schedule": schedule.state_dict(),
        "parameters": full_shapes(model),
        **({} if loss_scale is None else {"loss_scale": loss_scale}),
    }
    return Shard(stored, whole_tensors(model, optimizer if updates else None), header)


def moment_names(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of the tensors that the optimizer keeps for each parameter."""
    if _in_8bit(optimizer):
        return ("state1", "state2")
    return ("exp_avg", "exp_avg_sq") if isinstance(optimizer, AdamW) else ()


def _in_8bit(optimizer: Optimizer | None) -> bool:
    return type(optimizer).__name__ == "AdamW8bit"


def reset_optimizer(optimizer: Optimizer, tensors: Sequence[Tensor], updates: int) -> None:
    """Give each tensor that the optimizer updates the state that `updates` updates with zero gradients leave.

    torch creates this state at the first update; a checkpoint is read into it.
    """
    optimizer.state.clear()
    if not moment_names(optimizer):
        return
    if _in_8bit(optimizer):
        _reset_8bit(optimizer, updates)
        return
    for tensor in tensors:
        # Fused AdamW needs the step on the device of the weights.
        step = torch.tensor(float(updates), dtype=torch.float32, device=tensor.device)
        optimizer.state[tensor] = {"step": step, **{key: torch.zeros_like(tensor) for key in moment_names(optimizer)}}


def _reset_8bit(optimizer: Any, updates: int) -> None:
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, number, position)
            optimizer.state[parameter]["step"] = updates


def restore_schedule(schedule: Any, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Set the schedule to the update of `state`, and the learning rates to what it gives there.

    The peak is that of this run: one that starts from the checkpoint of another (resume=PATH) may have its own.
    """
    schedule.load_state_dict({**state, "base_lrs": list(schedule.base_lrs)})
    schedule._last_lr = [
        peak * factor(schedule.last_epoch) for peak, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, learning_rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = learning_rate


def make_contiguous(model: nn.Module) -> None:
    """Make every trainable parameter contiguous: flattened views and gloo's collectives need that."""
    for _, parameter in trainable_parameters(model):
        parameter.data = parameter.data.contiguous()


def full_fragments(model: nn.Module, optimizer: Optimizer) -> dict[str, Fragment]:
    """The fragments of an engine whose ranks all hold the full parameters."""
    fragments = {}
    for name, parameter in trainable_parameters(model):
        state = optimizer.state.get(parameter, {})
        moments = {key: state[key].view(-1) for key in moment_names(optimizer) if key in state}
        fragments[name] = Fragment(0, {WEIGHT: parameter.data.view(-1), **moments})
    return fragments


def rank_share(fragments: Mapping[str, Fragment]) -> dict[str, Fragment]:
    """The part of the full `fragments` that this rank writes. All ranks write about the same number of elements."""
    total = sum(len(fragment.values[WEIGHT]) for fragment in fragments.values())
    share = -(-total // world_size())
    first, position, own = rank() * share, 0, {}
    for name, fragment in fragments.items():
        size = len(fragment.values[WEIGHT])
        low, high = max(first - position, 0), min(first + share - position, size)
        if low < high:
            own[name] = Fragment(low, {key: value[low:high] for key, value in fragment.values.items()})
        position += size
    return own


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable parameters with their names, shared ones once. Frozen weights are not part of a checkpoint."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def full_shapes(model: nn.Module) -> dict[str, list[int]]:
    """The full shape of every trainable parameter, by name, also if ZeRO-3 has partitioned it."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in trainable_parameters(model)
    }


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers."""
    names = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name in names}


def whole_tensors(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Tensor]:
    """What every rank holds whole and rank 0 writes: the persistent buffers, and the scales of the blocks of 8-bit
    moments (only engines whose ranks hold the whole optimizer take such)."""
    scales = {
        f"{key}/{name}": optimizer.state[parameter][key]
        for name, parameter in trainable_parameters(model)
        for key in ("absmax1", "absmax2")
        if optimizer is not None and key in optimizer.state.get(parameter, {})
    }
    return persistent_buffers(model) | scales


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
