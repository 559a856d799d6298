"""The options of a model of late interaction, and how it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from models.dropout import request_dropout
from models.embedding.text_options import TextOptions
from models.late_interaction.encoder import LateInteraction
from models.late_interaction.saved import MARKERS, PUNCTUATION, SIMILARITIES, SavedHead
from models.late_interaction.tokens import STRATEGIES, Expansion, TokenVectorTokenizer
from models.loading.adapter import SavedAdapter
from models.loading.backbone import (
    embedding_class,
    load_backbone,
    load_config,
    position_limit,
    recompute_activations,
)
from models.loading.checks import check_attends_to_all, check_ignores_padding, probe_padding
from models.loading.folder import ModelFolder
from models.loading.layers import keep_layers
from models.packing.rows import request_packing
from models.pretrained import PretrainedOptions
from models.prompts.run_prompts import ROLES
from models.tokenization import load_tokenizer
from models.towers import Dense

QUERY_LENGTH, DOCUMENT_LENGTH, DIMENSION = 32, 180, 128  # of a new model: those of ColBERT
POOLING = {"num_protected_tokens": 1, "normalize_embeddings": True, "tasks": ["document"]}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LateInteractionConfig(TextOptions, PretrainedOptions):
    """The options of a model that gives a vector per token (ColBERT). `build` makes the model.

    If an option is None, the model's folder decides; for a folder without late interaction, the values of ColBERT.
    `max_length` limits texts of either role; `prompts` hold the markers, and text.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    default_loss: ClassVar[str] = "info_nce_max_sim"
    contrastive_experiment: ClassVar[str] = "colbert_infonce"
    small_similarities: ClassVar[bool] = False  # MaxSim is up to the number of a query's tokens
    one_vector: ClassVar[bool] = False

    query_length: int | None = None  # tokens per query; None: the folder's, else 32
    document_length: int | None = None  # tokens per document; None: the folder's, else 180
    dimension: int | None = None  # of a token's vector; None: the folder's, else 128
    query_expansion: str | None = None  # fixed, min, none; None: the folder's, else fixed
    expansion_attends: bool | None = None  # whether tokens attend to the expansion's; None: the folder's, else no
    skip_punctuation: bool | None = None  # in documents; None: the folder's, else yes
    similarity: str | None = None  # maxsim, or meanmaxsim: divided by the query's tokens
    pool_factor: float | None = None  # merge a document's vectors, about one for so many, outside training

    def check_values(self) -> None:
        for option in ("max_length", "query_length", "document_length", "dimension"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ValueError(f"model.{option}={value} must be null or at least 1")
        if self.query_expansion not in (None, "none", *STRATEGIES):
            choices = ", ".join(STRATEGIES)
            raise ValueError(f"model.query_expansion={self.query_expansion}: choose null, none, {choices}")
        if self.similarity not in (None, *SIMILARITIES):
            raise ValueError(f"model.similarity={self.similarity}: choose null, {', '.join(SIMILARITIES)}")
        if self.pool_factor is not None and self.pool_factor < 1:
            raise ValueError(f"model.pool_factor={self.pool_factor} must be null or at least 1 (1: vectors stay)")
        super().check_values()

    def build(self, seed: int) -> LateInteraction:
        """The model in float32 on the CPU, in training mode; a new projection and adapters are drawn from `seed`.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or is of an unsupported kind.
        """
        folder = self.read_folder()
        head = SavedHead.read(folder)
        if set(folder.routes()) != {""}:
            raise ValueError(f"model {folder.path} has two towers: late interaction takes one")
        similarity = self._similarity_of(folder, head)
        hides = self._hides_expansion(head)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone, tokenizer = self._backbone(folder, head)
            dense = self._dense(folder, head, backbone.config.hidden_size)
        source = self.name_or_path if folder.backbone == folder.path else str(folder.backbone.absolute())
        pooling = head.pooling if self.pool_factor is None else {**POOLING, "pool_factor": self.pool_factor}
        model = LateInteraction(
            backbone,
            dense,
            tokenizer if pooling is None else replace(tokenizer, marks_queries=True),
            self.scale_settings().build(folder.path),
            similarity,
            source=source,
            pooling=pooling,
        )
        model.requested_dropout = self.requested_dropout
        model.packings = [] if hides else request_packing(self.packing, [backbone], self.name_or_path)
        return model.train()

    def known_similarity(self) -> str:
        if self.similarity:
            return self.similarity
        folder = self.read_folder()
        return self._similarity_of(folder, SavedHead.read(folder))

    def _similarity_of(self, folder: ModelFolder, head: SavedHead) -> str:
        """The similarity of the options, else of the folder. Raises ValueError if it is none of SIMILARITIES."""
        similarity = self.similarity or head.similarity or SIMILARITIES[0]
        if similarity not in SIMILARITIES:
            options = " or ".join(SIMILARITIES)
            raise ValueError(f"model {folder.path} compares by {similarity}: set model.similarity={options}")
        return similarity

    def _hides_expansion(self, head: SavedHead) -> bool:
        """Whether no token attends to those of the query's expansion. Raises ValueError if the model would not run them
        so."""
        settings = self._expansion_settings(head, None)
        if settings is None or settings["attend"]:
            return False
        hidden = "no token attends to those of the query's expansion"
        remedy = "leave it out (null), or set model.expansion_attends=true"
        if self.packing:
            raise ValueError(f"model.packing=true: {hidden}, of which packed rows know nothing: {remedy}")
        if self.attention == "flash_attention_2":
            raise ValueError(
                f"model.attention=flash_attention_2: {hidden}, and its kernel would leave these out: {remedy}"
            )
        return True

    def _backbone(self, folder: ModelFolder, head: SavedHead) -> tuple[Any, TokenVectorTokenizer]:
        adapter = SavedAdapter.read(folder, tasks=("FEATURE_EXTRACTION",), kind="MultiVectorEncoder")
        base = adapter.base if adapter else folder
        config = load_config(base, embeds=True)
        check_ignores_padding(folder, config, classifies=False)
        request_dropout(config, self.dropout)
        backbone, _ = load_backbone(embedding_class(config), base, config, self.attention)
        if adapter:
            backbone, _ = adapter.merge_into(backbone)
        keep_layers(backbone, base, self.num_layers, self.kept_layers)
        tokenizer = self._tokenizer(folder, head, backbone)
        check_attends_to_all(folder, config, tokenizer.max_length)
        if pooler := getattr(backbone, "pooler", None):
            pooler.requires_grad_(False)  # its output is not used: no gradient to reduce, no weight decay
        if self.gradient_checkpointing:
            recompute_activations(backbone)
        wrapped = self.lora.wrap(backbone, "FEATURE_EXTRACTION", unused=["pooler"]) if self.lora else backbone

        def represent(features: dict[str, Tensor]) -> Tensor:
            states: Tensor = wrapped(**features).last_hidden_state
            return normalize(states[:, :1].float(), dim=-1)

        row = dict(tokenizer.tokenizer("what is it"))
        probe_padding(folder, wrapped, represent, row, padding=tokenizer.padding, max_length=tokenizer.max_length)
        return wrapped, tokenizer

    def _tokenizer(self, folder: ModelFolder, head: SavedHead, backbone: Any) -> TokenVectorTokenizer:
        limit = position_limit(backbone)
        new = (min(QUERY_LENGTH, limit), min(DOCUMENT_LENGTH, limit)) if head.is_new else (None, None)
        query = self._capped(self.query_length or head.query_length or new[0])
        document = self._capped(self.document_length or head.document_length or new[1])
        for role, length in (("query", query), ("document", document)):
            if getattr(self, f"{role}_length") is not None and length is not None and length > limit:
                raise ValueError(
                    f"model.{role}_length={length}: {folder.path} reads rows of {limit} tokens at most: give such a "
                    "length, or leave it out (null)"
                )
        expansion = self._expansion_settings(head, query)
        longest = [length for length in (query, document, expansion and expansion["length"]) if length]
        tokenizer, max_length = load_tokenizer(folder, backbone, max(longest) if document else self.max_length)
        prompts, vocabulary = self.prompts, tokenizer.get_vocab()
        if prompts is None:
            prompts = folder.prompts | head.prompts
            if (
                head.is_new
                and not any(map(prompts.get, ROLES))
                and all(m.strip() in vocabulary for m in MARKERS.values())
            ):
                prompts = {**prompts, **MARKERS}
        if head.is_new or head.prefixes:
            register_markers(tokenizer, [*prompts.values(), *head.prefixes])
        words = head.skipped if self.skip_punctuation is None else PUNCTUATION if self.skip_punctuation else ()
        words = PUNCTUATION if words is None else words
        ids = [vocabulary.get(word) for word in words]
        found = TokenVectorTokenizer(
            tokenizer,
            max_length,
            prompts,
            split_special_tokens=self.splits_special_tokens(folder),
            query_length=query if expansion is None else self._capped(head.query_length),  # else the expansion's
            document_length=document,
            cuts_both=self.max_length is not None,
            expansion=None if expansion is None else _expansion(expansion, tokenizer, folder),
            skipped=tuple(i for i, word in zip(ids, words, strict=True) if i not in (None, tokenizer.unk_token_id)),
            skipped_roles=head.skipped_roles,
        )
        found.check_prompts()
        return found

    def _capped(self, length: int | None) -> int | None:
        return length if self.max_length is None or length is None else min(length, self.max_length)

    def _expansion_settings(self, head: SavedHead, query_length: int | None) -> dict[str, Any] | None:
        """The settings of the query's expansion: the folder's, with those of the options."""
        of_folder = (head.expansion or {}).get("strategy", "fixed" if head.is_new else "none")
        strategy = self.query_expansion or of_folder
        if strategy == "none":
            return None
        settings = {"token": None, "attend": False, "length": QUERY_LENGTH, **(head.expansion or {})}
        settings["strategy"] = strategy
        if self.query_length is not None or head.expansion is None:
            settings["length"] = query_length or settings["length"]
        settings["length"] = self._capped(settings["length"])
        if self.expansion_attends is not None:
            settings["attend"] = self.expansion_attends
        return settings

    def _dense(self, folder: ModelFolder, head: SavedHead, hidden: int) -> list[Dense]:
        """The folder's linear layers, or a new one."""
        if head.is_new:
            return [Dense(nn.Linear(hidden, self.dimension or DIMENSION, bias=False), nn.Identity())]
        layers = head.load_dense()
        own = layers[-1].linear.out_features if layers else hidden
        if self.dimension not in (None, own):
            given = f"{folder.path} gives {own} per token"
            raise ValueError(f"model.dimension={self.dimension}: {given}: give that, or null")
        return layers

    def starting_from(self, folder: Path) -> LateInteractionConfig:
        lengths = ["max_length", "query_length", "document_length", "query_expansion", "expansion_attends"]
        saved: dict[str, Any] = dict.fromkeys([*lengths, "skip_punctuation", "similarity", "pool_factor"])
        return replace(super().starting_from(folder), **saved)

    def parts_to_train(self) -> Mapping[str, str]:
        asked = {} if self.dimension is None else {"projection": f"model.dimension={self.dimension}"}
        return {**super().parts_to_train(), **asked}


def register_markers(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> None:
    """Let the tokenizer read the marker at the beginning of a prompt as the one token that the vocabulary has, if it
    would split it: `[unused0]` of BERT is spelled by no text. The vocabulary stays as it is."""
    vocabulary = tokenizer.get_vocab()
    for prompt in filter(None, map(str, prompts)):
        known = [marker for marker in (prompt, *prompt.split()[:1]) if marker in vocabulary]
        if known and tokenizer.tokenize(known[0]) != known[:1]:
            tokenizer.add_tokens([AddedToken(known[0], normalized=False, special=True)], special_tokens=True)


def _expansion(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, folder: ModelFolder) -> Expansion:
    token = settings["token"]
    found: Any = tokenizer.mask_token_id if token is None else tokenizer.convert_tokens_to_ids(token)
    if found is None and token is None:
        found = tokenizer.eos_token_id
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(
            f"model {folder.path}: its tokenizer has no token {token or 'for a mask'} by which queries are made "
            "longer: set model.query_expansion=none"
        )
    return Expansion(settings["strategy"], settings["length"], found, token, settings["attend"])
