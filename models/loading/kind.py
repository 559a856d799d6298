"""Recognise from a folder which kind of model it holds."""

from __future__ import annotations

import logging
from typing import Any, Literal

from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions
from models.cross_encoder import CrossEncoderConfig
from models.late_interaction.options import LateInteractionConfig
from models.late_interaction.saved import SavedHead
from models.llm_reranker import LLMRerankerConfig
from models.loading.adapter import CONFIG, base_folder
from models.loading.backbone import load_config
from models.loading.checks import is_classifier, is_language_model
from models.loading.folder import ModelFolder, read_json
from models.loading.resolve import resolve
from models.prompts.template import PUBLISHED
from models.prompts.template_folder import has_template
from models.sparse.sparse_encoder import SparseEncoderConfig
from models.static.embedder import StaticEmbedderConfig

logger = logging.getLogger(__name__)

Kind = Literal["reranker", "embedder"]
Declared = Literal[
    "llm_reranker",
    "cross_encoder",
    "bi_encoder",
    "late_interaction",
    "sparse_encoder",
    "static_embedder",
    "language_model",
    "encoder",
]
EMBEDDERS: dict[str, Any] = {
    "bi_encoder": BiEncoderConfig,
    "late_interaction": LateInteractionConfig,
    "sparse_encoder": SparseEncoderConfig,
    "static_embedder": StaticEmbedderConfig,
}
OF_FOLDER: dict[str, Declared] = {"CrossEncoder": "cross_encoder", "SparseEncoder": "sparse_encoder"}
OF_TASK: dict[str, Declared] = {"FEATURE_EXTRACTION": "bi_encoder", "SEQ_CLS": "cross_encoder"}  # of an adapter


def declared_kind(name_or_path: str, *, trust_remote_code: bool = False) -> Declared:
    """What the folder of a model, or a hub id, declares it to be: an LLM reranker has a prompt template, a
    cross-encoder the head of a classifier, an embedding model the modules of one. A plain language model or encoder
    declares nothing.

    Raises FileNotFoundError or ValueError, in one line, if the folder is not found or not a model.
    """
    folder = ModelFolder.read(resolve(name_or_path, code=trust_remote_code), trusted=trust_remote_code)
    if name_or_path in PUBLISHED or has_template(folder):
        return "llm_reranker"
    if folder.is_static:
        return "static_embedder"
    if folder.kind != "CrossEncoder" and SavedHead.gives_token_vectors(folder):
        return "late_interaction"
    if folder.kind:
        return OF_FOLDER.get(folder.kind, "bi_encoder")
    adapter = read_json(folder.backbone / CONFIG) or {}
    if (task := adapter.get("task_type")) in OF_TASK:
        return OF_TASK[task]
    config = load_config(base_folder(folder) or folder, embeds=True)
    if is_classifier(config):
        return "cross_encoder"
    return "language_model" if is_language_model(config) else "encoder"


def kind_of(name_or_path: str, *, trust_remote_code: bool = False) -> Kind:
    """Whether a model is a reranker or an embedder. A plain language model counts as a reranker: loading it asks for
    the template. A plain encoder is read as an embedder with mean pooling, which a warning says. Raises as
    `declared_kind`."""
    declared = declared_kind(name_or_path, trust_remote_code=trust_remote_code)
    _warn_of_plain_encoder(declared, name_or_path)
    return "embedder" if declared in (*EMBEDDERS, "encoder") else "reranker"


def embedder_class(name_or_path: str, *, trust_remote_code: bool = False) -> Any:
    """The class of the options of the embedding model that a folder or hub id declares; of a folder that declares none
    that of a transformer with mean pooling, which refuses rerankers. Raises as `declared_kind`."""
    return EMBEDDERS.get(declared_kind(name_or_path, trust_remote_code=trust_remote_code), BiEncoderConfig)


def _warn_of_plain_encoder(declared: Declared, name_or_path: str) -> None:
    if declared == "encoder":
        logger.warning(
            "model %s does not say how it embeds texts: mean pooling and cosine similarity are taken", name_or_path
        )


def options_for(name_or_path: str, choose: str = "model") -> ModelOptions:
    """The options of a model of the kind that its folder declares; a plain encoder is an embedding model, as in
    `kind_of`.

    `choose` is the setting by which a kind is said, for messages. Raises ValueError, in one line, for a plain language
    model, which may be used as any kind; else as `declared_kind`.
    """
    declared = declared_kind(name_or_path)
    if declared == "language_model":
        raise ValueError(
            f"model {name_or_path} is a plain language model, whose folder does not say how it ranks: say it, "
            f"{choose}=bi_encoder or {choose}=llm_reranker"
        )
    _warn_of_plain_encoder(declared, name_or_path)
    if declared == "llm_reranker":
        return LLMRerankerConfig(name_or_path)
    if declared == "cross_encoder":
        return CrossEncoderConfig(name_or_path)
    return EMBEDDERS.get(declared, BiEncoderConfig)(name_or_path)
