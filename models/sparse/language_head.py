"""The parts of a sparse encoder: a transformer with a language model's head, and learned weights of query tokens."""

from __future__ import annotations

import logging
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from models.answer_head import LogitTransform, check_transform
from models.loading.adapter import SavedAdapter
from models.loading.backbone import embedding_class, embedding_rows, load_backbone
from models.loading.checks import is_language_model
from models.loading.folder import ModelFolder
from models.sparse.max_logits import max_logits

# Architectures, as a configuration names them, whose weights hold a masked language model's head.
MASKED = ("ForMaskedLM", "ForPreTraining")

logger = logging.getLogger(__name__)


class PassThrough(nn.Linear):
    """The last layer of a masked language model, in a model whose logits are computed outside: it hands on the hidden
    states. Its weights, and so the model's checkpoints and exports, are as before."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class LanguageHead(nn.Module):
    """The weights [vocabulary, dim] and the bias [vocabulary] by which hidden states become logits. They may be those
    of another module: the embeddings' or, under `PassThrough`, the last layer's."""

    def __init__(self, weight: Any, bias: Any) -> None:
        """weight, bias: parameters; None: there is no bias."""
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Compute the largest logits [rows, vocabulary] of hidden states [rows, tokens, dim], at least 0."""
        return max_logits(hidden, mask, self.weight, self.bias)


class SparseTower(nn.Module):
    """log(1 + m_v) for each token v of the vocabulary, m_v its largest logit over a row's tokens, at least 0; with
    `log_twice` log(1 + log(1 + m_v)).

    `has_own_head`: the head is part of `backbone`, a masked language model; else it comes after a transformer.
    """

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        head: LanguageHead,
        *,
        has_own_head: bool,
        log_twice: bool,
        source: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.has_own_head = has_own_head
        self.log_twice = log_twice
        self.source = source  # the name or path that the backbone's weights came from
        self.dimension = len(head.weight)  # tokens of the vocabulary

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are divided over the ranks, which then must run it equally often (ZeRO-3)."""
        return self.head.weight.numel() == 0

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute the weights [rows, vocabulary] float32 of the texts with these features [rows, tokens]."""
        output = self.backbone(**features)
        hidden = output.logits if self.has_own_head else output.last_hidden_state
        weights = self.head(hidden, features["attention_mask"]).float().log1p()
        return weights.log1p() if self.log_twice else weights


class TokenWeights(nn.Module):
    """A weight for each token of the vocabulary: a query has those of its tokens, each once, and runs no transformer
    (sentence-transformers' SparseStaticEmbedding)."""

    def __init__(self, values: Tensor, added: list[int]) -> None:
        """values: [vocabulary]. added: the ids that the tokenizer itself puts into a row, which have no weight."""
        super().__init__()
        self.weight = nn.Parameter(values)
        self.added: Tensor
        self.register_buffer("added", torch.tensor(added, dtype=torch.int64), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the weights [rows, vocabulary] of rows of tokens [rows, tokens]."""
        read = mask.bool() & ~torch.isin(ids, self.added)
        present = self.weight.new_zeros(len(ids), len(self.weight))
        # Several tokens may be equal: the most of them is 1 if one is read.
        present = present.scatter_reduce(1, ids, read.to(present.dtype), "amax")
        return present * self.weight


def inverse_frequencies(rows: list[list[int]], size: int) -> Tensor:
    """ln(1 + (N - n + 0.5) / (n + 0.5)) for each of `size` tokens [size]: N texts, n of which have the token (the IDF
    of BM25)."""
    counts = torch.zeros(size, dtype=torch.float64)
    for row in rows:
        counts[torch.tensor(sorted(set(row)), dtype=torch.int64)] += 1
    return torch.log1p((len(rows) - counts + 0.5) / (counts + 0.5)).float()


def load_language_model(
    folder: ModelFolder,
    config: PretrainedConfig,
    attention: str | None,
    *,
    adapter: SavedAdapter | None,
    linear: nn.Linear | None,
    tied: bool = False,
    tokens: int | None = None,
) -> tuple[PreTrainedModel, LanguageHead, bool]:
    """Load the transformer of `folder`, with `adapter` merged into it, and its head. Also returns whether the head is
    part of the transformer.

    The head is `linear` if the model's folder has one, with the word embeddings as its weights if it is `tied` to them
    and they are equal still; else the one of the language model; else the word embeddings, transposed, with a bias that
    starts at 0. `tokens`: of the tokenizer; embeddings with more rows, which no token has
    (a vocabulary padded to a multiple of 64), are cut to so many. Raises ValueError in one line.
    """
    names = config.architectures or []
    masked = linear is None and any(name.endswith(MASKED) for name in names)
    causal = linear is None and not masked and is_language_model(config)
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM if causal else embedding_class(config)
    model, missing = load_backbone(kind, folder, config, attention)
    if adapter is not None:
        model, _ = adapter.merge_into(model)
    if tokens is not None and linear is None and embedding_rows(model) > tokens:
        model.resize_token_embeddings(tokens)
    if masked:
        return model, _masked_head(model, folder, missing), True
    if causal:
        check_transform(model, LogitTransform())
        last: Any = model.get_output_embeddings()
        return model.base_model, LanguageHead(last.weight, last.bias), False  # type: ignore[return-value]
    embeddings: Any = model.get_input_embeddings()
    if linear is not None:
        shared = tied and (embeddings.weight.is_meta or torch.equal(embeddings.weight, linear.weight))
        return model, LanguageHead(embeddings.weight if shared else linear.weight, linear.bias), False
    logger.warning(
        "model %s has no head of a language model: its word embeddings, transposed, give the weights of the vocabulary"
        ", which have no meaning before training",
        folder.path,
    )
    return model, LanguageHead(embeddings.weight, nn.Parameter(torch.zeros(len(embeddings.weight)))), False


def _masked_head(model: PreTrainedModel, folder: ModelFolder, missing: list[str]) -> LanguageHead:
    """The head of a masked language model, whose own last layer from now on hands on hidden states."""
    last: Any = model.get_output_embeddings()
    tied = {id(model.get_input_embeddings().weight)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if lost := [name for name in missing if name in parameters and id(parameters[name]) not in tied]:
        raise ValueError(f"model {folder.path}: the weights lack {len(lost)} tensors of the head, as {lost[0]}")
    if not isinstance(last, nn.Linear):
        raise ValueError(f"model {folder.path}: {model.config.model_type} has no linear layer that gives its logits")
    _check_last_layer(model, last)
    last.__class__ = PassThrough
    return LanguageHead(last.weight, last.bias)


@torch.no_grad()
def _check_last_layer(model: PreTrainedModel, last: nn.Linear) -> None:
    """Raise ValueError if the logits of `model` are not what its `last` layer gives."""
    if last.weight.is_meta:
        return
    found: list[Tensor] = []
    handle = last.register_forward_hook(lambda module, inputs, output: found.append(output))
    was_training = model.training
    try:
        model.eval()
        logits = model(input_ids=torch.arange(8).unsqueeze(0)).logits
    finally:
        handle.remove()
        model.train(was_training)
    if len(found) != 1 or found[0].shape != logits.shape or not torch.equal(found[0], logits):
        raise ValueError(f"{model.config.model_type} computes its logits in an unsupported way: choose another model")
