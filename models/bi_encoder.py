"""The bi-encoder: a transformer that reads one text and gives one embedding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BitsAndBytesConfig

from models.capabilities import Part
from models.dropout import request_dropout
from models.embedding.options import EmbedderOptions
from models.embedding.text_model import TextModel
from models.export.bi_encoder import export_bi_encoder
from models.loading.adapter import SavedAdapter
from models.loading.backbone import embedding_class, load_backbone, load_config, recompute_activations
from models.loading.checks import check_attends_to_all, check_ignores_padding, is_classifier, probe_padding
from models.loading.embedding_modules import Head
from models.loading.folder import ModelFolder
from models.loading.layers import keep_layers
from models.loading.quantization import check_quantization, quantization_config
from models.packing.rows import request_packing
from models.pooling import check_mode
from models.pretrained import PretrainedOptions
from models.scale import Scale
from models.tokenization import TextTokenizer, load_tokenizer
from models.towers import Dense, SeparateTowers, TextTower, Tower, towers_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BiEncoderConfig(EmbedderOptions, PretrainedOptions):
    """The options of an embedding model: its weights, and how texts are embedded and compared. `build` makes the model.

    If an option is None, the model's folder decides. A plain transformers folder gets mean pooling and cosine
    similarity, as in sentence-transformers.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding", "layers"})

    default_length: int | None = None  # tokens per text, at most, if neither max_length nor the folder says how many
    pooling: str | None = None  # cls, mean, max, weightedmean, lasttoken, mean_sqrt_len_tokens
    quantization: str | None = None  # 4bit: of the frozen weights under LoRA (bitsandbytes, CUDA)

    def check_values(self) -> None:
        if self.pooling is not None:
            check_mode(self.pooling, "model.pooling=")
        check_quantization(self.quantization, has_adapters=self.lora is not None)
        super().check_values()

    def build(self, seed: int) -> BiEncoder:
        """The model in float32 on the CPU, in training mode; a new projection and adapters are drawn from `seed`, so
        that they are equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or is of an unsupported kind.
        """
        quantization = quantization_config(self.quantization)
        folder = self.read_folder()
        self.similarity_of(folder)  # raises an error before weights are read
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            parts = [self._tower(route, quantization) for route in folder.routes().values()]
            projection = self.new_teacher_projection(parts[0][0].dimension)
        model = BiEncoder(**self.parts_of_model(folder, parts), teacher_projection=projection)
        head = parts[0][2]
        backbones = [one.transformer for one in towers_of(model.tower).values() if one.transformer is not None]
        if self.gradient_checkpointing:
            for backbone in backbones:
                recompute_activations(backbone)
        model.requested_dropout = self.requested_dropout
        changes = {
            "num_layers": self.num_layers is not None,
            "pooling": self.pooling is not None and [self.pooling] != list(head.modes),
        }
        model.int8_ranges = self.saved_int8_ranges(folder, head, model.dimension, changes)
        model.packings = request_packing(self.packing, backbones, self.name_or_path)
        return model.train()

    def check_machine(self) -> None:
        quantization_config(self.quantization)

    def check_adapter_only(self) -> None:
        if self.lora is not None and self.separate_towers:
            raise ValueError("adapter_only=true: sentence-transformers loads no adapters of two towers: merge them")
        super().check_adapter_only()

    def _tower(self, folder: ModelFolder, quantization: BitsAndBytesConfig | None) -> tuple[Tower, TextTokenizer, Head]:
        head = Head.read(folder, self.name_or_path)
        adapter = SavedAdapter.read(folder, tasks=("FEATURE_EXTRACTION",), kind="SentenceTransformer")
        base = adapter.base if adapter else folder
        config = load_config(base, embeds=True)
        check_ignores_padding(folder, config, classifies=False)
        if not folder.modules and is_classifier(config):
            logger.warning(
                "model %s is a sequence classifier: its score head is left out, and texts are embedded by %s pooling",
                *(self.name_or_path, self.pooling or head.modes[0]),
            )
        request_dropout(config, self.dropout)
        backbone, _ = load_backbone(embedding_class(config), base, config, self.attention, quantization)
        if adapter:
            backbone, _ = adapter.merge_into(backbone)
        keep_layers(backbone, base, self.num_layers, self.kept_layers)
        default = None if folder.max_length else self.default_length
        tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length, default_length=default)
        check_attends_to_all(folder, config, max_length)
        if pooler := getattr(backbone, "pooler", None):
            pooler.requires_grad_(False)  # its output is not used: no gradient to reduce, no weight decay
        wrapped = self.lora.wrap(backbone, "FEATURE_EXTRACTION", unused=["pooler"]) if self.lora else backbone
        modes = [self.pooling] if self.pooling else list(head.modes)
        dense = self.linear_layers(head, config.hidden_size * len(modes), f"model.pooling={self.pooling}")
        source = self.name_or_path if folder.backbone == folder.path else str(folder.backbone.absolute())
        texts = TextTokenizer(tokenizer, max_length, **self.texts_of(folder))
        split = self.splits_special_tokens(folder)
        texts = replace(texts, include_prompt=head.include_prompt, split_special_tokens=split)
        tower = Tower(wrapped, modes, dense, source=source)
        embed, row = partial(tower, layers=False), tokenizer("what is it")
        probe_padding(folder, wrapped, embed, row, padding=texts.padding, max_length=max_length)
        return tower, texts, head


class BiEncoder(TextModel):
    """Embeds texts. The similarity of two texts is the dot product of their embeddings, which have unit length if
    `unit_length`."""

    outputs = BiEncoderConfig.outputs

    def __init__(
        self,
        tower: TextTower | SeparateTowers,
        tokenizer: TextTokenizer,
        scale: Scale | None,
        similarity: str,
        *,
        unit_length: bool,
        source: str,
        teacher_projection: Dense | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.teacher_projection = teacher_projection  # no part of an export
        self.tokenizer = tokenizer
        self.scale = scale
        self.similarity = similarity  # "cosine" or "dot"
        self.unit_length = unit_length
        self.source = source  # the name or path that the weights came from
        first = next(iter(towers_of(tower).values()))
        self.outputs = first.outputs
        self.dimension = first.dimension

    @classmethod
    def load(
        cls, name_or_path: str | Path, max_length: int | None = None, *, trust_remote_code: bool = False
    ) -> BiEncoder:
        """A trained embedding model (an export, a sentence-transformers or transformers folder, a hub id), in
        evaluation mode."""
        options = BiEncoderConfig(str(name_or_path), max_length=max_length, trust_remote_code=trust_remote_code)
        return options.build(seed=0).eval()

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Compute the representations of input_ids, attention_mask, ... [rows, tokens] in float32:

        - "embedding" [rows, dim];
        - "scale" [rows], if the model has a temperature: its inverse, the same in every row;
        - "bias" [rows], if it has one, the same in every row;
        - "layers" [rows, layers, dim], in training if they are wanted: of the earlier layers, first to last but one;
        - "projected" [rows, any], in training if there is a projection to a teacher's dimension.
        """
        returns_layers = "layers" in self.wanted_outputs and self.training  # evaluations do not need them
        layers = self.tower(features, layers=returns_layers)
        layers = normalize(layers, dim=-1) if self.unit_length else layers
        output = {"embedding": layers[:, -1]}
        if returns_layers:
            output["layers"] = layers[:, :-1]
        if self.teacher_projection is not None and self.training:
            output["projected"] = self.teacher_projection(output["embedding"])
        return self.scaled(output, len(layers), layers.device)

    @property
    def text_towers(self) -> Sequence[TextTower]:
        return list(towers_of(self.tower).values())

    @property
    def pooled_by(self) -> str:
        return "+".join(self.text_towers[0].modes)

    def text_parts(self) -> Sequence[Part]:
        parts: list[Part] = []
        for role, tower in towers_of(self.tower).items():
            parts += tower.parts(role)
        if self.teacher_projection is not None:
            parts.append(Part("teacher projection", tuple(self.teacher_projection.parameters())))
        return parts

    def simplify_for_tracing(self) -> None:
        super().simplify_for_tracing()
        if isinstance(self.tower, SeparateTowers):
            self.tower = self.tower.query  # both towers are of equal size, and each row runs through one
            self.tokenizer = replace(self.tokenizer, marks_queries=False)

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_bi_encoder(self, folder, card=card, adapter_only=adapter_only)
