"""Compare what a model's folder brings with what the model needs: embeddings, padding, a score head.

The tasks and bases of adapters are checked in `models.loading.adapter`, prompt templates in `models.llm_reranker`.
`models.capabilities.ModelOptions.check` runs all of it before data is read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from models.loading.backbone import embedding_rows
from models.loading.folder import ModelFolder
from models.prompts.template import TEMPLATES

logger = logging.getLogger(__name__)


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether the architecture is that of a bidirectional encoder."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def is_language_model(config: PretrainedConfig) -> bool:
    """Whether the weights are those of a causal language model, as its configuration says."""
    names = config.architectures or []
    return not is_encoder(config) and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def without_head(name_or_path: str | Path, folder: ModelFolder, config: PretrainedConfig) -> ValueError:
    """The error for a model that is to score pairs and has no score head: what it is, and how it is used."""
    evaluated = f"model=bi_encoder model.name_or_path={name_or_path}"
    if folder.kind == "SentenceTransformer":
        return ValueError(
            f"model {name_or_path} is an embedding model, it has no score head: `launch/evaluate.py {evaluated}` "
            "evaluates it; launch/train.py trains a reranker from it"
        )
    if is_language_model(config):
        return ValueError(
            f"model {name_or_path} is a language model without a prompt template, it has no score head: name the "
            f"template that it was trained with, model=llm_reranker model.template=NAME (launch/rerank.py: --template "
            f"NAME), one of {', '.join(TEMPLATES)}"
        )
    return ValueError(
        f"model {name_or_path} has no score head: it is not a reranker yet; train it first, or evaluate it as an "
        f"embedding model by {evaluated}"
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
