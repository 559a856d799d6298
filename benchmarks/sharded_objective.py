"""Measure the objective of one large step on 1, 2 and 4 ranks: memory, time, products and bytes of each rank.

    python benchmarks/sharded_objective.py           # InfoNCE, 4,096 lists of 32 documents of dimension 1,024
    python benchmarks/sharded_objective.py --lists 512 --loss SigLIP --negatives rank

Each rank is a process with one thread and holds the embeddings of its own lists, as in training. Memory is the highest
resident memory during loss and gradient, above what is held before (the embeddings themselves). Products are those of
the matrix products, forward and backward. The loss and the length of the gradient are compared with those of one rank.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

MIB = 2**20


@dataclass(frozen=True)
class Size:
    """A step of `lists` with `documents` each, of `dimension`."""

    lists: int
    documents: int
    dimension: int


def main() -> None:
    from engines.distributed.testing import run_ranks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("lists", 4096), ("documents", 32), ("dimension", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--loss", choices=("InfoNCE", "SigLIP", "Triplet"), default="InfoNCE")
    parser.add_argument("--negatives", choices=("global", "rank"), default="global")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, help="a JSON file to write too")
    chosen = parser.parse_args()
    size = Size(chosen.lists, chosen.documents, chosen.dimension)
    results = {}
    for ranks in chosen.ranks:
        found = run_ranks(measure, ranks, size, chosen.loss, chosen.negatives, timeout_s=7200)
        most = {name: max(each[name] for each in found) for name in found[0]}
        most["gradient_norm"] = sum(each["gradient_norm"] ** 2 for each in found) ** 0.5
        results[ranks] = most
        print(
            f"{ranks} rank(s): memory {most['memory_mib']:,.0f} MiB, {most['seconds']:.1f} s, products "
            f"{most['products'] / 1e12:.4g} T, received {most['received_bytes'] / MIB:,.0f} MiB; loss "
            f"{most['loss']:.7g}, length of the gradient {most['gradient_norm']:.7g}",
            flush=True,
        )
    if chosen.output:
        chosen.output.write_text(json.dumps({"size": vars(size), "loss": chosen.loss, "ranks": results}, indent=2))


def measure(size: Size, loss_name: str, negatives: str) -> dict[str, float]:
    """The loss and gradient of a step, on the rank of this process."""
    import losses.info_nce
    import losses.siglip
    import losses.triplet
    from engines.distributed.traffic import start_counting, traffic_statistics
    from engines.memory.allocator import keep_freed_memory
    from engines.memory.peak import watch_memory
    from losses.contracts import compute_loss

    keep_freed_memory()
    modules: Any = {"InfoNCE": losses.info_nce, "SigLIP": losses.siglip, "Triplet": losses.triplet}
    loss = getattr(modules[loss_name], loss_name)(**({"in_batch": "all"} if loss_name == "Triplet" else {}))
    lists = make_lists(size, negatives)
    start_counting()
    counter = FlopCounterMode(display=False)
    with watch_memory(torch.device("cpu")) as memory, counter:
        started = time.perf_counter()
        value, _ = compute_loss(loss, lists)
        gradients = torch.autograd.grad(value, [lists.queries, lists.documents])
        seconds = time.perf_counter() - started
    received = sum(number for name, number in traffic_statistics().items() if name.endswith("received_bytes"))
    return {
        "memory_mib": memory.rise / MIB,
        "seconds": seconds,
        "products": counter.get_total_flops() / 2,
        "received_bytes": received,
        "loss": value.item(),
        "gradient_norm": sum(torch.linalg.vector_norm(each, dtype=torch.float64).item() ** 2 for each in gradients)
        ** 0.5,
    }


def make_lists(size: Size, negatives: str) -> Any:
    """The inputs of a loss for the lists of this rank: unit vectors, the first document of each list near its query."""
    from losses.contracts import LossInputs
    from losses.math.share import with_whole
    from trainers.sharded.share import Sharing

    share = Sharing(negatives).of(SimpleNamespace(examples=range(size.lists)))
    own = share.own(size.lists)
    labels = torch.zeros(size.lists, size.documents)
    labels[:, 0] = 1
    mask = torch.ones(size.lists, size.documents, dtype=torch.bool)
    queries = torch.stack([unit(size.dimension, int(number)) for number in own])
    documents = torch.empty(len(own), size.documents, size.dimension)
    for place, number in enumerate(own.tolist()):
        for document in range(size.documents):
            documents[place, document] = unit(size.dimension, number * size.documents + document + size.lists)
    documents[:, 0] = torch.nn.functional.normalize(documents[:, 0] + 0.3 * queries, dim=-1)
    return LossInputs(
        labels=with_whole(labels[own], labels),
        mask=with_whole(mask[own], mask),
        query_hashes=with_whole(own, torch.arange(size.lists)),
        document_hashes=with_whole(numbers(size)[own], numbers(size)),
        queries=queries.requires_grad_(),
        documents=documents.requires_grad_(),
        share=share,
    )


def numbers(size: Size) -> Tensor:
    """A number for every document [lists, documents]: no two texts are equal."""
    return torch.arange(size.lists * size.documents).view(size.lists, size.documents)


def unit(dimension: int, seed: int) -> Tensor:
    """A random vector of unit length."""
    vector = torch.randn(dimension, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


if __name__ == "__main__":
    main()
