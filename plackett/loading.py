"""Load a model by its folder or hub id, as the kind that it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from models.loading.kind import Kind, kind_of
from plackett.arguments import check_count, checked_device, names_of_arguments
from plackett.embedder import Embedder
from plackett.reranker import Reranker

if TYPE_CHECKING:
    import torch


@overload
def load(
    name_or_path: str | Path,
    *,
    kind: Literal["reranker"],
    max_length: int | None = None,
    template: str | None = None,
    device: str | torch.device | None = None,
    special_tokens: bool = False,
    trust_remote_code: bool = False,
) -> Reranker: ...


@overload
def load(
    name_or_path: str | Path,
    *,
    kind: Literal["embedder"],
    max_length: int | None = None,
    template: str | None = None,
    device: str | torch.device | None = None,
    special_tokens: bool = False,
    trust_remote_code: bool = False,
) -> Embedder: ...


@overload
def load(
    name_or_path: str | Path,
    *,
    kind: None = None,
    max_length: int | None = None,
    template: str | None = None,
    device: str | torch.device | None = None,
    special_tokens: bool = False,
    trust_remote_code: bool = False,
) -> Reranker | Embedder: ...


def load(
    name_or_path: str | Path,
    *,
    kind: Kind | None = None,
    max_length: int | None = None,
    template: str | None = None,
    device: str | torch.device | None = None,
    special_tokens: bool = False,
    trust_remote_code: bool = False,
) -> Reranker | Embedder:
    """Load a reranker or an embedding model: an export of plackett, a folder of sentence-transformers or transformers,
    or a hub id.

    `kind`: "reranker" or "embedder"; None: what the folder is (`models.loading.kind`). `max_length`: tokens of a pair
    or text; None: as it was trained. `template`: the name of the prompt template of a language model whose folder has
    none (`models.prompts.template.TEMPLATES`); it makes a reranker. `device`: None: a GPU if there is one.
    `special_tokens`: read [SEP], <|im_end|> and the like in texts as control tokens, for models trained so elsewhere.
    `trust_remote_code`: run the Python files of the model's folder.

    Raises FileNotFoundError or ValueError, in one line, if the model is not found or an argument does not fit it.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"name_or_path must be a folder or a hub id, got {type(name_or_path).__name__}")
    check_count("max_length", max_length)
    if device is not None:
        checked_device(device)
    name = str(name_or_path)
    if kind not in (None, "reranker", "embedder"):
        raise ValueError(f"kind={kind!r}: choose None (as the folder says), 'reranker' or 'embedder'")
    if kind == "embedder" and template is not None:
        raise ValueError(f"template={template!r} is of a reranker: leave it or kind='embedder' out")
    with names_of_arguments():
        chosen = kind or ("reranker" if template is not None else kind_of(name, trust_remote_code=trust_remote_code))
        if chosen == "embedder":
            return Embedder.load(
                name,
                max_length=max_length,
                device=device,
                special_tokens=special_tokens,
                trust_remote_code=trust_remote_code,
            )
        return Reranker.load(
            name,
            max_length=max_length,
            template=template,
            device=device,
            special_tokens=special_tokens,
            trust_remote_code=trust_remote_code,
        )
