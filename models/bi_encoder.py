"""The bi-encoder: a transformer that reads one text and gives one embedding."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel, PreTrainedModel

from models.folder import ModelFolder, read_json
from models.loading import load_backbone, load_config
from models.pooling import pool, pooling_modes
from models.resolve import DEFAULT_MODEL, resolve
from models.tokenization import TextTokenizer, load_tokenizer


@dataclass(frozen=True)
class BiEncoderConfig:
    """Which embedding model to load. Pooling, normalisation and prompts are read from its folder."""

    name_or_path: str = DEFAULT_MODEL  # folder or hub id
    max_length: int | None = None  # tokens per text; None: as the folder says (256 for MiniLM)
    attention: str | None = None  # None: the best that the model has

    def build(self) -> BiEncoder:
        """The model in float32 on the CPU, in evaluation mode. Without modules.json: mean pooling, not normalised,
        as sentence-transformers has it.

        Raises FileNotFoundError or ValueError, in one line, where the model cannot be had or embeds in another way.
        """
        folder = ModelFolder.read(resolve(self.name_or_path))
        if folder.kind == "CrossEncoder" or (folder.path / "adapter_config.json").exists():
            raise ValueError(f"model {folder.path} is a reranker or an adapter, not an embedding model")
        modes, normalized = _head(folder)
        backbone, _ = load_backbone(AutoModel, folder, load_config(folder), self.attention)
        tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length)
        texts = TextTokenizer(tokenizer, max_length, folder.prompts, folder.settings.get("default_prompt_name"))
        return BiEncoder(backbone, texts, modes, normalized=normalized, source=self.name_or_path).eval()


class BiEncoder(nn.Module):
    """Embeddings of texts: pooled token embeddings of `backbone`, of unit length where `normalized`."""

    def __init__(
        self, backbone: PreTrainedModel, tokenizer: TextTokenizer, modes: list[str], *, normalized: bool, source: str
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.modes = modes
        self.normalized = normalized
        self.source = source  # the name or path that the weights came from

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """{"embedding": [rows, dim] float32} of input_ids, attention_mask (and token_type_ids) [rows, tokens]."""
        tokens = self.backbone(**features).last_hidden_state
        embedding = pool(tokens, features["attention_mask"], self.modes)
        return {"embedding": normalize(embedding, dim=-1) if self.normalized else embedding}


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
