"""Compare what a model's folder brings with what the model needs: embeddings, padding, a score head; and refuse models
whose score of a row depends on the rows beside it.

The tasks and bases of adapters are checked in `models.loading.adapter`, prompt templates in `models.llm_reranker`.
`models.capabilities.ModelOptions.check` runs all of it before data is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from models.loading.backbone import embedding_rows
from models.loading.folder import OF_KIND, ModelFolder
from models.prompts.template import TEMPLATES

logger = logging.getLogger(__name__)

# model_type -> why a row is read with the padding beside it, so that its score depends on the rows of its batch
READS_PADDING = {
    "canine": "it sums up blocks of characters, padding too",
    "convbert": "its convolutions take padding for text",
    "fnet": "its Fourier transform has no mask",
    "funnel": "it pools neighbouring tokens, padding too",
    "mra": "its attention is approximated over blocks of the padded row",
    "nystromformer": "its landmarks are means that count padding",
    "reformer": "its tokens are hashed together with padding",
    "yoso": "its attention is sampled over the padded row",
}
PADDING_TOKENS = 8  # put beside the row of `probe_padding`
MOST_CHANGE = 1e-3  # of a score or embedding by padding, relative; rounding errors are 1e-5 and less
LEAST_SCORE = 0.1  # a smaller one is compared as if it had this size: it may be the difference of large values
MOST_PROBED = 1_000_000_000  # parameters: probing a larger model would take seconds


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether the architecture is that of a bidirectional encoder."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether the weights are those of a sequence classifier, as their configuration says."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def is_language_model(config: PretrainedConfig) -> bool:
    """Whether the weights are those of a causal language model, as its configuration says."""
    names = config.architectures or []
    return not is_encoder(config) and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def without_head(name_or_path: str | Path, folder: ModelFolder, config: PretrainedConfig) -> ValueError:
    """The error for a model that is to score pairs and has no score head: what it is, and how it is used."""
    kind = OF_KIND.get(folder.kind, "bi_encoder")
    evaluates = f"`python launch/evaluate.py model={kind} model.name_or_path={name_or_path}`"
    if folder.kind == "SentenceTransformer" or kind != "bi_encoder":
        return ValueError(
            f"model {name_or_path} is an embedding model, it has no score head: {evaluates} evaluates it; "
            "launch/train.py trains a reranker from it"
        )
    if is_language_model(config):
        return ValueError(
            f"model {name_or_path} is a language model without a prompt template, it has no score head: name the "
            f"template that it was trained with, model=llm_reranker model.template=NAME (launch/rerank.py: --template "
            f"NAME), one of {', '.join(TEMPLATES)}"
        )
    return ValueError(
        f"model {name_or_path} has no score head: it is not a reranker yet; train it first, or evaluate it as an "
        f"embedding model by {evaluates}"
    )


def check_embeddings(folder: ModelFolder, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raise ValueError if the tokenizer has a token without a row in the embeddings: reading it would be an index
    error, on a GPU one that names nothing.

    A special token that neither a text nor the tokenizer itself puts into a row needs no row: Gemma's tokenizers have
    one for images.
    """
    rows, ids = embedding_rows(model), tokenizer.get_vocab()
    beyond = {token: index for token, index in ids.items() if index >= rows}
    if not beyond:
        return
    roles = [getattr(tokenizer, f"{role}_token_id", None) for role in ("pad", "unk", "bos", "eos", "cls", "sep")]
    used = {*roles, *tokenizer("a").input_ids, *tokenizer("a", "b").input_ids}
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} - used
    unread = [token for token, index in beyond.items() if index in special]
    if len(unread) == len(beyond):
        logger.warning("model %s: its embeddings have no row for the special tokens %s", folder.path, ", ".join(unread))
        return
    token, index = min(beyond.items(), key=lambda item: item[1])
    size = max(ids.values()) + 1
    adapted = (
        ", or remove the tokenizer's files there: that of the base is read"
        * (folder.backbone / "adapter_config.json").is_file()
    )
    raise ValueError(
        f"model {folder.path} does not fit its tokenizer: the tokenizer has {size} tokens, the embeddings {rows} rows, "
        f"none for {token!r} ({index}): enlarge them by transformers' `model.resize_token_embeddings({size})` and save "
        f"the model{adapted}"
    )


def settle_padding(
    folder: ModelFolder, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, reads_padding: bool
) -> None:
    """Make the tokenizer and the model pad with the same token.

    `reads_padding`: the model finds the last token of a row by the padding id of its configuration, as the classifiers
    of decoders do. Then rows are padded with the id that it looks for: a row has the score that it has alone. Other
    models have a mask. Raises ValueError if there is no token to pad with.
    """
    config: Any = model.config
    own, named = tokenizer.pad_token_id, config.pad_token_id
    known = named is not None and 0 <= named < embedding_rows(model)
    token = tokenizer.convert_ids_to_tokens(named) if known else None
    if token is not None and (own is None or (reads_padding and named != own)):
        if own is not None:
            logger.warning(
                "model %s: its configuration pads with %r (%d), its tokenizer with %r (%d): rows are padded with the "
                "first, by which the model finds the end of a row",
                *(folder.path, token, named, tokenizer.pad_token, own),
            )
        tokenizer.pad_token = token
    elif own is None and _can_pad_with_end(tokenizer, reads_padding=reads_padding):
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"model {folder.path}: its tokenizer has no padding token: write one of its tokens that ends no text as "
            '"pad_token" into tokenizer_config.json'
        )
    if named is None or reads_padding:
        config.pad_token_id = tokenizer.pad_token_id


def _can_pad_with_end(tokenizer: PreTrainedTokenizerBase, *, reads_padding: bool) -> bool:
    """Whether the end token can be padding: a model that reads padding ids would overlook one at the end of a text."""
    end = tokenizer.eos_token_id
    return end is not None and not (reads_padding and tokenizer("a", "b").input_ids[-1] == end)


def check_ignores_padding(folder: ModelFolder, config: PretrainedConfig, *, classifies: bool) -> None:
    """Raise ValueError if the architecture is known to read the padding beside a row. `classifies`: its own head for
    sequences is used."""
    kind, summary = config.model_type, getattr(config, "summary_type", "first")
    reason = READS_PADDING.get(kind)
    # gpt2 and openai-gpt name a summary that their classifiers do not use.
    if reason is None and classifies and kind in ("xlnet", "xlm", "flaubert") and summary != "first":
        reason = f'its score is read at "summary_type": {summary!r} of the padded row'
    if reason is not None:
        raise _changed_by_padding(folder, f"{kind}: {reason}")


def check_attends_to_all(folder: ModelFolder, config: Any, max_length: int) -> None:
    """Raise ValueError if rows are long enough for BigBird's sparse attention: its blocks are those of the padded row,
    and one batch of short rows switches it off for good."""
    if config.model_type != "big_bird" or config.attention_type == "original_full":
        return
    longest = (5 + 2 * config.num_random_blocks) * config.block_size
    if max_length > longest:
        raise ValueError(
            f"model {folder.path}: the sparse attention of big_bird depends on the other rows of a batch: write "
            f'"attention_type": "original_full" into config.json, or set model.max_length={longest} or less'
        )


@torch.no_grad()
def probe_padding(
    folder: ModelFolder,
    backbone: Any,
    represent: Callable[[dict[str, Tensor]], Tensor],
    row: Mapping[str, list[int]],
    *,
    padding: Mapping[str, int],
    max_length: int,
) -> None:
    """Raise ValueError if padding changes what `represent(features)` makes of a short `row`, as of an architecture that
    `check_ignores_padding` does not know.

    It costs two forward passes of `backbone` over a few tokens. Models that are not on the CPU, large ones, and those
    that cannot run here are not probed.
    """
    config, width = backbone.config, len(row["input_ids"])
    more = min(PADDING_TOKENS, max_length - width)
    runs_here = all(weight.device.type == "cpu" for weight in backbone.parameters())
    is_plain = config._attn_implementation in ("sdpa", "eager", None)  # others need a GPU, or compile first
    if more < 1 or width < 1 or not (runs_here and is_plain) or _num_parameters(backbone) > MOST_PROBED:
        return
    ids = {name: torch.tensor([values]) for name, values in row.items()}
    padded = {n: nn.functional.pad(values, (0, more), value=padding.get(n, 0)) for n, values in ids.items()}
    was_training = {module: module.training for module in backbone.modules()}
    try:
        backbone.eval()
        with torch.random.fork_rng(devices=[]):
            alone, beside = represent(ids), represent(padded)
    except Exception as error:  # of kernels or code of the folder that run only elsewhere: not refused
        logger.info("model %s: not probed with padding (%s: %s)", folder.path, type(error).__name__, error)
        return
    finally:
        for module, training in was_training.items():
            module.training = training
    size = alone.abs().max().clamp(min=LEAST_SCORE if alone.numel() == 1 else 0.0)
    if (beside - alone).abs().max() > MOST_CHANGE * size:
        raise _changed_by_padding(folder, config.model_type)


def _num_parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _changed_by_padding(folder: ModelFolder, what: str) -> ValueError:
    return ValueError(
        f"model {folder.path}: a row's score changes with the padding beside it ({what}): choose another model"
    )
