"""Check what callers give, so that an error names the argument."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensors.ragged import Ragged

# Messages about models name settings and flags; these are the arguments of `load` in their places.
ARGUMENTS = {
    "set trust_remote_code=true (model.trust_remote_code, or the teacher's or guide's)": "give trust_remote_code=True",
    "model=llm_reranker model.template=NAME (launch/rerank.py: --template NAME)": "template=NAME",
    "set model.template to": "give template=",
    " or your own (launch/rerank.py: --template NAME)": "",
    ", or give one with _target_: models.prompts.template.PromptTemplate": "",
    "choose null (as the folder says)": "choose None (as the folder says)",
    " (null: the one that the folder was trained with)": "",
    "choose model=bi_encoder": "give kind='embedder'",
    "choose model=static_embedder": "give kind='embedder'",
    "choose model=cross_encoder": "give kind='reranker'",
    "model.template": "template",
    "model.max_length": "max_length",
}


@contextmanager
def names_of_arguments() -> Iterator[None]:
    """Give errors about models the names of Python's arguments."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        line = str(error)
        for setting, argument in ARGUMENTS.items():
            line = line.replace(setting, argument)
        if line == str(error):
            raise
        raise type(error)(line) from error


def checked_text(name: str, text: Any) -> str:
    """Return the text. Raises ValueError if it is none, or holds a lone surrogate, which no tokenizer reads."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: no text, it has a lone surrogate at character {error.start + 1}") from None
    return text


def checked_texts(name: str, texts: Iterable[Any]) -> list[str]:
    """Return the texts as a list. Raises ValueError, naming the text, if one is none, or if they are no list of texts:
    one text, or a dict or set, whose keys or order are not what is meant."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name} is one text: give a list of texts")
    return [checked_text(f"{name}[{index}]", text) for index, text in enumerate(_ordered(name, texts))]


def checked_pairs(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the (query, document) pairs. Raises ValueError, naming the pair, if one is none."""
    found = []
    for index, pair in enumerate(_ordered("pairs", pairs)):
        if isinstance(pair, str | bytes | Mapping | Set) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise ValueError(f"pairs[{index}] must be a query and a document, got {type(pair).__name__}")
        query, document = (checked_text(f"pairs[{index}][{side}]", text) for side, text in enumerate(pair))
        found.append((query, document))
    return found


def _ordered(name: str, values: Any) -> Iterable[Any]:
    if isinstance(values, Mapping | Set) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, got {type(values).__name__}")
    return values


def check_count(name: str, count: int | None) -> None:
    """Raise ValueError if a count is neither None nor a whole number of at least 1."""
    if count is None:
        return
    try:
        number = operator.index(count)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {count!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")


def checked_embeddings(name: str, vectors: Any) -> Tensor:
    """Return embeddings [any, dim] as float32 on the CPU, from an array, a tensor or nested lists of real numbers.
    Raises ValueError if they are none."""
    if isinstance(vectors, Tensor):
        values = vectors.detach().cpu()
    else:
        try:
            array = np.asarray(vectors)
            values = torch.from_numpy(array.astype(np.float64, casting="safe"))
        except (ValueError, TypeError, RuntimeError):
            raise ValueError(f"{name} must be embeddings [{name}, dim], got {type(vectors).__name__}") from None
    if values.ndim != 2 or values.is_complex():
        raise ValueError(f"{name} must be embeddings [{name}, dim], got the shape {list(values.shape)}")
    return values.float()


def checked_rows(name: str, vectors: Any, dim: int) -> Ragged:
    """Return the token vectors of texts, [tokens, dim] each, as float32 on the CPU, from a list of arrays or tensors;
    `dim`: of no texts. Raises ValueError if they are none."""
    if isinstance(vectors, str | bytes | Mapping | Set) or not isinstance(vectors, Iterable):
        raise ValueError(f"{name} must be a list of token vectors [tokens, dim], got {type(vectors).__name__}")
    rows = [checked_embeddings(f"{name}[{index}]", own) for index, own in enumerate(vectors)]
    if len(sizes := {own.shape[1] for own in rows}) > 1:
        raise ValueError(f"{name} have {' and '.join(map(str, sorted(sizes)))} dimensions: cut them alike")
    return Ragged(torch.cat(rows or [torch.zeros(0, dim)]), torch.tensor([len(own) for own in rows], dtype=torch.int64))


def checked_device(device: str | torch.device) -> torch.device:
    """Return the device. Raises ValueError if there is none of this name, or if this machine has none."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"device={device!r} cannot be used ({first}): leave it out, or give 'cpu'") from None
    return found
