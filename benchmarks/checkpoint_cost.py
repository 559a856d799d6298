"""Measure the cost of a checkpoint: its size, how long training waits for it, and how long a resume takes.

    python benchmarks/checkpoint_cost.py --parameters 22.7e6 --folder .

The checkpoint holds the weights of a stack of linear layers and AdamW's moments. One process, medians of 5 saves. With
`trainer.async_save` training waits only for the copy.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

WIDTH = 1000


class Stack(nn.Module):
    """A stack of linear layers."""

    def __init__(self, parameters: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(math.ceil(parameters / WIDTH**2)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = layer(x)
        return {"score": x.sum(1)}


def seconds(function: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    from engines.checkpoint.manifest import first_problem
    from engines.checkpoint.store import CheckpointStore
    from engines.optimizers import OptimizerOptions
    from engines.torch_engine import TorchEngineConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=22.7e6)
    parser.add_argument("--folder", help="a folder on the disk to measure (default: where temporary files are)")
    arguments = parser.parse_args()
    model = Stack(arguments.parameters)
    engine = TorchEngineConfig().build(model, OptimizerOptions(), lambda o: LambdaLR(o, lambda _: 1.0), math.inf)
    engine.backward(engine.forward({"x": torch.ones(2, WIDTH)})["score"].sum(), last=True)
    engine.step()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        waits: dict[bool, list[float]] = {False: [], True: []}
        for number in range(10):
            background = number % 2 == 1
            store = CheckpointStore(Path(folder) / str(background), keep=1, background=background)

            def save(store: CheckpointStore = store, background: bool = background, step: int = number) -> None:
                shard = engine.shard()
                store.save(step, (shard.cpu_copy() if background else shard).write, {})

            waits[background].append(seconds(save))
            store.wait()
        newest = Path(folder) / "False" / "step-000008"
        size = sum(file.stat().st_size for file in newest.iterdir())
        check, load = seconds(lambda: first_problem(newest)), seconds(lambda: engine.load(newest))
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, a checkpoint of {size / 2**20:,.0f} MiB"
    )
    for background, times in waits.items():
        print(f"training waits, async_save={str(background).lower()}: {statistics.median(times):.2f} s")
    print(f"on resume: {check:.2f} s to check the hashes, {load:.2f} s to load")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
