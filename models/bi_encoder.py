"""The bi-encoder: a transformer that reads one text and gives one embedding."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BitsAndBytesConfig

from models.capabilities import Layout, Part, RankingModel
from models.dropout import check_dropout, request_dropout
from models.export.bi_encoder import export_bi_encoder
from models.int8_ranges import Int8Ranges
from models.loading.adapter import SavedAdapter
from models.loading.backbone import embedding_class, load_backbone, load_config, recompute_activations
from models.loading.checks import check_attends_to_all, check_ignores_padding, is_classifier, probe_padding
from models.loading.embedding_modules import Head
from models.loading.folder import ModelFolder
from models.loading.layers import check_layers, keep_layers
from models.loading.quantization import check_quantization, quantization_config
from models.loading.resolve import DEFAULT_MODEL
from models.lora import LoRAConfig, parts_of
from models.packing.rows import request_packing
from models.pooling import check_mode
from models.pretrained import PretrainedOptions
from models.prompts.run_prompts import ROLES, RunPrompts, merge_prompts
from models.scale import Scale, ScaleOptions, saved_scale
from models.tokenization import TextTokenizer, load_tokenizer
from models.towers import Dense, SeparateTowers, Tower, towers_of

SIMILARITIES = ("cosine", "dot")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BiEncoderConfig(PretrainedOptions):
    """The options of an embedding model: its weights, and how texts are embedded and compared. `build` makes the model.

    If an option is None, the model's folder decides. A plain transformers folder gets mean pooling and cosine
    similarity, as in sentence-transformers.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding", "layers"})
    layout: ClassVar[Layout] = "texts"
    default_evaluation: ClassVar[str] = "retrieval"

    name_or_path: str = DEFAULT_MODEL  # folder or hub id
    max_length: int | None = None  # tokens per text; None: the folder's
    default_length: int | None = None  # tokens per text, at most, if neither max_length nor the folder says how many
    pooling: str | None = None  # cls, mean, max, weightedmean, lasttoken, mean_sqrt_len_tokens
    similarity: str | None = None  # cosine (embeddings have unit length) or dot
    normalize: bool | None = None  # unit length; None: under cosine, and if the folder says so
    projection: int | None = None  # dimension of a linear layer after the pooling
    prompts: dict[str, str] | None = None  # by role (query, document): put before the text
    temperature: float | None = None  # losses read 1 / temperature times the similarity; None: they have their own
    learn_temperature: bool = False
    bias: float | None = None  # added to the scaled similarity (SigLIP)
    learn_bias: bool = False
    dropout: float | None = None  # probability of every dropout; None: as pretrained
    attention: str | None = None  # None: the best that the model has
    packing: bool | None = None  # run the rows of a chunk as one, without padding; None: if it can
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, about a third slower
    lora: LoRAConfig | None = None  # None: all weights are trained
    quantization: str | None = None  # 4bit: of the frozen weights under LoRA (bitsandbytes, CUDA)
    split_special_tokens: bool | None = None  # read control tokens in texts as text; None: the folder's, else yes
    trust_remote_code: bool = False  # run the Python files of this model's folder
    separate_towers: bool = False  # a tower for queries and one for documents; a folder of two always has them
    num_layers: int | None = None  # layers that are kept of the folder's; None: all
    kept_layers: str = "even"  # even (from the first to the last) or first
    teacher_projection: int | None = None  # dimension of a teacher: a linear layer to it, for distillation alone

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_layers(self.num_layers, self.kept_layers)
        if self.pooling is not None:
            check_mode(self.pooling, "model.pooling=")
        if self.similarity not in (None, *SIMILARITIES):
            raise ValueError(f"model.similarity={self.similarity}: choose null, {', '.join(SIMILARITIES)}")
        if unknown := set(self.prompts or {}) - set(ROLES):
            raise ValueError(f"model.prompts.{min(unknown)} is not a role of a text: choose {', '.join(ROLES)}")
        for option in ("projection", "teacher_projection"):
            dimension = getattr(self, option)
            if dimension is not None and dimension < 1:
                raise ValueError(f"model.{option}={dimension} must be null or a dimension of at least 1")
        check_quantization(self.quantization, has_adapters=self.lora is not None)
        self._scale_options()

    def build(self, seed: int) -> BiEncoder:
        """The model in float32 on the CPU, in training mode; a new projection and adapters are drawn from `seed`, so
        that they are equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or is of an unsupported kind.
        """
        quantization = quantization_config(self.quantization)
        folder = self.read_folder()
        if folder.kind not in ("SentenceTransformer", ""):
            raise ValueError(f"model {folder.path} is a {folder.kind}, not an embedding model")
        similarity = self._similarity(folder)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            parts = [self._tower(route, quantization) for route in folder.routes().values()]
            projection = self._teacher_projection(parts[0][0].dimension)
        towers, tokenizers, heads = zip(*parts, strict=True)
        alike = {(t.fingerprint, t.include_prompt, h.normalized) for t, h in zip(tokenizers, heads, strict=True)}
        if len(alike) > 1:
            raise ValueError(f"model {folder.path}: its two towers differ in tokenizer, length or normalisation")
        tower: Tower | SeparateTowers = towers[0] if len(towers) == 1 else SeparateTowers(*towers)
        if self.separate_towers and isinstance(tower, Tower):
            tower = SeparateTowers.of(tower)
        if self.gradient_checkpointing:
            for one in towers_of(tower).values():
                recompute_activations(one.backbone)
        marks_queries = isinstance(tower, SeparateTowers)
        tokenizer = replace(tokenizers[0], marks_queries=marks_queries)
        tokenizer.check_prompts()
        normalized = heads[0].normalized if self.normalize is None else self.normalize
        model = BiEncoder(
            tower,
            tokenizer,
            self._scale_options().build(folder.path),
            similarity,
            unit_length=similarity == "cosine" or normalized,
            source=self.name_or_path,
            teacher_projection=projection,
        )
        model.requested_dropout = self.requested_dropout
        model.int8_ranges = self._int8_ranges(folder, heads[0], model.dimension)
        backbones = [one.backbone for one in towers_of(tower).values()]
        model.packings = request_packing(self.packing, backbones, self.name_or_path)
        return model.train()

    def starting_from(self, folder: Path) -> BiEncoderConfig:
        learned = [name for name in ("temperature", "bias") if getattr(self, f"learn_{name}")]
        saved: dict[str, Any] = dict.fromkeys([*learned, "prompts"])  # None: as saved in the folder
        return replace(super().starting_from(folder), **saved)

    def saved_scale(self) -> Mapping[str, float]:
        return saved_scale(self.folder())

    def scale_options(self) -> Mapping[str, Mapping[str, Any]]:
        return self._scale_options().set_options()

    def parts_to_train(self) -> Mapping[str, str]:
        asked = {name: f"model.learn_{name}=true" for name in ("temperature", "bias") if getattr(self, f"learn_{name}")}
        if self.projection is not None:
            asked["projection"] = f"model.projection={self.projection}"
        if self.teacher_projection is not None:
            asked["teacher projection"] = f"model.teacher_projection={self.teacher_projection}"
        return {**super().parts_to_train(), **asked}

    def prompt_options(self) -> Mapping[str, str]:
        return {f"prompts.{role}": prompt for role, prompt in (self.prompts or {}).items()}

    def lost_prompts(self, prompts: RunPrompts) -> list[str]:
        return prompts.without_name()

    def check_machine(self) -> None:
        quantization_config(self.quantization)

    def check_adapter_only(self) -> None:
        if self.lora is not None and self.separate_towers:
            raise ValueError("adapter_only=true: sentence-transformers loads no adapters of two towers: merge them")
        super().check_adapter_only()

    def _int8_ranges(self, folder: ModelFolder, head: Head, dimension: int | None) -> Int8Ranges | None:
        """The folder's ranges, unless an option gives other embeddings than those that they were observed for."""
        ranges = Int8Ranges.read(folder.path, dimension)
        saved = folder.settings.get("similarity_fn_name") or "cosine"
        changed = {
            "num_layers": self.num_layers is not None,
            "projection": self.projection is not None and not head.dense,
            "pooling": self.pooling is not None and [self.pooling] != list(head.modes),
            "similarity": self.similarity is not None and self.similarity != saved,
            "normalize": self.normalize is not None and self.normalize != head.normalized,
        }
        name = next((name for name, is_changed in changed.items() if is_changed), None)
        if ranges is None or name is None:
            return ranges
        logger.warning(
            "model.%s=%s gives other embeddings than those of %s: its int8 ranges are not used",
            name,
            getattr(self, name),
            folder.path,
        )
        return None

    def _teacher_projection(self, dimension: int) -> Dense | None:
        if self.teacher_projection is None:
            return None
        return Dense(nn.Linear(dimension, self.teacher_projection, bias=False), nn.Identity())

    def _scale_options(self) -> ScaleOptions:
        return ScaleOptions(self.temperature, self.learn_temperature, self.bias, self.learn_bias)

    def _similarity(self, folder: ModelFolder) -> str:
        similarity = self.similarity or folder.settings.get("similarity_fn_name") or "cosine"
        if similarity not in SIMILARITIES:
            raise ValueError(f"model {folder.path} compares by {similarity}: set model.similarity=cosine or dot")
        if similarity == "cosine" and self.normalize is False:
            raise ValueError("model.normalize=false: cosine needs embeddings of unit length; set model.similarity=dot")
        return similarity

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
        dense = self._dense(head, config.hidden_size * len(modes))
        source = self.name_or_path if folder.backbone == folder.path else str(folder.backbone.absolute())
        prompts = folder.prompts if self.prompts is None else self.prompts
        default = folder.settings.get("default_prompt_name")
        texts = TextTokenizer(tokenizer, max_length, prompts, default if default in prompts else None)
        split = self.splits_special_tokens(folder)
        texts = replace(texts, include_prompt=head.include_prompt, split_special_tokens=split)
        tower = Tower(wrapped, modes, dense, source=source)
        embed, row = partial(tower, layers=False), tokenizer("what is it")
        probe_padding(folder, wrapped, embed, row, padding=texts.padding, max_length=max_length)
        return tower, texts, head

    def _dense(self, head: Head, dim: int) -> list[Dense]:
        """Load the folder's linear layers. With `projection` the last must have that size; a new one is made if there
        is none."""
        layers = [Dense.load(path) for path in head.dense]
        sizes = [(layer.linear.in_features, layer.linear.out_features) for layer in layers]
        if layers and sizes[0][0] != dim:
            raise ValueError(
                f"model.pooling={self.pooling} gives {dim} values, and {head.dense[0]} reads {sizes[0][0]}"
            )
        if self.projection is None or (sizes and sizes[-1][1] == self.projection):
            return layers
        if layers:
            raise ValueError(
                f"model.projection={self.projection}: {head.dense[-1]} projects to {sizes[-1][1]}: give that, or null"
            )
        return [Dense(nn.Linear(dim, self.projection, bias=False), nn.Identity())]


class BiEncoder(RankingModel):
    """Embeds texts. The similarity of two texts is the dot product of their embeddings, which have unit length if
    `unit_length`."""

    outputs = BiEncoderConfig.outputs
    tokenizer: TextTokenizer

    def __init__(
        self,
        tower: Tower | SeparateTowers,
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
        self.dimension = next(iter(towers_of(tower).values())).dimension

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
        return output if self.scale is None else output | self.scale(len(layers), layers.device)

    def parts(self) -> Sequence[Part]:
        parts: list[Part] = []
        for role, tower in towers_of(self.tower).items():
            parts += parts_of(tower.backbone, tower=role)
            parts.append(Part("projection", tuple(tower.dense.parameters()), role))
        if self.teacher_projection is not None:
            parts.append(Part("teacher projection", tuple(self.teacher_projection.parameters())))
        if self.scale is not None:
            learned = {"temperature": self.scale.log_scale, "bias": self.scale.bias}
            parts += [Part(name, () if value is None else (value,)) for name, value in learned.items()]
        return [part for part in parts if part.parameters]

    def expect_prompts(self, prompts: Iterable[str | None]) -> None:
        self.tokenizer = self.tokenizer.expecting(prompts)

    def adopt_prompts(self, prompts: RunPrompts) -> None:
        pairs, tokenizer = (("query", prompts.query), ("document", prompts.document)), self.tokenizer
        roles = {role: text for role, text in pairs if text is not None}
        named = {name: text for role, _ in pairs for name, text in prompts.texts(role, tokenizer.prompt(role)).items()}
        self.tokenizer = replace(tokenizer, prompts=merge_prompts(tokenizer.prompts, named, roles))

    def simplify_for_tracing(self) -> None:
        super().simplify_for_tracing()
        if isinstance(self.tower, SeparateTowers):
            self.tower = self.tower.query  # both towers are of equal size, and each row runs through one
            self.tokenizer = replace(self.tokenizer, marks_queries=False)

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_bi_encoder(self, folder, card=card, adapter_only=adapter_only)
