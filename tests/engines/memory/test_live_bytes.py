"""The memory measured on fake tensors equals that of the same model on real tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.memory.live_bytes import FakeTensorModel, LiveBytes
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.loading.backbone import without_weights
from models.lora import LoRAConfig

FLOAT = 4


class Layers(nn.Module):
    """Three linear layers of 8 x 8 without bias, a sigmoid after each, whose output is all that is held."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        value = x.float()[..., None].expand(*x.shape, 8)
        for layer in self.layers:
            value = layer(value).sigmoid()
        return {"score": value.sum((1, 2))}


def test_bytes_by_hand() -> None:
    model = Layers()
    found = FakeTensorModel(model, autocast=None).chunk({"x": 0}, rows=2, tokens=16)
    ids, row, output = 2 * 16 * 8, 2 * 16 * 8 * FLOAT, 2 * FLOAT
    # Held: x as ids and as floats, the first layer's input (expanded again by matmul), three sigmoids, the score.
    held_at_least = 3 * row + output
    assert held_at_least <= found.held <= held_at_least + ids + 2 * row
    assert found.forward == pytest.approx(found.held + row, abs=row)  # a layer's output in addition to its sigmoid
    gradients = 3 * 8 * 8 * FLOAT
    assert found.backward <= found.first_backward <= found.backward + gradients
    assert row < found.no_graph < found.forward


def measured(model: nn.Module, features: dict[str, int], rows: int, tokens: int) -> tuple[float, float, float]:
    """held, forward and first_backward of real tensors."""
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        inputs = {name: torch.full((rows, tokens), value) for name, value in features.items()}
        inputs["attention_mask"][0, -1] = 0  # a chunk without padding would need no attention mask
        output = model(**inputs)
        del inputs
        held, forward = live.current, live.peak
        surrogate = sum((value * torch.ones_like(value)).sum() for value in output.values())
        live.start()
        surrogate.backward()
    return held, forward, live.peak


BERT = {"input_ids": 5, "token_type_ids": 0, "attention_mask": 1}
CASES = {
    "cross-encoder": (CrossEncoderConfig, {}),
    "without dropout": (CrossEncoderConfig, {"dropout": 0.0}),
    "eager attention": (CrossEncoderConfig, {"attention": "eager"}),
    "checkpointing": (CrossEncoderConfig, {"gradient_checkpointing": True}),
    "lora": (CrossEncoderConfig, {"lora": LoRAConfig(r=4)}),
    "bi-encoder": (BiEncoderConfig, {"pooling": "weightedmean"}),
    "learned temperature": (BiEncoderConfig, {"temperature": 0.05, "learn_temperature": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_without_weights_it_is_what_real_tensors_take(case: str, tiny_bert_dir) -> None:
    kind, options = CASES[case]
    config = kind(str(tiny_bert_dir), max_length=48, packing=False, **options)
    held, forward, backward = measured(config.build(seed=0), BERT, 3, 40)
    with without_weights():
        empty = config.build(seed=0)
    assert empty.get_parameter(next(name for name, _ in empty.named_parameters())).is_meta
    found = FakeTensorModel(empty, autocast=None).chunk(BERT, 3, 40)
    assert found.held == pytest.approx(held, rel=0.01)
    assert found.forward == pytest.approx(forward, rel=0.01)
    assert found.first_backward == pytest.approx(backward, rel=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_packed_rows_take_about_as_much_as_padded_ones_of_as_many_tokens(dropout: float, tiny_bert_dir) -> None:
    held, forward, backward = measured(
        CrossEncoderConfig(str(tiny_bert_dir), max_length=48, dropout=dropout).build(seed=0), BERT, 6, 40
    )
    with without_weights():
        empty = CrossEncoderConfig(str(tiny_bert_dir), max_length=48, dropout=dropout).build(seed=0)
    found = FakeTensorModel(empty, autocast=None).chunk(BERT, 6, 40)
    assert found.held == pytest.approx(held, rel=0.1)
    assert found.forward == pytest.approx(forward, rel=0.1)
    assert found.first_backward == pytest.approx(backward, rel=0.1)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_holds_about_half(half, tiny_bert_dir) -> None:
    def held(autocast: torch.dtype | None) -> float:
        with without_weights():
            model = CrossEncoderConfig(str(tiny_bert_dir), max_length=48, dropout=0.0).build(seed=0)
        return FakeTensorModel(model, autocast=autocast).chunk(BERT, 16, 48).held

    assert 0.4 < held(half) / held(None) < 0.8


def test_a_decoder_and_its_evaluation(tiny_models, tmp_path) -> None:
    folder = tiny_models.write_tiny_decoder(tmp_path / "decoder")
    with without_weights():
        model = BiEncoderConfig(str(folder), max_length=48).build(seed=0)
    empty = FakeTensorModel(model, autocast=None)
    features = {"input_ids": 5, "attention_mask": 1}
    small, large = empty.evaluation(features, 2, 16), empty.evaluation(features, 4, 16)
    assert 0 < small < large <= 2 * small
