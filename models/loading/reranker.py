"""Load a trained reranker of any kind, as its folder declares."""

from __future__ import annotations

from models.cross_encoder import CrossEncoder
from models.llm_reranker import LLMReranker
from models.loading.folder import ModelFolder
from models.loading.resolve import resolve
from models.prompts.template import PUBLISHED
from models.prompts.template_folder import has_template


def load_reranker(
    name_or_path: str,
    max_length: int | None = None,
    template: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> CrossEncoder | LLMReranker:
    """Load the reranker of a folder or hub id in evaluation mode: an LLM reranker if there is a prompt template, else a
    cross-encoder. `template`: the name of the template of a language model whose folder has none."""
    is_prompted = template is not None or name_or_path in PUBLISHED
    if is_prompted or has_template(ModelFolder.read(resolve(name_or_path, code=trust_remote_code))):
        return LLMReranker.load(name_or_path, max_length, template, trust_remote_code=trust_remote_code)
    return CrossEncoder.load(name_or_path, max_length, trust_remote_code=trust_remote_code)
