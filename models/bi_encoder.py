"""The bi-encoder: a transformer that reads one text and gives one embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel

from models.dropout import ask_dropout, check_dropout
from models.folder import ModelFolder, read_json
from models.loading import load_backbone, load_config, recompute_activations
from models.lora import LoRAConfig
from models.pooling import check_mode, pooling_modes
from models.resolve import DEFAULT_MODEL, resolve
from models.scale import Scale, ScaleOptions
from models.tokenization import TextTokenizer, load_tokenizer
from models.towers import Dense, Tower

SIMILARITIES = ("cosine", "dot")


@dataclass(frozen=True)
class BiEncoderConfig:
    """Which embedding model to start from, and how its texts are embedded and compared. `build` makes the model.

    None leaves an option to the model's folder; a plain transformers folder pools by the mean and compares by cosine,
    as sentence-transformers has it.
    """

    name_or_path: str = DEFAULT_MODEL  # folder or hub id
    max_length: int | None = None  # tokens per text
    pooling: str | None = None  # cls, mean, max, weightedmean, lasttoken, mean_sqrt_len_tokens
    similarity: str | None = None  # cosine (embeddings have unit length) or dot
    normalize: bool | None = None  # unit length; None: under cosine, and where the folder says so
    projection: int | None = None  # dimension of a linear layer after the pooling
    prompts: dict[str, str] | None = None  # by role (query, document): put before the text
    temperature: float | None = None  # losses read 1 / temperature times the similarity; None: they have their own
    learn_temperature: bool = False
    bias: float | None = None  # added to the scaled similarity (SigLIP)
    learn_bias: bool = False
    dropout: float | None = None  # probability of every dropout; None: as pretrained
    attention: str | None = None  # None: the best that the model has
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, about a third slower
    lora: LoRAConfig | None = None  # None: all weights are trained

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if self.pooling is not None:
            check_mode(self.pooling, "model.pooling=")
        if self.similarity not in (None, *SIMILARITIES):
            raise ValueError(f"model.similarity={self.similarity}: choose null, {', '.join(SIMILARITIES)}")
        if self.projection is not None and self.projection < 1:
            raise ValueError(f"model.projection={self.projection} must be null or a dimension of at least 1")
        self._scale_options()

    def build(self, seed: int) -> BiEncoder:
        """The model in float32 on the CPU, in training mode; a new projection and adapters are drawn from `seed`, so
        that they are equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, where the model cannot be had or embeds in another way.
        """
        folder = ModelFolder.read(resolve(self.name_or_path))
        if folder.kind == "CrossEncoder" or (folder.path / "adapter_config.json").exists():
            raise ValueError(f"model {folder.path} is a reranker or an adapter, not an embedding model")
        similarity = self._similarity(folder)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            tower, tokenizer, normalized = self._tower(folder)
        unit_length = similarity == "cosine" or (normalized if self.normalize is None else self.normalize)
        scale = self._scale_options().build(folder.path)
        model = BiEncoder(tower, tokenizer, scale, similarity, unit_length=unit_length, source=self.name_or_path)
        model.asked_dropout = max(self.dropout or 0.0, self.lora.dropout if self.lora else 0.0)
        return model.train()

    def _scale_options(self) -> ScaleOptions:
        return ScaleOptions(self.temperature, self.learn_temperature, self.bias, self.learn_bias)

    def _similarity(self, folder: ModelFolder) -> str:
        similarity = self.similarity or folder.settings.get("similarity_fn_name") or "cosine"
        if similarity not in SIMILARITIES:
            raise ValueError(f"model {folder.path} compares by {similarity}: set model.similarity=cosine or dot")
        if similarity == "cosine" and self.normalize is False:
            raise ValueError("model.normalize=false: cosine needs embeddings of unit length; set model.similarity=dot")
        return similarity

    def _tower(self, folder: ModelFolder) -> tuple[Tower, TextTokenizer, bool]:
        modes, normalized = _head(folder)
        config = load_config(folder)
        ask_dropout(config, self.dropout)
        backbone, _ = load_backbone(AutoModel, folder, config, self.attention)
        tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length)
        modes = [self.pooling] if self.pooling else modes
        dense = self._dense(backbone.config.hidden_size * len(modes))
        if pooler := getattr(backbone, "pooler", None):
            pooler.requires_grad_(False)  # its output is not used: no gradient to reduce, no weight decay
        wrapped = self.lora.wrap(backbone, [], "FEATURE_EXTRACTION") if self.lora else backbone
        if self.gradient_checkpointing:
            recompute_activations(wrapped)
        prompts = folder.prompts if self.prompts is None else self.prompts
        default = folder.settings.get("default_prompt_name")
        texts = TextTokenizer(tokenizer, max_length, prompts, default if default in prompts else None)
        return Tower(wrapped, modes, dense), texts, normalized

    def _dense(self, dim: int) -> list[Dense]:
        if self.projection is None:
            return []
        return [Dense(nn.Linear(dim, self.projection, bias=False), nn.Identity())]


class BiEncoder(nn.Module):
    """Embeddings of texts, whose dot products are their similarities: of unit length where `unit_length`."""

    def __init__(
        self,
        tower: Tower,
        tokenizer: TextTokenizer,
        scale: Scale | None,
        similarity: str,
        *,
        unit_length: bool,
        source: str,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.tokenizer = tokenizer
        self.scale = scale
        self.similarity = similarity  # "cosine" or "dot"
        self.unit_length = unit_length
        self.source = source  # the name or path that the weights came from
        self.asked_dropout = 0.0  # the highest probability that the user asked for, beside the pretrained one
        self.returns_layers = False  # set by who wants "layers"

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Representations of input_ids, attention_mask, ... [rows, tokens], in float32:

        - "embedding" [rows, dim];
        - "scale" [rows], where the model has a temperature: its inverse, the same in every row;
        - "bias" [rows], where it has one, likewise;
        - "layers" [rows, layers, dim], where `returns_layers`: embeddings of the earlier layers, first to last but one.
        """
        *layers, embedding = self.tower(features, layers=self.returns_layers)
        output = {"embedding": self._finish(embedding)}
        if self.returns_layers:
            output["layers"] = self._finish(torch.stack(layers, dim=1))
        return output if self.scale is None else output | self.scale(len(embedding), embedding.device)

    def _finish(self, embedding: Tensor) -> Tensor:
        return normalize(embedding, dim=-1) if self.unit_length else embedding


def _head(folder: ModelFolder) -> tuple[list[str], bool]:
    """Pooling modes and whether embeddings are normalised, from the modules after the transformer."""
    names = [name for name, _ in folder.modules]
    if not names:
        return ["mean"], False
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"model {folder.path} is {' > '.join(names)}; read are Transformer > Pooling (> Normalize)")
    config = read_json(folder.modules[1][1] / "config.json") or {}
    if folder.prompts and not config.get("include_prompt", True):
        raise ValueError(
            f"model {folder.path} leaves prompts out of the pooling (include_prompt: false): not supported"
        )
    return pooling_modes(config), len(names) == 3
