"""The sparse encoder (SPLADE): a text becomes weights of the tokens of the vocabulary, most of them zero.

Source: Formal et al. 2021, "SPLADE v2", arXiv:2109.10086; queries without a transformer: Geng et al. 2024, "Towards
Competitive Search Relevance For Inference-Free Learned Sparse Retrievers", arXiv:2411.04403.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.capabilities import ALL_PARTS, Part
from models.dropout import request_dropout
from models.embedding.text_model import TextModel
from models.embedding.text_options import TextOptions
from models.export.sparse_encoder import export_sparse_encoder
from models.loading.adapter import SavedAdapter
from models.loading.backbone import load_config, recompute_activations
from models.loading.checks import check_attends_to_all, check_ignores_padding, probe_padding
from models.loading.layers import keep_layers
from models.lora import parts_of
from models.packing.rows import request_packing
from models.pretrained import PretrainedOptions
from models.scale import Scale
from models.sparse.language_head import SparseTower, TokenWeights, inverse_frequencies, load_language_model
from models.sparse.modules import ACTIVATIONS, LARGEST_OF, SparseModules
from models.tokenization import IS_QUERY, TextTokenizer, load_plain_tokenizer, load_tokenizer

QUERY_WEIGHTS = ("ones", "idf")
TEXTS_OF_IDF = 100_000  # of a larger corpus so many are counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SparseEncoderConfig(TextOptions, PretrainedOptions):
    """The options of a sparse encoder: a language model's weights, and how its logits become weights of tokens. Texts
    are compared by the dot product. `build` makes the model.

    If an option is None, the model's folder decides: that of a sparse encoder, of a masked or causal language model, or
    of an encoder without the head of one, whose word embeddings, transposed, then give the logits.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    default_evaluation: ClassVar[str] = "retrieval_sparse"
    default_loss: ClassVar[str] = "info_nce_sparse"
    contrastive_experiment: ClassVar[str] = "splade_infonce"
    small_similarities: ClassVar[bool] = False
    ordered_dimensions: ClassVar[bool] = False  # the first are the control tokens of the vocabulary

    default_length: int | None = 256  # tokens per text, at most, if neither max_length nor the folder says how many
    activation: str | None = None  # relu: log(1 + relu); log1p_relu: log(1 + log(1 + relu))
    query_terms: int | None = None  # the largest weights that a query keeps; 0: all; None: the folder's, else all
    document_terms: int | None = None  # the same of a document
    query_weights: str | None = None  # inference-free queries: ones, idf (of the corpus); None: the folder's, if any
    learn_query_weights: bool = True

    def check_values(self) -> None:
        for option, choices in (("activation", ACTIVATIONS), ("query_weights", QUERY_WEIGHTS)):
            if getattr(self, option) not in (None, *choices):
                raise ValueError(f"model.{option}={getattr(self, option)}: choose null, {', '.join(choices)}")
        for option in ("query_terms", "document_terms"):
            number = getattr(self, option)
            if number is not None and number < 0:
                raise ValueError(f"model.{option}={number} must be null or a number of tokens (0: all)")
        super().check_values()

    def known_similarity(self) -> str:
        return "dot"

    def build(self, seed: int) -> SparseEncoder:
        """The model in float32 on the CPU, in training mode; adapters are drawn from `seed`, so that they are equal on
        every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or is of an unsupported kind.
        """
        folder = self.read_folder()
        modules = SparseModules.read(folder)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            tower, tokenizer = self._tower(modules)
        if self.gradient_checkpointing:
            recompute_activations(tower.backbone)
        token_weights = self._token_weights(modules, tower, tokenizer)
        terms = {role: self._terms(modules, role) for role in LARGEST_OF}
        by_role = token_weights is not None or terms["query"] != terms["document"]
        tokenizer = replace(tokenizer, marks_queries=by_role)
        tokenizer.check_prompts()
        model = SparseEncoder(
            tower,
            tokenizer,
            self.scale_settings().build(folder.path),
            token_weights=token_weights,
            terms=terms,
            source=self.name_or_path,
        )
        model.reads_corpus = self.query_weights == "idf"
        model.requested_dropout = self.requested_dropout
        model.packings = request_packing(self.packing, [tower.backbone], self.name_or_path)
        return model.train()

    def starting_from(self, folder: Path) -> SparseEncoderConfig:
        return replace(super().starting_from(folder), query_weights=None)  # as saved in the folder

    def parts_to_train(self) -> Mapping[str, str]:
        parts = super().parts_to_train()
        if self.query_weights is None:
            return parts
        if self.learn_query_weights:
            return {**parts, "query weights": f"model.query_weights={self.query_weights}"}
        return {name: option for name, option in parts.items() if name not in (ALL_PARTS, "adapters")}

    def _terms(self, modules: SparseModules, role: str) -> int | None:
        """How many weights a text of this role keeps; None: all."""
        own = getattr(self, f"{role}_terms")
        saved = getattr(modules, f"{role}_terms")
        return (modules.largest if saved is None else saved or None) if own is None else own or None

    def _tower(self, modules: SparseModules) -> tuple[SparseTower, TextTokenizer]:
        folder = modules.transformer
        similarity = folder.settings.get("similarity_fn_name") or "dot"
        if folder.kind == "SparseEncoder" and similarity != "dot":
            raise ValueError(f"model {folder.path} compares by {similarity}: a sparse encoder compares by dot alone")
        adapter = SavedAdapter.read(folder, tasks=("FEATURE_EXTRACTION",), kind="SparseEncoder")
        base = adapter.base if adapter else folder
        config = load_config(base, embeds=True)
        check_ignores_padding(folder, config, classifies=False)
        request_dropout(config, self.dropout)
        free = self.query_weights is not None or modules.token_weights is not None
        tokens = len(load_plain_tokenizer(folder)) if free else None  # other libraries need a weight for each of them
        backbone, head, has_own_head = load_language_model(
            base, config, self.attention, adapter=adapter, linear=modules.head(), tied=modules.tied, tokens=tokens
        )
        keep_layers(backbone, base, self.num_layers, self.kept_layers)
        default = None if folder.max_length else self.default_length
        tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length, default_length=default)
        check_attends_to_all(folder, config, max_length)
        if pooler := getattr(backbone, "pooler", None):
            pooler.requires_grad_(False)  # its output is not used: no gradient to reduce, no weight decay
        unused = ["pooler", *_names_of_head(backbone)]
        wrapped = self.lora.wrap(backbone, "FEATURE_EXTRACTION", unused=unused) if self.lora else backbone
        if self.lora is not None:
            head.requires_grad_(False)
        source = self.name_or_path if folder.backbone == folder.path else str(folder.backbone.absolute())
        activation = modules.activation if self.activation is None else self.activation
        log_twice = activation == "log1p_relu"
        tower = SparseTower(wrapped, head, has_own_head=has_own_head, log_twice=log_twice, source=source)
        texts = TextTokenizer(tokenizer, max_length, **self.texts_of(folder))
        texts = replace(texts, split_special_tokens=self.splits_special_tokens(folder))
        row = {name: values for name, values in tokenizer("what is it").items() if name != "offset_mapping"}
        probe_padding(folder, wrapped, tower, row, padding=texts.padding, max_length=max_length)
        return tower, texts

    def _token_weights(
        self, modules: SparseModules, tower: SparseTower, tokenizer: TextTokenizer
    ) -> TokenWeights | None:
        saved = modules.query_weights() if self.query_weights is None else torch.ones(tower.dimension)
        if saved is None:
            return None
        if not len(saved) == tower.dimension == tokenizer.vocabulary_size:
            raise ValueError(
                f"model {modules.transformer.path}: queries without a transformer need as many weights ({len(saved)}) "
                f"as the tokenizer has tokens ({tokenizer.vocabulary_size}) and the head has rows "
                f"({tower.dimension}): give the model so many embeddings (resize_token_embeddings of transformers), or "
                "leave out model.query_weights"
            )
        weights = TokenWeights(saved, [*tokenizer.tokenizer("").input_ids, tokenizer.padding["input_ids"]])
        return weights.requires_grad_(self.learn_query_weights)


def _names_of_head(backbone: Any) -> list[str]:
    last = backbone.get_output_embeddings()
    return [] if last is None else [name for name, module in backbone.named_modules() if module is last]


class SparseEncoder(TextModel):
    """Gives a text the weights [vocabulary] of its terms. The similarity of two texts is their dot product.

    With `token_weights` a query has the weights of its own tokens, and a document those of the transformer. `terms`:
    how many of the largest weights a text keeps, by role; None: all. The others become 0, and get no gradient.
    """

    outputs = SparseEncoderConfig.outputs
    similarity = "dot"
    search = "inverted"

    def __init__(
        self,
        tower: SparseTower,
        tokenizer: TextTokenizer,
        scale: Scale | None,
        *,
        token_weights: TokenWeights | None,
        terms: Mapping[str, int | None],
        source: str,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.tokenizer = tokenizer
        self.scale = scale
        self.token_weights = token_weights
        self.terms = dict(terms)
        self.source = source  # the name or path that the weights came from
        self.dimension = tower.dimension

    @classmethod
    def load(
        cls, name_or_path: str | Path, max_length: int | None = None, *, trust_remote_code: bool = False
    ) -> SparseEncoder:
        """A trained sparse encoder (an export, a sentence-transformers folder, a hub id), in evaluation mode."""
        options = SparseEncoderConfig(str(name_or_path), max_length=max_length, trust_remote_code=trust_remote_code)
        return options.build(seed=0).eval()

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Compute the representations of input_ids, attention_mask, ... [rows, tokens] in float32:

        - "embedding" [rows, vocabulary]: the weights of the tokens of the vocabulary;
        - "scale" [rows], if the model has a temperature: its inverse, the same in every row;
        - "bias" [rows], if it has one, the same in every row.
        """
        marks = features.pop(IS_QUERY, None)
        is_query = None if marks is None else marks.any(1)
        if self.token_weights is None or is_query is None:
            weights = self.tower(features)
        else:
            weights = self._weights_by_role(features, is_query)
        weights = self._largest(weights, is_query)
        return self.scaled({"embedding": weights}, len(weights), weights.device)

    def _weights_by_role(self, features: dict[str, Tensor], is_query: Tensor) -> Tensor:
        """The weights of queries by their tokens, of documents by the transformer. In training, and if the weights are
        divided over the ranks, the transformer always runs: all ranks must run it equally often (ZeRO-3)."""
        assert self.token_weights is not None
        weights = self.token_weights(features["input_ids"], features["attention_mask"])
        documents = (~is_query).nonzero().squeeze(1)
        if not len(documents) and not self.training and not self.tower.is_sharded:
            return weights
        chosen = documents if len(documents) else documents.new_zeros(1)
        found = self.tower({name: values[chosen] for name, values in features.items()})
        if not len(documents):
            return weights + 0 * found.sum()
        kept = (weights * is_query.unsqueeze(1)).to(found.dtype)
        return kept.index_add(0, documents, found)

    def _largest(self, weights: Tensor, is_query: Tensor | None) -> Tensor:
        """The weights, with 0 in the place of all but the largest."""
        query, document = (self.terms[role] for role in ("query", "document"))
        if is_query is None or query == document:
            return keep_largest(weights, document)
        kept = keep_largest(weights, query), keep_largest(weights, document)
        return torch.where(is_query.unsqueeze(1), *kept)

    def read_corpus(self, texts: Iterable[str]) -> None:
        if self.token_weights is None or not self.reads_corpus:
            return
        chosen = list(texts)
        step = -(-len(chosen) // TEXTS_OF_IDF) or 1
        rows = self.tokenizer.token_ids(chosen[::step])
        with torch.no_grad():
            self.token_weights.weight.copy_(inverse_frequencies(rows, self.tower.dimension))

    @property
    def pooled_by(self) -> str:
        return "max"

    @property
    def unread_by_others(self) -> Mapping[str, Mapping[str, Any]]:
        if self.terms["query"] == self.terms["document"]:
            return {}
        limits = " and ".join(f"model.{LARGEST_OF[role]}={number or 0}" for role, number in self.terms.items())
        reason = f"limits: {limits} are not kept: sentence-transformers has one max_active_dims for both roles"
        return {reason: {"terms": dict.fromkeys(self.terms)}}

    def text_parts(self) -> Sequence[Part]:
        parts = list(parts_of(self.tower.backbone))
        inside = {id(parameter) for parameter in self.tower.backbone.parameters()}
        head = tuple(parameter for parameter in self.tower.head.parameters() if id(parameter) not in inside)
        parts.append(Part("head", head))
        if self.token_weights is not None:
            parts.append(Part("query weights", tuple(self.token_weights.parameters())))
        return parts

    def simplify_for_tracing(self) -> None:
        super().simplify_for_tracing()
        self.token_weights = None  # every row runs through the transformer, as a document's does
        self.tokenizer = replace(self.tokenizer, marks_queries=False)

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_sparse_encoder(self, folder, card=card, adapter_only=adapter_only)


def keep_largest(weights: Tensor, number: int | None) -> Tensor:
    """weights [rows, vocabulary] with 0 in the place of all but the `number` largest of each row; None: all stay."""
    if number is None or number >= weights.shape[1]:
        return weights
    places = weights.detach().abs().topk(number, dim=1).indices
    return torch.zeros_like(weights).scatter(1, places, weights.gather(1, places))
