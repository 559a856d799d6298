"""The token vectors that a static embedder starts with: those of another model, or random ones.

Distillation is that of model2vec (Tulkens and van Dongen, 2024, https://github.com/MinishLab/model2vec): every token of
the vocabulary runs through the model alone, principal components are taken of all tokens, and each is weighted by its
rank: by Zipf's law that tells its frequency, of which SIF (Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for
Sentence Embeddings") makes a weight. The order of a vocabulary is taken as that of frequency.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import cached_assets_path, constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.loading.backbone import skips_weights
from models.loading.folder import first_line, sha256
from models.static.tokens import vocabulary_rows
from models.token_rows import row_frame
from models.towers import TextTower, towers_of

STARTS = ("distilled", "word_embeddings", "random")
BATCH = 1024  # tokens of the vocabulary that run at once
UNUSED = re.compile(r"\[unused\d+\]")
FORMAT = "1"  # of the vectors that are kept: a change of what they are

logger = logging.getLogger(__name__)


def word_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The ids of all tokens that texts are made of, in the order of the vocabulary: no control and no unused ones."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    control = {index for index, token in added.items() if token.special} | {tokenizer.unk_token_id}
    ids = {index for token, index in tokenizer.get_vocab().items() if not UNUSED.fullmatch(token)}
    return torch.tensor(sorted(ids - control))


def distilled_vectors(options: BiEncoderConfig, model: BiEncoder) -> Tensor:
    """What the model of `options` makes of every token of its vocabulary alone [tokens, dim] float32; zeros for tokens
    of `word_tokens`' exceptions. It is made once and kept in huggingface_hub's cache of assets. `model`: the one of the
    options, perhaps without weights.

    Raises ValueError if that folder cannot be written.
    """
    if skips_weights():
        return torch.empty(vocabulary_rows(model.tokenizer.tokenizer), document_tower(model).dimension, device="meta")
    key = _content_key(options.places()["name_or_path"])
    try:
        file = cached_assets_path("plackett", namespace="distilled", subfolder=key) / "vectors.safetensors"
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                logger.warning(
                    "model %s: each of its %s tokens is embedded once, which may take a minute; kept in %s",
                    *(options.name_or_path, f"{len(word_tokens(model.tokenizer.tokenizer)):,}", file.parent),
                )
                work = file.with_suffix(".tmp")
                save_file({"vectors": _embed_tokens(options.build(seed=0))}, work)
                work.replace(file)
    except OSError as error:
        raise ValueError(
            f"model {options.name_or_path}: {constants.HF_ASSETS_CACHE} cannot be written "
            f"({error.strerror or first_line(error)}): name another folder by the environment variable HF_ASSETS_CACHE"
        ) from error
    return load_file(file)["vectors"]


def document_tower(model: BiEncoder) -> TextTower:
    """The tower of a model, of two that of documents."""
    return list(towers_of(model.tower).values())[-1]


def _content_key(files: Mapping[str, Path]) -> str:
    """A hash of the files of a model, by their names."""
    content = [FORMAT, *(f"{name} {sha256(file)}" for name, file in sorted(files.items()))]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


@torch.no_grad()
def _embed_tokens(model: BiEncoder) -> Tensor:
    """Run every token, between the tokens that the tokenizer puts around a text."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.pad_rows()
    tower, tokenizer = document_tower(model.eval().to(device)), model.tokenizer.tokenizer
    frame = row_frame(tokenizer, 1)
    before, after = frame.special if frame else ((), ())
    vectors = torch.zeros(vocabulary_rows(tokenizer), tower.dimension)
    for ids in word_tokens(tokenizer).split(BATCH):
        rows = torch.tensor([[*before, token, *after] for token in ids.tolist()], device=device)
        features = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        vectors[ids] = tower(features, layers=False)[:, 0].cpu()
    return vectors.nan_to_num()


def word_embeddings(model: BiEncoder) -> Tensor:
    """The rows of the model's word embeddings that its tokenizer has tokens for [tokens, dim] float32."""
    transformer = document_tower(model).transformer
    assert transformer is not None
    weights: Any = transformer.get_input_embeddings().weight
    weight: Tensor = weights.detach()[: vocabulary_rows(model.tokenizer.tokenizer)].float()
    return weight


def principal_components(vectors: Tensor, tokens: Tensor, dimension: int) -> Tensor:
    """The first `dimension` principal components of the vectors of `tokens`; zeros for other rows."""
    own = vectors[tokens].double()
    own = own - own.mean(0)
    _, axes = torch.linalg.eigh(own.T @ own)  # the largest last
    axes = axes.flip(1)[:, :dimension]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    reduced = vectors.new_zeros(len(vectors), dimension)
    reduced[tokens] = (own @ (axes * largest.sign())).float()  # a sign that does not depend on the library
    return reduced


def frequency_weights(count: int, coefficient: float) -> Tensor:
    """SIF's weights [count] of tokens in the order of their frequency: a / (a + p), with p by Zipf's law."""
    frequency = 1 / torch.arange(2, count + 2, dtype=torch.float64)
    return (coefficient / (coefficient + frequency / frequency.sum())).float()


def start_table(vectors: Tensor, tokens: Tensor, dimension: int, coefficient: float | None) -> Tensor:
    """The table that a model starts with: the principal components of another model's vectors, weighted."""
    if vectors.is_meta:
        return vectors.new_empty(len(vectors), dimension)
    table = principal_components(vectors, tokens, dimension)
    if coefficient is not None:
        table[tokens] *= frequency_weights(len(tokens), coefficient)[:, None]
    return table
