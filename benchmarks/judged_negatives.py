"""Count in-batch negatives that the data judge relevant, and time the mask that leaves them out.

    python benchmarks/judged_negatives.py share FOLDER --batch-size 32   # share of the queries that have one, by loss
    python benchmarks/judged_negatives.py time FOLDER --batch-size 256   # share of the time of a step

FOLDER is in BEIR's layout; if it has no qrels/train.tsv, its test queries are taken for training. The share is that of
the queries for which the loss has a gradient for the similarity of a document of another list that is judged relevant:
with the mask, and without it (only texts that are positives in the batch are known then). Queries and documents are
one-hot vectors, so the gradient of a document's embedding at the place of a query is that of their similarity.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from side_by_side import configured, make_trainer

LOSSES = (
    *("info_nce", "info_nce_symmetric", "dcl", "gte", "qwen3", "embedding_gemma", "cosface", "arcface", "gist"),
    *("siglip", "triplet", "matryoshka"),
)


class NoTokenizer:
    """Rows of one token: the texts do not matter here."""

    def encode_list(self, query: str, documents: list[str], **prompts: str) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1]] * (len(documents) + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("share", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, help="default: one epoch of shares, two timed steps")
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = with_training_queries(arguments.folder.resolve(), Path(scratch))
        if arguments.what == "share":
            print_shares(folder, arguments.batch_size, arguments.batches, arguments.ranks)
        else:
            print_times(folder, arguments.batch_size, arguments.batches or 2)


def with_training_queries(folder: Path, scratch: Path) -> Path:
    """The folder itself, or one whose test judgements are training judgements."""
    if (folder / "qrels" / "train.tsv").exists():
        return folder
    for name in ("corpus.jsonl", "queries.jsonl"):
        (scratch / name).symlink_to(folder / name)
    (scratch / "qrels").mkdir()
    (scratch / "qrels" / "train.tsv").write_text((folder / "qrels" / "test.tsv").read_text())
    return scratch


def print_shares(folder: Path, batch_size: int, batches: int | None, ranks: int) -> None:
    from engines.distributed.testing import run_ranks

    for name, (masked, unmasked, number) in run_ranks(shares, ranks, str(folder), batch_size, batches)[0].items():
        print(f"{name:20} {masked:7.2%} of {number} queries, without the mask {unmasked:7.2%}", flush=True)


def shares(folder: str, batch_size: int, batches: int | None) -> dict[str, tuple[float, float, int]]:
    """By loss: the share of queries with a judged negative, the same without the mask, and the number of queries."""
    from data.formats.beir import BEIRConfig
    from data.sampling.mixture import make_loader
    from engines.distributed import process_group
    from launch.cli.compose import load
    from trainers.batches import gather_batch

    collection = BEIRConfig(path=folder, dev_fraction=0.0).build()
    loader = make_loader(
        collection,
        NoTokenizer(),
        list_size=2,
        batch_size=batch_size,
        seed=0,
        rank=process_group.rank(),
        world_size=process_group.world_size(),
        workers=0,
        in_batch_negatives=True,
    )
    number = batches or len(collection.split("train").queries) // batch_size
    read = [gather_batch(i, share) for i, share in enumerate(islice(loader.iterate(0), number))]
    losses = {name: load([f"loss={name}"]).loss for name in LOSSES}
    losses["triplet"] = replace(losses["triplet"], in_batch="all")
    found = {}
    for name, loss in losses.items():
        counts = torch.tensor([judged_negatives(loss, batch, collection) for batch in read]).sum(0).tolist()
        found[name] = (counts[0] / (number * batch_size), counts[1] / (number * batch_size), number * batch_size)
    return found


def judged_negatives(loss: Any, batch: Any, collection: Any) -> tuple[int, int]:
    """The number of the batch's queries with an in-batch negative that is judged relevant or excluded: with the mask
    and without."""
    qrels = collection.split("train").qrels
    known = [
        {document for document, grade in qrels[own.query_id].items() if grade > 0}
        | collection.excluded.get(own.query_id, set())
        for own in batch.examples
    ]
    documents = [(i, document) for i, other in enumerate(batch.examples) for document in other.document_ids]
    judged = torch.tensor(
        [[i != own and document in texts for i, document in documents] for own, texts in enumerate(known)]
    )
    inputs = one_hot_inputs(batch)
    unmasked = replace(inputs, never_negatives=None)
    return tuple(int((used(loss, each) & judged).any(1).sum()) for each in (inputs, unmasked))  # type: ignore[return-value]


def one_hot_inputs(batch: Any) -> Any:
    from trainers.loss_inputs import make_loss_inputs

    queries, documents = len(batch.examples), int(batch.mask.sum())
    eye = torch.eye(queries + documents)
    in_lists = batch.to_lists(eye[queries:])
    embeddings = torch.cat([torch.cat([eye[i : i + 1], in_lists[i][batch.mask[i]]]) for i in range(queries)])
    inputs = make_loss_inputs({"embedding": embeddings, "scale": torch.tensor([20.0]), "bias": torch.zeros(1)}, batch)
    return replace(inputs, guide_queries=inputs.queries, guide_documents=inputs.documents)


def used(loss: Any, inputs: Any) -> torch.Tensor:
    """[queries, documents] bool: the similarity has a gradient."""
    from losses.contracts import compute_loss

    documents = inputs.documents.clone().requires_grad_()
    value, _ = compute_loss(loss, replace(inputs, documents=documents))
    (gradient,) = torch.autograd.grad(value, documents)
    return gradient[inputs.mask][:, : len(inputs.queries)].T != 0


def print_times(folder: Path, batch_size: int, steps: int) -> None:
    from losses.math.in_batch import InBatch

    with tempfile.TemporaryDirectory() as output:
        trainer = embedder_trainer(folder, output, batch_size)
        for step in range(steps):
            trainer.state.step += 1
            batch = trainer.next_batch()
            started = time.perf_counter()
            with timed(InBatch, "from_lists", "negative_documents", "negative_queries") as seconds:
                trainer.train_step(batch)
            total, mask = time.perf_counter() - started, sum(seconds)
            print(f"step {step + 1}: {total:.2f} s, in the mask {mask * 1e3:.2f} ms, {mask / total:.4%}", flush=True)


@contextmanager
def timed(owner: type, *names: str) -> Iterator[list[float]]:
    """Add the seconds of each call of these methods to a list."""
    seconds: list[float] = []
    originals = {name: owner.__dict__[name] for name in names}

    def measured(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - started)

        return call

    for name, original in originals.items():
        is_class_method = isinstance(original, classmethod)
        changed = measured(original.__func__ if is_class_method else original)
        setattr(owner, name, classmethod(changed) if is_class_method else changed)
    try:
        yield seconds
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def embedder_trainer(folder: Path, output: str, batch_size: int) -> Any:
    options = ["+exp=embedder_infonce", "data=beir", f"data.path={folder}", f"trainer.batch_size={batch_size}"]
    settings = configured([*options, f"output_dir={output}", "logger=none", "trainer.workers=0"])
    return make_trainer(settings, settings.data.build())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
