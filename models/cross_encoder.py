"""The cross-encoder: a transformer that reads query and document together and gives one raw score."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from models.folder import ModelFolder, read_json
from models.loading import load_backbone, load_config, quiet
from models.lora import LoRAConfig
from models.resolve import DEFAULT_MODEL, resolve
from models.tokenization import PairTokenizer, load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossEncoderConfig:
    """Which weights to start from, and how to run them. `build` makes the model.

    A reranker's folder keeps its head, activation and prompts; any other encoder or decoder gets a fresh head.
    """

    name_or_path: str = DEFAULT_MODEL  # folder or hub id
    max_length: int | None = 256  # tokens per (query, document) pair; None: as the folder says
    dropout: float | None = None  # probability of every dropout; None: as pretrained
    attention: str | None = None  # None: the best that the model has
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, about a third slower
    lora: LoRAConfig | None = None  # None: all weights are trained

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout} must be null or in [0, 1)")

    def build(self, seed: int) -> CrossEncoder:
        """The model in float32 on the CPU, in training mode; what the checkpoint lacks is drawn from `seed`, so that
        it is equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, where the model cannot be had or is not a reranker.
        """
        folder = ModelFolder.read(resolve(self.name_or_path))
        adapter = read_json(folder.path / "adapter_config.json")
        base = ModelFolder.read(resolve(adapter["base_model_name_or_path"])) if adapter else folder
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone, missing = self._load(base, force_one_label=adapter is not None)
            if adapter:
                backbone, missing = _merge_adapter(backbone, folder.path), []
            tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length)
            head = _head_modules(backbone, missing)
            wrapped = self.lora.wrap(backbone, head) if self.lora else backbone
        if missing:
            logger.info("%s has no score head: a fresh one is drawn (seed %d): %s", folder.path, seed, ", ".join(head))
        if self.gradient_checkpointing:
            with quiet():
                wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if self.lora:
                wrapped.enable_input_require_grads()  # else checkpoints of frozen inputs would cut the graph
        is_reranker = folder.kind == "CrossEncoder"
        pairs = PairTokenizer(
            tokenizer,
            max_length,
            folder.prompts if is_reranker else {},
            folder.settings.get("default_prompt_name") if is_reranker else None,
        )
        activation = nn.Identity() if missing else _activation(folder, backbone.config)
        return CrossEncoder(wrapped, pairs, activation, fresh_head=bool(missing), source=self.name_or_path).train()

    def _load(self, folder: ModelFolder, *, force_one_label: bool) -> tuple[PreTrainedModel, list[str]]:
        config = load_config(folder)
        _refuse_other_rerankers(folder)
        is_classifier = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
        if not is_classifier or force_one_label:
            config.num_labels = 1
        elif config.num_labels != 1:
            raise ValueError(
                f"model {folder.path} is a classifier of {config.num_labels} labels; a reranker has one: choose "
                f"another, or its base model"
            )
        if self.dropout is not None:
            _set_dropout(config, self.dropout)
        return load_backbone(AutoModelForSequenceClassification, folder, config, self.attention)


class CrossEncoder(nn.Module):
    """Scores of (query, document) pairs.

    `backbone` is the transformers sequence-classification model with one label (a PeftModel around it under LoRA);
    `activation` is what the pretrained reranker puts on the raw score for its users (Identity with a fresh head);
    training and ranking use the raw score.
    """

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
    def load(cls, name_or_path: str | Path, max_length: int | None = None) -> CrossEncoder:
        """A trained reranker (an export of ours, a sentence-transformers or transformers folder, a hub id) to score
        with, in evaluation mode. Raises ValueError where it has no trained head."""
        model = CrossEncoderConfig(str(name_or_path), max_length=max_length).build(seed=0)
        if model.fresh_head:
            raise ValueError(f"model {name_or_path} has no score head: it is no reranker yet; train it first")
        return model.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"score": [rows] float32, the raw logit} of ids [rows, tokens]; padding may be anywhere the mask is 0."""
        features = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **features).logits
        return {"score": logits.squeeze(-1).float()}


def _refuse_other_rerankers(folder: ModelFolder) -> None:
    """Rerankers whose score is not the one logit of a sequence classifier over the plain pair."""
    others = [name for name, _ in folder.modules if name != "Transformer"]
    reads = next((key for key in ("message",) if key in folder.transformer.get("modality_config", {})), None)
    if folder.kind == "CrossEncoder" and (others or reads or folder.transformer.get("processing_kwargs")):
        what = ", ".join(others) or "a chat template or processing options"
        raise ValueError(f"model {folder.path} scores by {what}; model=cross_encoder reads plain sequence classifiers")


def _set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Every dropout probability of the configuration, whatever its name (hidden_dropout_prob, attn_pdrop, ...)."""
    names = [name for name in config.to_dict() if ("dropout" in name or name.endswith("pdrop")) and "layer" not in name]
    if not names:
        raise ValueError(f"model.dropout={probability}: {config.model_type} has no dropout; set it to null")
    for name in names:
        setattr(config, name, probability)


def _head_modules(backbone: PreTrainedModel, missing: list[str]) -> list[str]:
    """Names of the modules after the encoder, and of a pooler that the checkpoint lacks: trained in full by LoRA."""
    prefix = backbone.base_model_prefix
    head = [
        name for name, child in backbone.named_children() if name != prefix and any(True for _ in child.parameters())
    ]
    pooler = {key[: key.index("pooler.") + len("pooler")] for key in missing if key.startswith(prefix + ".")}
    return sorted(pooler) + head


def _merge_adapter(backbone: PreTrainedModel, path: Path) -> PreTrainedModel:
    """`backbone` with a saved adapter merged: training may go on with full weights or with a new adapter."""
    with quiet():
        config = PeftConfig.from_pretrained(str(path))
        return PeftModel.from_pretrained(backbone, str(path), config=config).merge_and_unload()


def _activation(folder: ModelFolder, config: PretrainedConfig) -> nn.Module:
    """What sentence-transformers' CrossEncoder would put on the score: named by the folder, else Sigmoid."""
    options = [
        folder.settings.get("activation_fn") if folder.kind == "CrossEncoder" else None,
        (getattr(config, "sentence_transformers", None) or {}).get("activation_fn"),
        getattr(config, "sbert_ce_default_activation_function", None),  # written before sentence-transformers 4
    ]
    name = next((option for option in options if option), "torch.nn.modules.activation.Sigmoid")
    found = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if found is None:  # never import what a folder names; sentence-transformers falls back in the same way
        logger.warning("%s names the activation %s, which is not torch's: Sigmoid is used", folder.path, name)
        return nn.Sigmoid()
    return found()
