"""What would make the host wait for a GPU, found on a CPU: reads of the values of tensors that are on the device."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
# Operations whose result, or whose size, the host must know. On a GPU each waits for all that was queued before.
READS = {
    ATEN._local_scalar_dense.default,  # item(), bool(), float(), int()
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.equal.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
    ATEN.unique_consecutive.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.bincount.default,
}
INDEXING = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default}
TO_HOST = {"tolist", "numpy", "cpu", "__array__"}
REPOSITORY = Path(__file__).resolve().parents[2]


class DeviceReads:
    """A context that treats some tensors as if they were on a GPU, and everything that is computed from them.

    `reads` lists what reads them, or copies to the device and waits: "file:line operation". `module` and what
    `Tensor.to(device)` gives are on the device. Copies with `non_blocking` wait for nothing.
    """

    def __init__(self, module: nn.Module):
        self.reads: list[str] = []
        self.copies = 0  # from the device, without waiting
        self._storages: set[StorageWeakRef] = set()
        self.mark(module.parameters())
        self.mark(module.buffers())
        self._dispatch, self._functions = _Operations(self), _Methods(self)

    def __enter__(self) -> DeviceReads:
        self._functions.__enter__()
        self._dispatch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._dispatch.__exit__(*error)
        self._functions.__exit__(*error)

    def mark(self, tensors: Iterable[Tensor]) -> None:
        """Treat these as tensors of the device."""
        self._storages.update(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors)

    def holds(self, value: Any) -> bool:
        """Whether a value is a tensor of the device."""
        return isinstance(value, Tensor) and StorageWeakRef(value.untyped_storage()) in self._storages

    def note(self, operation: str) -> None:
        """Note a read at the innermost line of the repository or of transformers that made it."""
        frames = [frame for frame in traceback.extract_stack() if _is_ours(frame.filename)]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        self.reads.append(f"{place} {operation}")


def _is_ours(file: str) -> bool:
    is_ours = str(REPOSITORY) in file and "site-packages" not in file
    return (is_ours and file != __file__) or "site-packages/transformers" in file


class _Operations(TorchDispatchMode):
    def __init__(self, found: DeviceReads):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_device = any(self.found.holds(value) for value in inputs)
        if on_device and (func in READS or (func in INDEXING and _by_mask(func, args))):
            self.found.note(func.name())
        result = func(*args, **kwargs)
        if on_device and func is ATEN.copy_.default and not self.found.holds(args[0]):
            return self._copied(args, kwargs, result)
        if on_device:
            self.found.mark(value for value in tree_leaves(result) if isinstance(value, Tensor))
        return result

    def _copied(self, args: Any, kwargs: Any, result: Any) -> Any:
        """A copy from the device to a tensor of the host."""
        if (len(args) > 2 and args[2]) or kwargs.get("non_blocking"):
            self.found.copies += 1
        else:
            self.found.note("copy_ without non_blocking")
        return result


def _by_mask(func: Any, args: Any) -> bool:
    """Whether a tensor is indexed by a mask, whose True values are counted. A 0-dim value is filled in without."""
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not (func is not ATEN.index.Tensor and args[2].numel() == 1)


class _Methods(TorchFunctionMode):
    def __init__(self, found: DeviceReads):
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in TO_HOST and self.found.holds(args[0]):
            self.found.note(name)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None and not _is_there(self, args):
            self.found.note(f"{name} of values of the host")
        result = func(*args, **kwargs)
        if name == "cpu":
            return result.clone()  # of the host from now on
        moves = name == "to" and any(isinstance(value, torch.device) for value in (*args[1:], *kwargs.values()))
        if moves and not self.found.holds(args[0]) and not _in_transformers():
            if not kwargs.get("non_blocking"):
                self.found.note("to(device) without non_blocking")
            result = result.clone()
            self.found.mark([result])
        elif isinstance(kwargs.get("device"), torch.device) and isinstance(result, Tensor):
            self.found.mark([result])  # made on the device
        return result


def _in_transformers() -> bool:
    """Whether transformers calls: it moves tensors to the device where they are."""
    frames = [frame for frame in traceback.extract_stack() if _is_ours(frame.filename)]
    return bool(frames) and "site-packages" in frames[-1].filename


def _is_there(mode: _Methods, args: Any) -> bool:
    return mode.found.holds(args[0])
