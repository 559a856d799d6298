"""What a folder says of late interaction: those of sentence-transformers (MultiVectorEncoder), PyLate and ColBERT."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from models.loading.folder import ModelFolder, read_json
from models.towers import Dense

PUNCTUATION = tuple(string.punctuation)
SIMILARITIES = ("maxsim", "meanmaxsim")
COLBERT = "HF_ColBERT"  # the architecture in config.json of a checkpoint of Stanford's ColBERT
MARKERS = {"query": "[unused0] ", "document": "[unused1] "}  # ColBERT's, tokens that BERT's vocabulary has unused
PYLATE = ("query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens", "skiplist_words")


@dataclass(frozen=True)
class SavedHead:
    """The settings of a folder. None: it says nothing, and the options or their defaults decide."""

    is_new: bool = False  # of a model without late interaction: the projection is new
    dense: tuple[Path, ...] = ()  # folders of linear layers
    weights: Path | None = None  # the file that holds the layer linear.weight (ColBERT)
    skipped: tuple[str, ...] | None = None  # words whose tokens are not compared
    skipped_roles: tuple[str, ...] = ("document",)
    query_length: int | None = None
    document_length: int | None = None
    expansion: dict[str, Any] | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()  # prompts whose markers were put in as tokens
    similarity: str | None = None
    pooling: dict[str, Any] | None = None  # config.json of HierarchicalTokenPooling

    @classmethod
    def read(cls, folder: ModelFolder) -> SavedHead:
        """Read the head of `folder`. Raises ValueError, in one line, if it has modules that are not supported."""
        if (reader := _reader_of(folder)) is not None:
            return reader(folder)
        if folder.kind not in ("SentenceTransformer", ""):
            raise ValueError(f"model {folder.path} is a {folder.kind}, not a model of late interaction or embeddings")
        return cls(is_new=True)

    @staticmethod
    def gives_token_vectors(folder: ModelFolder) -> bool:
        """Whether the folder is one of late interaction."""
        return _reader_of(folder) is not None

    def load_dense(self) -> list[Dense]:
        """The linear layers from hidden states to token vectors. Raises ValueError if a layer is not supported."""
        if self.weights is None:
            return [Dense.load(path, reads="token_embeddings") for path in self.dense]
        with safe_open(self.weights, "pt") as weights:
            weight = weights.get_tensor("linear.weight").float()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data.copy_(weight)
        return [Dense(linear, nn.Identity())]


def _reader_of(folder: ModelFolder) -> Callable[[ModelFolder], SavedHead] | None:
    config = read_json(folder.path / "config.json") or {}
    if not folder.modules and COLBERT in (config.get("architectures") or []):
        return _of_colbert
    if folder.kind == "ColBERT" or (folder.kind == "SentenceTransformer" and set(PYLATE) & set(folder.settings)):
        return _of_pylate
    return _of_modules if folder.kind == "MultiVectorEncoder" else None


def _of_modules(folder: ModelFolder) -> SavedHead:
    names = [name for name, _ in folder.modules]
    paths = {name: path for name, path in folder.modules if name != "Dense"}
    pooled = names[-1] == "HierarchicalTokenPooling"
    head = names[1 : len(names) - pooled]
    dense = [name for name in head if name == "Dense"]
    if (
        names[0] != "Transformer"
        or head != [*dense, *head[len(dense) :]]
        or sorted(head[len(dense) :])
        != [
            "MultiVectorMask",
            "Normalize",
        ]
    ):
        raise ValueError(
            f"model {folder.path} is {' > '.join(names)}; supported: Transformer (> Dense ...) > MultiVectorMask > "
            "Normalize (> HierarchicalTokenPooling)"
        )
    mask = read_json(paths["MultiVectorMask"] / "config.json") or {}
    if mask.get("keep_only_token_ids"):
        raise ValueError(f"model {folder.path}: keep_only_token_ids (of images) is not supported")
    return SavedHead(
        dense=tuple(path for name, path in folder.modules if name == "Dense"),
        skipped=tuple(mask.get("skiplist_words") or ()),
        skipped_roles=tuple(mask.get("skiplist_tasks") or ("document",)),
        query_length=folder.transformer.get("query_length"),
        document_length=folder.transformer.get("document_length"),
        expansion=folder.transformer.get("query_expansion"),
        prompts=folder.prompts,
        similarity=_similarity(folder),
        pooling=_pooling(paths["HierarchicalTokenPooling"]) if pooled else None,
    )


def _similarity(folder: ModelFolder) -> str | None:
    """The name of the folder's similarity, which PyLate spells "MaxSim"."""
    name: str | None = folder.settings.get("similarity_fn_name")
    return name and name.lower()


def _pooling(folder: Path) -> dict[str, Any]:
    """The settings of token pooling; a folder that does not say so does not normalise."""
    return {"normalize_embeddings": False, **(read_json(folder / "config.json") or {})}


def _of_pylate(folder: ModelFolder) -> SavedHead:
    settings, names = folder.settings, [name for name, _ in folder.modules]
    if names[0] != "Transformer" or set(names[1:]) - {"Dense"}:
        raise ValueError(f"model {folder.path} is {' > '.join(names)}; supported of PyLate: Transformer > Dense")
    prompts = folder.prompts
    prefixes = {role: settings.get(f"{role}_prefix") or "" for role in ("query", "document")}
    for role, prefix in prefixes.items():
        prompts[role] = prefix + prompts.get(role, "").removeprefix(prefix)
    attend = settings.get("attend_to_expansion_tokens", settings.get("attend_to_mask_tokens"))
    expands = settings.get("do_query_expansion") is not False
    length = settings.get("query_length")
    words = settings.get("skiplist_words")
    return SavedHead(
        dense=tuple(path for _, path in folder.modules[1:]),
        skipped=PUNCTUATION if words is None else tuple(words),
        query_length=None if expands else length,
        document_length=settings.get("document_length"),
        expansion={"strategy": "fixed", "attend": bool(attend), "length": length or 32} if expands else None,
        prompts=prompts,
        prefixes=tuple(filter(None, prefixes.values())),
        # PyLate compares by MaxSim; its older versions say "cosine", of a token with a token.
        similarity=found if (found := _similarity(folder)) in SIMILARITIES else None,
    )


def _of_colbert(folder: ModelFolder) -> SavedHead:
    about = read_json(folder.path / "artifact.metadata") or {}
    prompts = {
        "query": f"{about.get('query_token_id') or MARKERS['query'].strip()} ",
        "document": f"{about.get('doc_token_id') or MARKERS['document'].strip()} ",
    }
    attend, length = bool(about.get("attend_to_mask_tokens")), about.get("query_maxlen") or 32
    return SavedHead(
        weights=folder.path / "model.safetensors",
        skipped=PUNCTUATION if about.get("mask_punctuation", True) else (),
        document_length=about.get("doc_maxlen"),
        expansion={"strategy": "fixed", "attend": attend, "length": length},
        prompts=prompts,
        prefixes=tuple(prompts.values()),
    )
