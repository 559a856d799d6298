"""What the host knows of padding gives the outputs that transformers finds by reading the mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, ModernBertConfig, ModernBertModel, masking_utils

from models.padding_masks import CAN_LEAVE_OUT, padding_is_known

TOKENS = 9


def features(padded: bool) -> dict[str, Tensor]:
    ids = torch.arange(5, 5 + 3 * TOKENS).view(3, TOKENS)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def models(tiny_bert_dir: Path, tiny_causal_dir: Path) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    windows = ModernBertConfig(**sizes, vocab_size=120, local_attention=4, pad_token_id=0)
    torch.manual_seed(0)
    return {
        "bidirectional": AutoModel.from_pretrained(tiny_bert_dir).eval(),
        "causal": AutoModel.from_pretrained(tiny_causal_dir).eval(),
        "windows": ModernBertModel(windows).eval(),
    }


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["bidirectional", "causal", "windows"])
def test_outputs_are_equal_and_the_mask_is_not_read(
    kind: str, padded: bool, models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = features(padded)
    with torch.no_grad():
        expected = models[kind](**inputs).last_hidden_state
        monkeypatch.setattr(Tensor, "all", lambda *_: pytest.fail("the mask is read"))
        with padding_is_known(padded):
            found = models[kind](**inputs).last_hidden_state
    assert found.equal(expected)


def test_the_functions_exist_and_are_put_back() -> None:
    """In another release of transformers this test says that the host waits again."""
    before: list[Callable[..., Any]] = [getattr(masking_utils, name) for name in CAN_LEAVE_OUT]
    with padding_is_known(True):
        assert [getattr(masking_utils, name) for name in CAN_LEAVE_OUT] != before
    assert [getattr(masking_utils, name) for name in CAN_LEAVE_OUT] == before
