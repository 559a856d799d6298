"""Run a model over many tokenised rows without gradients, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import TokenSequences
from data.collate import chunks_of_rank, pad, plan_chunks
from engines.distributed.collectives import gather_objects, gather_rows
from engines.distributed.process_group import is_main, rank, world_size
from engines.memory.allocator import allocator_says, is_out_of_memory

TOKENIZER_BATCH = 1024  # rows per call

# A module, called with keywords, or the `forward` of an engine, called with the features.
Forward = nn.Module | Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def tokenize_sharded(tokenize: Callable[[slice], Mapping[str, list[list[int]]]], total: int) -> TokenSequences:
    """All `total` tokenised rows on every rank, of which each made its share; `tokenize(part)` makes some."""
    begin, end = (total * (rank() + side) // world_size() for side in (0, 1))
    own = [
        TokenSequences.from_encoding(tokenize(slice(start, min(start + TOKENIZER_BATCH, end))))
        for start in range(begin, end, TOKENIZER_BATCH)
    ]
    return TokenSequences.concatenate([part for share in gather_objects(own) for part in share])


def score_rows(
    forward: Forward,
    rows: TokenSequences,
    padding: Mapping[str, int],
    token_budget: int,
    device: torch.device,
    key: str = "score",
) -> Tensor:
    """`represent_rows` of one representation."""
    return represent_rows(forward, rows, padding, token_budget, device, [key])[key]


def represent_rows(
    forward: Forward,
    rows: TokenSequences,
    padding: Mapping[str, int],
    token_budget: int,
    device: torch.device,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """`forward(features)` of every row, float32 [len(rows), ...] on `device`, the same on all ranks; `names`: of the
    representations to keep, None: all.

    Rows are run in chunks of like length within `token_budget` padded tokens, chunk i on rank i mod W, in evaluation
    mode (restored afterwards). A rank with one chunk fewer runs a row for nothing: ZeRO-3 gathers weights in every
    forward, so all ranks must run equally many.
    """
    assert len(rows), "nothing to score"
    own = chunks_of_rank(plan_chunks(rows.lengths.tolist(), token_budget), rank(), world_size())
    outputs: list[dict[str, Tensor]] = []
    with evaluating(module_of(forward)), torch.no_grad():
        hidden = None if is_main() else True  # None: shown on terminals alone
        for chunk in tqdm(own, desc="scoring", unit="batch", delay=2, leave=False, disable=hidden):
            features = {name: values.to(device) for name, values in pad(rows, chunk or [0], padding).items()}
            with _memory_explained(features):
                output = forward(**features) if isinstance(forward, nn.Module) else forward(features)
            outputs.append({name: output[name][: len(chunk)].float() for name in names or output})
    indices = [row for chunk in own for row in chunk]
    local = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
    return gather_rows(local, indices, len(rows))


@contextmanager
def _memory_explained(features: Mapping[str, Tensor]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        shape = " x ".join(map(str, features["input_ids"].shape))
        raise MemoryError(
            f"out of memory while scoring {shape} tokens (rows x longest): lower eval.token_budget (in training "
            f"trainer.token_budget), then model.max_length; {allocator_says(error)}"
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode (no dropout), every submodule's own mode restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def module_of(forward: Forward) -> nn.Module:
    """The module behind `forward`: itself, or the `model` of the engine it is a method of."""
    if isinstance(forward, nn.Module):
        return forward
    owner = getattr(forward, "__self__", None)
    model = owner if isinstance(owner, nn.Module) else getattr(owner, "model", None)
    assert isinstance(model, nn.Module), "forward must be a module or an engine's forward, to switch its dropout off"
    return model
