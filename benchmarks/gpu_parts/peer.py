"""sentence-transformers on the same rows: its models and losses, in a plain loop with the same optimizer.

Neither side tokenises: the model's `preprocess` looks the token ids of a row up by its name and pads them as its
tokenizer would.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_parts.machine import device, now
from benchmarks.gpu_parts.ours import NUM_BATCHES, Unavailable, measure
from benchmarks.gpu_parts.workloads import LONGEST, Workload, draw_rows, make_backbone, model_flops, wrap


class Rows:
    """Rows of token ids by name. A name is as long as its row, so that sorting texts by length sorts rows."""

    def __init__(self) -> None:
        self.ids: dict[str, np.ndarray] = {}

    def add(self, ids: np.ndarray) -> str:
        """The name of a row."""
        name = f"{len(self.ids):08d}".ljust(max(len(ids), 8), ".")
        self.ids[name] = ids
        return name

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Look up texts, or pairs by their documents, and pad them to the longest."""
        rows = [self.ids[each if isinstance(each, str) else each[1]] for each in inputs]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, 1
        found = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return {**found, "modality": "text"}


def make_model(workload: Workload, toy: bool, rows: Rows) -> Any:
    """A SentenceTransformer with mean pooling, or a CrossEncoder, with the weights of plackett's model."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise Unavailable("sentence-transformers is not installed")
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        make_backbone(workload, device(toy), toy).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
        PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=LONGEST
        ).save_pretrained(folder)
        options = {"device": str(device(toy)), "model_kwargs": {"dtype": torch.float32}}
        if workload.kind == "embedder":
            model: Any = SentenceTransformer(str(Path(folder)), **options)
        else:
            model = CrossEncoder(str(Path(folder)), num_labels=1, **options)
    model.preprocess = rows.preprocess
    return model.train()


def train(workload: Workload, toy: bool) -> dict[str, Any]:
    """The speed of training."""
    rows = Rows()
    model = make_model(workload, toy, rows)
    drawn = [draw_rows(workload, 100 * number, toy) for number in range(NUM_BATCHES)]
    batches = [[[rows.add(row) for row in each] for each in lists] for lists in drawn]
    loss = make_loss(workload, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    first: dict[str, float] = {}
    state = {"step": 0}

    def step() -> None:
        batch = batches[state["step"] % NUM_BATCHES]
        state["step"] += 1
        with torch.autocast(device(toy).type, torch.bfloat16):
            value = compute_loss(workload, loss, model, batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not first:
            first["first_loss"] = float(value)

    step()
    lengths = [np.array([len(row) for each in lists for row in each]) for lists in drawn]
    return first | measure(workload, _counted(workload, toy), step, lengths, toy)


def make_loss(workload: Workload, model: Any) -> Any:
    """The loss of sentence-transformers for the workload, cached by a token budget if no graph is kept."""
    if workload.kind == "reranker":
        from sentence_transformers.cross_encoder.losses import ListNetLoss

        return ListNetLoss(model, mini_batch_size=-1)
    from sentence_transformers.sentence_transformer import losses

    if workload.kept_chunks == 0:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_num_tokens=workload.token_budget)
    return losses.MultipleNegativesRankingLoss(model)


def compute_loss(workload: Workload, loss: Any, model: Any, batch: list[list[str]]) -> Tensor:
    """The loss of lists of names."""
    if workload.kind == "reranker":
        # Its target is the softmax of the labels: that of 30 and zeros is the relevant document alone.
        labels = [torch.tensor([30.0 * (i == 0) for i in range(len(each))]) for each in batch]
        return loss([[each[0] for each in batch], batch], labels)
    columns = [model.preprocess([each[i] for each in batch]) for i in range(len(batch[0]))]
    moved = [{n: v.to(model.device) if isinstance(v, Tensor) else v for n, v in each.items()} for each in columns]
    return loss(moved, torch.arange(len(batch), device=model.device))


def infer(workload: Workload, toy: bool) -> dict[str, Any]:
    """The speed of `encode` or `predict`."""
    rows = Rows()
    model = make_model(workload, toy, rows).eval()
    ids = [row for number in range(1 if toy else 4) for each in draw_rows(workload, number, toy) for row in each]
    names = [rows.add(row) for row in ids]
    lengths = np.array([len(row) for row in ids])
    best: dict[str, Any] = {}
    for batch_size in (32, 64) if toy else (64, 128, 256):
        times = []
        for _ in range(2 if toy else 4):
            started = now(toy)
            with torch.no_grad(), torch.autocast(device(toy).type, torch.bfloat16):
                if workload.kind == "embedder":
                    model.encode(names, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
                else:
                    pairs = [(name[:8], name) for name in names]
                    model.predict(pairs, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
            times.append(now(toy) - started)
        seconds = statistics.median(times[1:])
        if not best or seconds < best["seconds"]:
            best = {"seconds": seconds, "batch_size": batch_size}
    flops = model_flops(workload, _counted(workload, toy), lengths, training=False)
    speeds = {"rows_per_s": len(ids) / best["seconds"], "tokens_per_s": float(lengths.sum() / best["seconds"])}
    return best | speeds | {"model_flops_per_s": flops / best["seconds"]}


def _counted(workload: Workload, toy: bool) -> Any:
    """A model without data, to count the operations of both sides alike."""
    return wrap(workload, make_backbone(workload, torch.device("meta"), toy))
