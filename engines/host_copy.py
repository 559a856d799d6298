"""Numbers that travel from the device to the host while both go on working."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Scalars of the device of the first one, copied to the host in one go.

    The copy is queued behind what computes the scalars, and `read` waits for it alone: not for what was queued after
    it, as `Tensor.item()` would. So the device keeps working while the host reads. On a CPU nothing is ever waited for.
    """

    def __init__(self, values: Mapping[str, Tensor]):
        self.names = tuple(values)
        device = next(iter(values.values())).device
        # float64 holds every float32, and every whole number that a step counts.
        doubles = [value.detach().to(device, torch.float64, non_blocking=True) for value in values.values()]
        numbers = torch.stack([value.reshape(()) for value in doubles])
        on_gpu = device.type == "cuda"
        self._numbers = torch.empty(len(numbers), dtype=torch.float64, pin_memory=on_gpu)
        self._numbers.copy_(numbers, non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if on_gpu:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))

    def read(self) -> dict[str, float]:
        """The numbers by name. The host waits until they have arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self.names, self._numbers.tolist(), strict=True))
