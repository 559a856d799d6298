"""Decoders as embedding models: last token, end token, instruction, padding on either side."""

from __future__ import annotations

import pytest
import torch
from bi_encoders import TEXTS, assert_equal_to_oracle, embed, features

from models.bi_encoder import BiEncoderConfig
from models.lora import LoRAConfig


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, tiny_models):
    return tiny_models.write_tiny_decoder(tmp_path_factory.mktemp("decoder"))


def test_the_folder_is_read_as_sentence_transformers_reads_it(decoder):
    model = BiEncoderConfig(str(decoder), max_length=128).build(seed=0).eval()
    assert (model.tower.modes, model.tokenizer.prompt("document")) == (["lasttoken"], "")
    assert_equal_to_oracle(model, decoder)
    assert (embed(model, role="query") - embed(model, role="document")).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_either_side_changes_nothing(decoder, attention):
    model = BiEncoderConfig(str(decoder), attention=attention, max_length=40).build(seed=0).eval()
    torch.testing.assert_close(embed(model, side="left"), embed(model, side="right"), atol=1e-5, rtol=0)


def test_the_end_token_is_appended_and_survives_truncation(decoder):
    tokenizer = BiEncoderConfig(str(decoder), max_length=16).build(seed=0).tokenizer
    rows = tokenizer(TEXTS, "query")["input_ids"]
    assert {row[-1] for row in rows} == {tokenizer.tokenizer.eos_token_id}
    assert max(len(row) for row in rows) == 16


def test_it_trains_by_lora(decoder):
    model = BiEncoderConfig(
        str(decoder), pooling="lasttoken", lora=LoRAConfig(r=4), gradient_checkpointing=True, temperature=0.05
    ).build(seed=0)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    targets = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    optimizer = torch.optim.SGD(trained.values(), lr=0.02)
    losses = []
    for _ in range(8):
        output = model(**features(model, TEXTS))
        similarities = output["scale"][0] * output["embedding"] @ output["embedding"].T
        losses.append(similarities.log_softmax(1)[0, 1].neg())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1


def test_a_plain_decoder_needs_only_its_pooling(tmp_path, tiny_models):
    folder = tiny_models.write_tiny_decoder(tmp_path / "plain", embedder=False)
    model = BiEncoderConfig(str(folder), pooling="lasttoken", prompts={"query": "rank "}).build(seed=0).eval()
    assert model.tower.modes == ["lasttoken"]
    assert model.tokenizer(["x"], "query") == model.tokenizer(["rank x"])
    assert embed(model).norm(dim=1).tolist() == pytest.approx([1.0] * 4)
