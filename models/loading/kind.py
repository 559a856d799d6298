"""Tell from its folder which kind of model a name or path is."""

from __future__ import annotations

from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.loading.adapter import base_folder
from models.loading.backbone import load_config
from models.loading.checks import is_language_model
from models.loading.folder import ModelFolder
from models.loading.resolve import resolve
from models.prompts.template import PUBLISHED
from models.prompts.template_folder import has_template


def options_for(name_or_path: str, choose: str = "model") -> ModelOptions:
    """The options of a model by what its folder declares: an LLM reranker has a prompt template, a cross-encoder the
    head of a classifier, and an embedding model the modules of one, or neither head nor modules.

    `choose` is the setting by which a kind is said, for messages. Raises FileNotFoundError or ValueError, in one line,
    if there is no such model, or if its folder is that of a plain language model, which may be used as any kind.
    """
    folder = ModelFolder.read(resolve(name_or_path))
    if name_or_path in PUBLISHED or has_template(folder):
        return LLMRerankerConfig(name_or_path)
    if folder.kind == "CrossEncoder":
        return CrossEncoderConfig(name_or_path)
    if folder.kind:  # what an embedding model cannot be is refused when it is checked
        return BiEncoderConfig(name_or_path)
    config = load_config(base_folder(folder) or folder, embeds=True)
    names = config.architectures or []
    if any(name.endswith("ForSequenceClassification") for name in names):
        return CrossEncoderConfig(name_or_path)
    if is_language_model(config):
        raise ValueError(
            f"model {name_or_path} is a plain language model, whose folder does not say how it ranks: say it, "
            f"{choose}=bi_encoder or {choose}=llm_reranker"
        )
    return BiEncoderConfig(name_or_path)
