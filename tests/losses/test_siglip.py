"""SigLIP against transformers' SigLIP and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from loss_samples import PROJECTED

from losses.math import in_batch, tiles
from losses.siglip import SigLIP


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_transformers(monkeypatch):
    """The loss of SiglipModel, whose towers are stubs here."""
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 4, "projection_size": 8},
        vision_config={**tower, "image_size": 8, "patch_size": 8},
    )
    model = SiglipModel(config)
    queries, documents = unit(6, 8).float(), unit(6, 8, seed=1).float()
    outputs = {"text_model": documents, "vision_model": queries}
    for name, value in outputs.items():
        output = type("Output", (), {"pooler_output": value})()
        monkeypatch.setattr(getattr(model, name), "forward", lambda *args, output=output, **kwargs: output)
    model.logit_scale.data.fill_(math.log(10))
    model.logit_bias.data.fill_(-10)
    theirs = model(input_ids=torch.zeros(6, 1).long(), pixel_values=torch.zeros(6, 3, 8, 8), return_loss=True).loss
    ones = torch.ones(6, 1)
    ours = SigLIP(mask_duplicates=False)(queries, documents.unsqueeze(1), ones, ones > 0)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("never", [[], [(0, (1, 0)), (3, (0, 2)), (0, (0, 2)), (2, (1, 1))]])
@pytest.mark.parametrize("which", in_batch.IN_BATCH)
def test_definition_and_derivative(which, never, monkeypatch):
    queries, documents = unit(4, 5), unit(4, 3, 5, seed=1)
    labels = torch.tensor([[1, 2, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    mask = torch.arange(3) < torch.tensor([[3], [2], [2], [1]])
    keys = torch.arange(12).reshape(4, 3)
    keys[2, 0] = keys[0, 0]  # a copy of the first query's positive
    query_hashes = torch.tensor([1, 2, 3, 2])  # two equal queries
    weights = torch.tensor([1.0, 3.0, 7.0, 0.5]).double()
    known = {(i, int(keys[i, j])) for i in range(4) for j in range(3) if mask[i, j] and labels[i, j] > 0}
    known |= {(1, int(keys[3, 0])), (3, int(keys[1, 1]))}
    pairs = [(i, int(keys[cell])) for i, cell in never]  # never negatives
    known |= {(j, key) for i, key in pairs for j in range(4) if query_hashes[i] == query_hashes[j]}
    total = 0.0
    for i in (0, 1, 3):
        for j, k in mask.nonzero().tolist():
            positive = j == i and labels[j, k] > 0
            skip = (i, int(keys[j, k])) in known and not positive
            skip |= j != i and (which == "none" or (which == "positives" and labels[j, k] <= 0))
            logit = float(queries[i] @ documents[j, k]) * 5 - 2
            total += 0 if skip else float(weights[i]) * math.log1p(math.exp(-logit if positive else logit))
    loss, options = SigLIP(temperature=None, bias=None, in_batch=which), {"weights": weights}
    inputs = {"query_hashes": query_hashes, "document_hashes": keys}
    inputs["never_negatives"] = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    parameters = torch.tensor([5.0, -2.0]).double().unbind()

    def value(queries, documents, scale, bias):
        return loss(queries, documents, labels, mask, scale=scale, bias=bias, **options, **inputs)

    assert float(value(queries, documents, *parameters)) == pytest.approx(total / 3)
    monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", 6)
    monkeypatch.setattr(tiles, "COLUMNS_PER_TILE", 3)
    assert float(value(queries, documents, *parameters)) == pytest.approx(total / 3)
    tensors = tuple(tensor.clone().requires_grad_() for tensor in (queries, documents, *parameters))
    assert torch.autograd.gradcheck(value, tensors, **PROJECTED)


def test_reads_and_options():
    assert SigLIP().inputs == ("similarity", "query_hashes", "document_hashes")
    assert SigLIP(temperature=None, bias=None, mask_duplicates=False).inputs == ("similarity", "scale", "bias")
    for options in ({"temperature": -1.0}, {"bias": math.nan}, {"in_batch": "some"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SigLIP(**options)
