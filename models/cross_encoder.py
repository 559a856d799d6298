"""The cross-encoder: a transformer that reads query and document together and gives one raw score."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from models.capabilities import Layout, Part, RankingModel
from models.dropout import request_dropout
from models.export.cross_encoder import export_cross_encoder
from models.loading.activation import ACTIVATIONS, activation_of, check_activation
from models.loading.adapter import SavedAdapter
from models.loading.backbone import load_backbone, load_config, recompute_activations
from models.loading.checks import check_attends_to_all, check_ignores_padding, is_classifier, is_encoder, probe_padding
from models.loading.folder import ModelFolder
from models.loading.layers import keep_layers
from models.lora import parts_of
from models.packing.rows import request_packing
from models.pretrained import PretrainedOptions
from models.prompts.run_prompts import RunPrompts, in_words, merge_prompts
from models.tokenization import PairTokenizer, load_tokenizer

logger = logging.getLogger(__name__)

DEFAULT_LENGTH = 256  # the most tokens per pair of a model that is no reranker yet: it has no length for pairs
READS_PROMPTS = "reads_whole_prompts"  # in config.json of a sequence classifier that reads no pairs


@dataclass(frozen=True, kw_only=True)
class CrossEncoderConfig(PretrainedOptions):
    """The options of a cross-encoder: its weights, and how they run. `build` makes the model.

    A reranker's folder keeps its head, activation and prompts; any other encoder or decoder gets a new head.
    `max_length` counts the tokens of a pair; None: a reranker's own, else DEFAULT_LENGTH.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"score"})
    layout: ClassVar[Layout] = "pairs"

    activation: str | None = None  # of the export's scores: sigmoid, identity; None: the folder's, or as the loss says

    def check_values(self) -> None:
        super().check_values()
        check_activation(self.activation)

    def build(self, seed: int) -> CrossEncoder:
        """The model in float32 on the CPU, in training mode; what the checkpoint lacks is drawn from `seed`, so that
        it is equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or is not a reranker.
        """
        folder = self.read_folder()
        adapter = SavedAdapter.read(folder, tasks=("SEQ_CLS", "FEATURE_EXTRACTION"), kind="CrossEncoder")
        base = adapter.base if adapter else folder
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone, missing = self._load(base, force_one_label=adapter is not None)
            if adapter:
                backbone, brought = adapter.merge_into(backbone)
                missing = [name for name in missing if name not in brought]
            keep_layers(backbone, base, self.num_layers, self.kept_layers)
            tokenizer, max_length = load_tokenizer(
                folder,
                backbone,
                self.max_length,
                default_length=DEFAULT_LENGTH if missing else None,
                reads_padding=not is_encoder(backbone.config),
            )
            check_attends_to_all(folder, backbone.config, max_length)
            head = _head_modules(backbone)
            for name in head:
                _run_in_float32(backbone.get_submodule(name))
            head = _missing_pooler(backbone, missing) + head
            wrapped = self.lora.wrap(backbone, "SEQ_CLS", head=head) if self.lora else backbone
        if missing:
            logger.info("%s has no score head: a fresh one is drawn (seed %d): %s", folder.path, seed, ", ".join(head))
        if self.gradient_checkpointing:
            recompute_activations(wrapped)
        is_reranker = folder.kind == "CrossEncoder"
        pairs = PairTokenizer(
            tokenizer,
            max_length,
            folder.prompts if is_reranker else {},
            folder.settings.get("default_prompt_name") if is_reranker else None,
            split_special_tokens=self.splits_special_tokens(folder),
            document_prompt=folder.document_prompt if is_reranker else "",
        )
        activation = nn.Identity() if missing else activation_of(folder, backbone.config)
        activation = ACTIVATIONS[self.activation]() if self.activation else activation
        model = CrossEncoder(wrapped, pairs, activation, fresh_head=bool(missing), source=self.name_or_path)
        model.activation_is_chosen = self.activation is not None
        model.requested_dropout = self.requested_dropout
        _probe(model, folder)
        model.packings = request_packing(self.packing, [backbone], self.name_or_path)
        return model.train()

    def parts_to_train(self) -> Mapping[str, str]:
        parts = super().parts_to_train()
        return parts if self.lora is None else {**parts, "head": "model.lora"}

    def lost_prompts(self, prompts: RunPrompts) -> list[str]:
        """The document prompts: a reranker of sentence-transformers puts a prompt before the first text of a pair."""
        documents = prompts.of("document", self.read_folder().document_prompt)
        return [*in_words([prompt for prompt in documents if prompt.text]), *prompts.without_name()]

    def _load(self, folder: ModelFolder, *, force_one_label: bool) -> tuple[PreTrainedModel, list[str]]:
        config = load_config(folder)
        check_ignores_padding(folder, config, classifies=True)
        _check_is_plain_classifier(folder)
        if getattr(config, READS_PROMPTS, False):
            raise ValueError(
                f"model {folder.path} is the sequence classifier of an LLM reranker, for servers: it reads whole "
                "prompts, not pairs; give the reranker that it was written from"
            )
        if not is_classifier(config) or force_one_label:
            config.num_labels = 1
        elif config.num_labels != 1:
            raise ValueError(
                f"model {folder.path} is a classifier of {config.num_labels} labels; a reranker has one: choose "
                f"another, or its base model"
            )
        request_dropout(config, self.dropout)
        return load_backbone(AutoModelForSequenceClassification, folder, config, self.attention)


class CrossEncoder(RankingModel):
    """Scores (query, document) pairs.

    `backbone` is the transformers sequence-classification model with one label (a PeftModel around it under LoRA).
    `activation` is applied to the raw score by libraries that load the reranker (Identity with a new head, Sigmoid once
    the loss gives probabilities); training and ranking use the raw score.
    """

    activation_is_chosen: bool = False  # whether `model.activation` is set: the loss does not change it
    score_scale: tuple[float, float] | None = None  # mean and deviation of the scores; None: those of the head

    outputs = CrossEncoderConfig.outputs
    tokenizer: PairTokenizer

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        tokenizer: PairTokenizer,
        activation: nn.Module,
        *,
        fresh_head: bool,
        source: str,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.activation = activation
        self.fresh_head = fresh_head
        self.source = source  # the name or path that the weights came from

    @classmethod
    def load(
        cls, name_or_path: str | Path, max_length: int | None = None, *, trust_remote_code: bool = False
    ) -> CrossEncoder:
        """A trained reranker (an exported folder, a sentence-transformers or transformers folder, a hub id) to score
        with, in evaluation mode. Raises ValueError if it has no trained head."""
        options = CrossEncoderConfig(str(name_or_path), max_length=max_length, trust_remote_code=trust_remote_code)
        options.check(needs_head=True)  # before anything is said of how it would be read
        return options.build(seed=0).eval()

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Compute {"score": [rows] float32, the raw logit} from input_ids, attention_mask (and token_type_ids) [rows,
        tokens]. Padding may be at any position with mask 0. The score is computed in float32, under autocast too."""
        score = self.backbone(**features).logits.squeeze(-1)
        if self.score_scale is None:
            return {"score": score}
        mean, deviation = self.score_scale
        return {"score": score.float() * deviation + mean}

    def prepare(self, *, wanted_outputs: Collection[str] = (), shift_invariant: bool = False) -> None:
        super().prepare(wanted_outputs=wanted_outputs)
        if shift_invariant:
            self._freeze_score_bias()

    def give_probabilities(self) -> None:
        if not self.activation_is_chosen:
            self.activation = nn.Sigmoid()

    @property
    def scales_scores(self) -> bool:  # type: ignore[override]
        """Whether the head can hold another mean in an export: its last layer has a bias."""
        layers = self._score_layers()
        return bool(layers) and all(layer.bias is not None for layer in layers)

    def scale_scores(self, mean: float, deviation: float) -> None:
        self.score_scale = (mean, deviation)

    def fold_scale(self, state: dict[str, Tensor]) -> None:
        """Change the head's weights in a copy of `backbone.state_dict()`, so that the model gives the same scores
        without `score_scale`."""
        if self.score_scale is None:
            return
        mean, deviation = self.score_scale
        layers = self._score_layers()
        for name, module in self.backbone.named_modules():
            if any(module is layer for layer in layers):
                state[f"{name}.weight"] *= deviation
                state[f"{name}.bias"].mul_(deviation).add_(mean)

    def parts(self) -> Sequence[Part]:
        return parts_of(self.backbone, head=_head_modules(self._classifier))

    def expect_prompts(self, prompts: Iterable[str | None]) -> None:
        self.tokenizer = self.tokenizer.expecting(prompts)

    def adopt_prompts(self, prompts: RunPrompts) -> None:
        tokenizer = self.tokenizer
        roles = {} if prompts.query is None else {"query": prompts.query}
        named = prompts.texts("query", tokenizer.query_prompt)
        self.tokenizer = replace(
            tokenizer,
            prompts=merge_prompts(tokenizer.prompts, named, roles),
            default_prompt="query" if roles else tokenizer.default_prompt,
            document_prompt=tokenizer.document_prompt if prompts.document is None else prompts.document,
        )

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_cross_encoder(self, folder, card=card, adapter_only=adapter_only)

    @property
    def _classifier(self) -> Any:
        """The sequence-classification model itself."""
        return self.backbone.get_base_model() if isinstance(self.backbone, PeftModel) else self.backbone

    def _freeze_score_bias(self) -> None:
        """Freeze the bias that is added to every score.

        If a loss is shift invariant, the gradient of this bias is 0 except for rounding errors. AdamW divides a
        gradient by its size, so it would follow these errors at the full learning rate.
        """
        for layer in self._score_layers():
            if layer.bias is not None:
                layer.bias.requires_grad_(False)

    def _score_layers(self) -> list[nn.Linear]:
        """The last layer of the head (and its untrained copy under LoRA), which gives the score."""
        classifier = self._classifier
        modules = [each for name in _head_modules(classifier) for each in classifier.get_submodule(name).modules()]
        return [layer for layer in modules if isinstance(layer, nn.Linear) and layer.out_features == 1]


def _check_is_plain_classifier(folder: ModelFolder) -> None:
    """Raise ValueError if the score is not the one logit of a sequence classifier that reads the plain pair."""
    others = [name for name, _ in folder.modules if name != "Transformer"]
    reads_messages = "message" in folder.transformer.get("modality_config", {})
    if folder.kind == "CrossEncoder" and (others or reads_messages or folder.transformer.get("processing_kwargs")):
        what = ", ".join(others) or "a chat template or processing options"
        raise ValueError(
            f"model {folder.path} scores by {what}; model=cross_encoder reads plain sequence classifiers "
            "(a LogitScore model: model=llm_reranker)"
        )


def _probe(model: CrossEncoder, folder: ModelFolder) -> None:
    """Raise ValueError if the score of a row depends on the padding beside it."""
    pairs = model.tokenizer
    probe_padding(
        folder,
        model.backbone,
        lambda features: model(**features)["score"],
        pairs.tokenizer("what is it", "a short text"),
        padding=pairs.padding,
        max_length=pairs.max_length,
    )


def _run_in_float32(module: nn.Module) -> None:
    """Run `module` in float32 under autocast: bf16 has 8 bits, so different scores would become equal.

    Only the method of the instance is replaced, so that saving and peft still find the module by name and class. A deep
    copy (by peft, or for the reference model) gets a method of its own.
    """
    module.forward = partial(_float32_forward, module)


def _float32_forward(module: nn.Module, hidden: Tensor, *arguments: Any, **options: Any) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return type(module).forward(module, hidden.float(), *arguments, **options)


def _head_modules(backbone: PreTrainedModel) -> list[str]:
    """The names of the modules with weights that follow the encoder."""
    children = backbone.named_children()
    return [
        name for name, child in children if name != backbone.base_model_prefix and any(True for _ in child.parameters())
    ]


def _missing_pooler(backbone: PreTrainedModel, missing: list[str]) -> list[str]:
    """The name of the encoder's pooler if the checkpoint lacks it: then LoRA trains all its weights, like the
    head's."""
    inside = f"{backbone.base_model_prefix}."
    return sorted({key[: key.index("pooler.") + len("pooler")] for key in missing if key.startswith(inside)})
