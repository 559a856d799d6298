"""The steps around a transformer that plain code of transformers and ONNX takes: tokens, pooling, linear layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from models.loading.embedding_modules import Head
from models.loading.folder import ModelFolder, read_json
from models.pooling import pool
from models.towers import Dense
from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay
from recipes.serving.prompt_ids import PromptIds

# (features of a batch of rows) -> token embeddings or logits. It is made for one transformer of the export.
Forward = Callable[[Mapping[str, Tensor]], Tensor]
BATCH = 4  # rows


def embed_texts(export: Export, forward_of: Callable[[ModelFolder], Forward]) -> Replay:
    """Embed the golden texts by one transformer per route, pooled as the folder says."""
    routes, vectors = export.folder.routes(), []
    for role in ("query", "document"):
        route = routes.get(role) or routes[""]
        vectors.append(_embed(export, route, role, forward_of(route)))
    return Replay(torch.cat(vectors), limits=READS_CONTROL_TOKENS)


def _embed(export: Export, route: ModelFolder, role: str, forward: Forward) -> Tensor:
    prompt, texts = export.golden.prompts[role], export.golden.texts_of(role)
    tokenizer = AutoTokenizer.from_pretrained(route.backbone)
    head = Head.read(route)
    skipped = 0 if head.include_prompt or not prompt else len(_without_end(tokenizer, prompt))
    rows = []
    for text in texts:  # one by one: a difference is then none of padding
        features = tokenizer(prompt + text, truncation=True, max_length=export.golden.max_length, return_tensors="pt")
        mask = features["attention_mask"]
        pooled = None if not skipped else (torch.arange(mask.shape[1]) >= min(skipped, mask.shape[1] - 1)) * mask
        row = pool(forward(features), mask, list(head.modes), pooled)
        for path in head.dense:
            row = Dense.load(path)(row)
        rows.append(normalize(row, dim=-1) if head.normalized else row)
    return torch.cat(rows).detach()


def _without_end(tokenizer: Any, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(prompt).input_ids
    return ids[:-1] if ids[-1] in tokenizer.all_special_ids else ids


def score_pairs(export: Export, forward: Forward) -> Replay:
    """Score the golden pairs by a sequence classifier that gives logits [rows, 1]."""
    tokenizer = AutoTokenizer.from_pretrained(export.path)
    options = {"truncation": "longest_first", "max_length": export.golden.max_length, "padding": True}
    pairs, scores = export.prompted_pairs, []
    for start in range(0, len(pairs), BATCH):
        queries, documents = map(list, zip(*pairs[start : start + BATCH], strict=True))
        scores.append(forward(tokenizer(queries, documents, return_tensors="pt", **options))[:, 0])
    return Replay(torch.cat(scores), limits=READS_CONTROL_TOKENS)


def score_prompts(export: Export, forward: Forward) -> Replay:
    """Score the golden pairs by a language model that gives logits [rows, tokens, vocabulary], of the last token at
    least."""
    prompt_ids = PromptIds.of(export.path, export.golden.max_length)
    yes, no = answers_of(export.folder)
    scores = []
    for query, document in export.pairs:
        ids = torch.tensor([prompt_ids(query, document)])
        logits = forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[:, -1]
        scores.append(logits[:, yes] - logits[:, no])
    return Replay(torch.cat(scores), limits=prompt_ids.limits)


def answers_of(folder: ModelFolder) -> tuple[int, int]:
    """The ids of the true and the false answer."""
    config = next((read_json(path / "config.json") for name, path in folder.modules if name == "LogitScore"), None)
    if not config:
        raise ValueError(f"{folder.path}: no LogitScore module with the ids of the two answers")
    return config["true_token_id"], config["false_token_id"]


def accepted(model: torch.nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features that a model's forward takes."""
    names = inspect.signature(model.forward).parameters
    return {name: value for name, value in features.items() if name in names}
