"""The state of a model and its optimizer on disk, in a layout that belongs to no engine and no number of ranks.

The state of every engine is the same: float32 weights and, under AdamW, two moments per weight, the number of updates
and the schedule. Each rank writes the slices of the flattened parameters that it owns, no element twice, to
rank-NNNNN.safetensors; rank 0 adds buffers and engine.json. A reader takes from these files whatever slices it needs.
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
    """The elements from `start` of a flattened parameter; `values`: "weight" and the optimizer's own, [n] each.

    They are views: writing into them changes the model and the optimizer.
    """

    start: int
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """What one rank adds to a checkpoint. `header` is the same on all ranks (JSON types)."""

    fragments: dict[str, Fragment]  # by parameter name
    buffers: dict[str, Tensor]
    header: dict[str, Any]

    def copied(self) -> Shard:
        """The same in CPU memory of its own, which training does not change any more."""
        fragments = {
            name: replace(fragment, values={key: _copy(value) for key, value in fragment.values.items()})
            for name, fragment in self.fragments.items()
        }
        return replace(self, fragments=fragments, buffers={name: _copy(value) for name, value in self.buffers.items()})

    def write(self, folder: Path) -> list[Path]:
        """This rank's files in `folder`, and their paths. Raises OSError where they cannot be written."""
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
    """Reads what the shards of a folder hold, slice by slice."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / HEADER_FILE).is_file():
            raise ValueError(f"{folder} holds no checkpoint: {HEADER_FILE} is missing")
        self.header: dict[str, Any] = json.loads((folder / HEADER_FILE).read_text())
        self._places: dict[str, list[tuple[int, int, Any]]] = {}  # tensor name -> start, stop, its file
        for number in range(self.header["world_size"]):
            file = safe_open(folder / f"rank-{number:05d}.safetensors", "pt")
            starts = json.loads(file.metadata()["starts"])
            for name in file.keys():  # noqa: SIM118 (no mapping)
                start = starts.get(name.split("/", 1)[1], 0)
                size = 0 if name.startswith("buffer/") else file.get_slice(name).get_shape()[0]
                self._places.setdefault(name, []).append((start, start + size, file))

    def check(self, model: nn.Module) -> None:
        """Raise ValueError where this is the state of another model."""
        stored, expected = self.header["parameters"], whole_shapes(model)
        if stored != expected:
            differing = sorted(stored.keys() ^ expected.keys()) or "shapes"
            raise ValueError(f"{self.folder} holds another model's weights (differing: {differing})")

    @torch.no_grad()
    def restore(self, fragments: Mapping[str, Fragment], model: nn.Module) -> None:
        """Write the stored values into the views of `fragments` and into the buffers of `model`.

        Before the first update an optimizer has no values; those of `fragments` are left alone then.
        """
        for name, fragment in fragments.items():
            for key, value in fragment.values.items():
                if key == WEIGHT or self.header["updates"] > 0:
                    self._read(f"{key}/{name}", fragment.start, value)
        for name, buffer in buffers_of(model).items():
            [(_, _, file)] = self._places[f"buffer/{name}"]
            buffer.copy_(file.get_tensor(f"buffer/{name}"))

    def _read(self, name: str, start: int, into: Tensor) -> None:
        stop, read = start + len(into), 0
        for first, last, file in self._places.get(name, []):
            low, high = max(start, first), min(stop, last)
            if low < high:
                into[low - start : high - start].copy_(file.get_slice(name)[low - first : high - first])
                read += high - low
        if read != len(into):
            raise ValueError(f"{self.folder} lacks elements of {name}: {read} of {len(into)} from {start} are there")


def make_shard(
    engine: str, model: nn.Module, optimizer: Optimizer, schedule: Any, fragments: dict[str, Fragment]
) -> Shard:
    """The shard of this rank, which owns `fragments`."""
    updates = schedule.last_epoch
    keys = {WEIGHT, *(moments(optimizer) if updates else ())}
    held = {
        name: replace(fragment, values={key: value for key, value in fragment.values.items() if key in keys})
        for name, fragment in fragments.items()
    }
    header = {
        "engine": engine,
        "world_size": world_size(),
        "updates": updates,
        "schedule": schedule.state_dict(),
        "parameters": whole_shapes(model),
    }
    return Shard(held, buffers_of(model), header)


def moments(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of what the optimizer keeps per weight."""
    return ("exp_avg", "exp_avg_sq") if isinstance(optimizer, AdamW) else ()


def reset_optimizer(optimizer: Optimizer, tensors: Sequence[Tensor], updates: int) -> None:
    """Give each of `tensors`, which the optimizer updates, the state after `updates` updates with zero gradients: there
    is somewhere to write the moments then. torch makes the same at the first update."""
    optimizer.state.clear()
    if not moments(optimizer):
        return
    for tensor in tensors:
        step = torch.tensor(float(updates), dtype=torch.float32, device=tensor.device)  # fused: beside the weights
        optimizer.state[tensor] = {"step": step, **{key: torch.zeros_like(tensor) for key in moments(optimizer)}}


def restore_schedule(schedule: Any, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """The schedule, and the learning rates that it has set."""
    schedule.load_state_dict(dict(state))
    for group, learning_rate in zip(optimizer.param_groups, state["_last_lr"], strict=True):
        group["lr"] = learning_rate


def lay_out(model: nn.Module) -> None:
    """Make every trainable parameter contiguous, as flattened views and gloo's collectives need them."""
    for _, parameter in trainable(model):
        parameter.data = parameter.data.contiguous()


def replicated(model: nn.Module, optimizer: Optimizer) -> dict[str, Fragment]:
    """The fragments of an engine whose every rank holds all: whole parameters."""
    fragments = {}
    for name, parameter in trainable(model):
        state = optimizer.state.get(parameter, {})
        held = {key: state[key].view(-1) for key in moments(optimizer) if key in state}
        fragments[name] = Fragment(0, {WEIGHT: parameter.data.view(-1), **held})
    return fragments


def own_share(fragments: Mapping[str, Fragment]) -> dict[str, Fragment]:
    """Of what every rank holds whole, the part that this rank writes: about as much as every other."""
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


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Shared parameters once; frozen weights come with the model itself."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def whole_shapes(model: nn.Module) -> dict[str, list[int]]:
    """The shape of every trainable parameter, by name; ZeRO-3 holds only a part of it."""
    return {name: list(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in trainable(model)}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers."""
    names = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name in names}


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
