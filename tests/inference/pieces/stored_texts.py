"""Shared checks of files with vectors of texts: a kill goes on, and what is not theirs is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inference.runner import ModuleRunner
from inference.vector_files import workspace_of


class Tokenizer:
    """One token per character, after one of the text."""

    padding = {"input_ids": 0}  # noqa: RUF012

    def __call__(self, texts, role="", prompt=""):
        return {"input_ids": [[1, *map(ord, prompt + text)] for text in texts]}


def encode_by(write: Callable[..., Any], model: nn.Module, texts, folder: Path, *, key: str, **options) -> Any:
    """Encode in blocks of 3 rows; `key`: the weights' name."""
    runner = ModuleRunner(model, torch.device("cpu"))
    settings = {"role": "document", "token_budget": 24, "key": {"weights": key}, "block_rows": 3}
    return write(runner, Tokenizer(), texts, folder, **settings | options)


def check_blocks_are_kept(
    encode: Callable[..., Any], make_model: Callable[..., Any], wrong: int, total: int, folder: Path
) -> None:
    """Blocks that are done are kept, unless they are of another model. A vector of `wrong` size, that of d4 in the
    second block, is not finite; there are `total` texts."""
    with pytest.raises(ValueError, match="the vector of 'd4' is not finite"):
        encode(folder / "out", make_model(wrong), token_budget=1)
    assert (workspace_of(folder / "out") / "00000000.npz").is_file()
    same, other = make_model(), make_model()
    encode(folder / "out", same)
    assert same.rows == total - 3
    with pytest.raises(ValueError, match="not finite"):
        encode(folder / "other", make_model(wrong))
    encode(folder / "other", other, key="another")
    assert other.rows == total


def check_other_folders_are_left_alone(encode: Callable[..., Any], kind: str, folder: Path) -> None:
    """A folder with vectors of another model or of none is refused, and so is a data set without texts."""
    encode(folder / "out")
    with pytest.raises(ValueError, match=r"has vectors of another model .*choose another folder, or remove it"):
        encode(folder / "out", key="n")
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=f"holds no {kind} vectors: it is left alone"):
        encode(folder / "mine")
    with pytest.raises(ValueError, match="there are no texts"):
        encode(folder / "none", texts={})
